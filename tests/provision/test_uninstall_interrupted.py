"""An uninstall that is killed by SIGKILL after any single change: finished by the next, or taken back."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swarmbus.provision.carry_out import carry_out
from swarmbus.provision.journal import Journal
from swarmbus.provision.prepare import prepare
from swarmbus.provision.rollback import roll_back
from swarmbus.provision.spec import load_kept
from swarmbus.provision.uninstall import prepare_uninstall
from tests.provision.installing import LAYOUT, inspector
from tests.provision.machine import Machine, bare_debian
from tests.provision.sandbox import Sandbox, tree

CHECKOUT = Path(__file__).resolve().parents[2]
CONFIG = '# mine\nusername = "pi"\n'
MAILBOX = LAYOUT.agent_dir("planner") / "mailbox.db"

# What dpkg, apt and logind leave, and what the sandbox's machine remembers.
_LEFT = ("machine.json", "var/lib/dpkg/status", "var/lib/apt/lists", "run/user")
_ENGINE = (".provision",)

# Folders above our own that are empty, where the kill came between manifest and folder.
_WAY = {"home/pi/.local", "home/pi/.local/state", "home/pi/.local/state/swarmbus"}

# Forks a child for each kill point: starting an interpreter for each would take minutes.
_SWEEP = """
import os, sys
from pathlib import Path
from tests.provision import test_uninstall_interrupted as here
from tests.provision.machine import Machine
from tests.provision.sandbox import Sandbox
run = getattr(here, sys.argv[1])
for number, root in enumerate(sys.argv[3:], 1):
    child = os.fork()
    if child == 0:
        run(Sandbox(Path(root), Machine(), kill_at=number), *sys.argv[2].split())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(root, os.WTERMSIG(status) if os.WIFSIGNALED(status) else f"ended {os.WEXITSTATUS(status)}")
"""


def init(system: Sandbox, *agents: str) -> None:
    """What comes before, and is interrupted too."""
    flags = {"agent_id": list(agents)}
    outcome = carry_out(prepare(system, flags, layout=LAYOUT, inspector=inspector()))
    assert not outcome.failed, outcome.error


def uninstall(system: Sandbox, *agents: str) -> None:
    """What is interrupted; without agents everything, with the messages."""
    everything = not agents
    what = prepare_uninstall(
        system, agents, everything=everything, purge=everything, layout=LAYOUT, inspector=inspector()
    )
    if what is not None:
        outcome = carry_out(what)
        assert not outcome.failed, outcome.error


def _bare(root: Path) -> Path:
    root.mkdir()
    system = Sandbox(root, Machine())
    bare_debian(system)
    for folder in (LAYOUT.config.parent.parent, LAYOUT.config.parent):
        system.make_dir(folder)
    system.write_file(LAYOUT.config, CONFIG.encode(), mode=0o644)
    return root


def _installed(root: Path, *agents: str) -> Path:
    system = Sandbox(root, Machine())
    init(system, *agents)
    system.write_file(MAILBOX, b"", mode=0o600)
    return root


def _state(root: Path, *more: str) -> dict[str, tuple[str, str]]:
    found = tree(root, without=(*_LEFT, *more))
    units = Machine().state(Sandbox(root, Machine()))["units"]
    alive = sorted((name, one["active"], one["enabled"]) for name, one in units.items())
    return {**found, "units": ("", str([one for one in alive if any(one[1:])]))}


def _swept(run: str, folder: Path, start: Path, *agents: str) -> list[Path]:
    """One host for each change that ``run`` makes to one like ``start``, on which it was killed there."""
    counted = folder / "counted"
    shutil.copytree(start, counted, symlinks=True)
    system = Sandbox(counted, Machine())
    {"init": init, "uninstall": uninstall}[run](system, *agents)
    roots = [folder / f"{number:03}" for number in range(1, system.changes + 1)]
    for root in roots:
        shutil.copytree(start, root, symlinks=True)
    swept = subprocess.run(
        [sys.executable, "-c", _SWEEP, run, " ".join(agents), *map(str, roots)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    told = dict(line.rsplit(" ", 1) for line in swept.stdout.splitlines())
    assert told == {str(root): "9" for root in roots}, swept.stderr
    return roots


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[Path]]]:
    """Makes the killed hosts of one kind once, and hands out copies."""
    folder = tmp_path_factory.mktemp("killed")
    made: dict[tuple[str, ...], list[Path]] = {}

    def copies(to: Path, *agents: str) -> list[Path]:
        if agents not in made:
            place = folder / f"of-{len(made)}"
            place.mkdir()
            others = ("coder",) if agents else ()
            installed = _installed(_bare(place / "installed"), "planner", *others)
            made[agents] = _swept("uninstall", place, installed, *agents)
        return [Path(shutil.copytree(root, to / root.name, symlinks=True)) for root in made[agents]]

    yield copies
    shutil.rmtree(folder)


def test_a_second_run_finishes_it(tmp_path: Path, hosts: Callable[..., list[Path]]) -> None:
    bare = _state(_bare(tmp_path / "bare"))
    killed = hosts(tmp_path)
    assert len(killed) > 40
    for root in killed:
        uninstall(Sandbox(root, Machine()))
        left = _state(root)
        assert {name: left[name] for name in left if name not in _WAY} == bare, root
        assert prepare_uninstall(Sandbox(root, Machine()), everything=True, layout=LAYOUT) is None, root
    clean = [root for root in killed if _state(root) == bare]
    assert len(clean) >= len(killed) - 4, "only a kill at the very end leaves empty folders"


def test_rollback_takes_it_back(tmp_path: Path, hosts: Callable[..., list[Path]]) -> None:
    installed = _state(_installed(_bare(tmp_path / "installed"), "planner"), *_ENGINE)
    bare = _state(_bare(tmp_path / "bare"))
    back = 0
    for root in hosts(tmp_path):
        system = Sandbox(root, Machine())
        outcome = roll_back(system, layout=LAYOUT)
        assert outcome is None or outcome.rolled_back, (root, outcome.notes)
        if Journal(system, LAYOUT.provision).last() is not None and load_kept(system, LAYOUT.provision):
            back += _state(root, *_ENGINE) == installed
        if _state(root, *_ENGINE) != installed:
            # It had ended but for the messages and our own files, and there was nothing to take back.
            assert outcome is None, (root, set(installed.items()) ^ set(_state(root, *_ENGINE).items()))
            uninstall(system)
            left = _state(root)
            assert {name: left[name] for name in left if name not in _WAY} == bare, root
            continue
        again = prepare(system, {}, layout=LAYOUT, inspector=inspector())
        assert not again.plan.changed, (root, [action.resource.id for action in again.plan.changes])
        assert [agent.id for agent in again.spec.agents] == ["planner"], root
        uninstall(Sandbox(root, Machine()))
        assert _state(root) == bare, root
    assert back > 30


def test_one_agent_is_finished_by_a_second_run_or_comes_back(
    tmp_path: Path, hosts: Callable[..., list[Path]]
) -> None:
    installed = _installed(_bare(tmp_path / "installed"), "planner", "coder")
    before = _state(installed, *_ENGINE)
    uninstall(Sandbox(installed, Machine()), "planner")
    after = _state(installed, *_ENGINE)
    (tmp_path / "again").mkdir()
    for root in hosts(tmp_path / "again", "planner"):
        system = Sandbox(root, Machine())
        if Journal(system, LAYOUT.provision).interrupted() is not None or _has_planner(system):
            uninstall(system, "planner")
        assert _state(root, *_ENGINE) == after, root
        third = prepare(Sandbox(root, Machine()), {}, layout=LAYOUT, inspector=inspector())
        assert not third.resumed, root
        assert ([agent.id for agent in third.spec.agents], third.plan.changed) == (["coder"], False), root
    (tmp_path / "back").mkdir()
    for root in hosts(tmp_path / "back", "planner"):
        system = Sandbox(root, Machine())
        outcome = roll_back(system, layout=LAYOUT)
        assert _state(root, *_ENGINE) in ((before, after) if outcome is None else (before,)), root
        third = prepare(Sandbox(root, Machine()), {}, layout=LAYOUT, inspector=inspector())
        assert not third.plan.changed, (root, third.plan.changes)
        assert (len(third.spec.agents) == 2) == (_state(root, *_ENGINE) == before), root


def _has_planner(system: Sandbox) -> bool:
    kept = load_kept(system, LAYOUT.provision)
    return kept is not None and "planner" in [agent.id for agent in kept.agents]


def test_a_killed_init_can_be_uninstalled(tmp_path: Path) -> None:
    bare = _bare(tmp_path / "bare")
    before = _state(bare)
    for root in _swept("init", tmp_path, bare, "planner"):
        uninstall(Sandbox(root, Machine()))
        left = _state(root)
        assert {name: left[name] for name in left if name not in _WAY} == before, root
