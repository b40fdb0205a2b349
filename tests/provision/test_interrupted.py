"""A run that is killed by SIGKILL after any single change to the host: healed by the next, or taken back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from swarmbus.provision.carry_out import carry_out
from swarmbus.provision.journal import Journal
from swarmbus.provision.prepare import prepare
from swarmbus.provision.rollback import roll_back
from tests.provision.installing import LAYOUT, inspector
from tests.provision.machine import Machine, bare_debian
from tests.provision.sandbox import Sandbox, tree

CHECKOUT = Path(__file__).resolve().parents[2]
FLAGS = {"agent_id": "planner"}

# What only tells of runs, not of the host: a killed run and a whole one differ in it.
OF_THE_ENGINE = (".provision",)

# Forks a child for each kill point: starting an interpreter for each would take minutes.
_SWEEP = """
import os, sys
from pathlib import Path
from tests.provision.test_interrupted import install
from tests.provision.machine import Machine
from tests.provision.sandbox import Sandbox
for number, root in enumerate(sys.argv[1:], 1):
    child = os.fork()
    if child == 0:
        install(Sandbox(Path(root), Machine(), kill_at=number))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(root, os.WTERMSIG(status) if os.WIFSIGNALED(status) else f"ended {os.WEXITSTATUS(status)}")
"""


def install(system: Sandbox) -> None:
    """What is interrupted: an agent on a host that has never seen swarmbus."""
    outcome = carry_out(prepare(system, FLAGS, layout=LAYOUT, inspector=inspector()))
    assert not outcome.failed, outcome.error


def _bare(root: Path) -> Path:
    root.mkdir()
    bare_debian(Sandbox(root, Machine()))
    return root


@pytest.fixture(scope="module")
def kill_points(tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many single changes a whole run makes."""
    system = Sandbox(_bare(tmp_path_factory.mktemp("count") / "root"), Machine())
    install(system)
    return system.changes


def _killed_hosts(folder: Path, kill_points: int) -> list[Path]:
    """One host for each kill point, on which a run was killed there."""
    bare = _bare(folder / "bare")
    roots = [folder / f"{number:03}" for number in range(1, kill_points + 1)]
    for root in roots:
        shutil.copytree(bare, root, symlinks=True)
    swept = subprocess.run(
        [sys.executable, "-c", _SWEEP, *map(str, roots)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    told = dict(line.rsplit(" ", 1) for line in swept.stdout.splitlines())
    assert told == {str(root): "9" for root in roots}, swept.stderr
    return roots


def test_a_second_run_heals(tmp_path: Path, kill_points: int) -> None:
    whole = _bare(tmp_path / "whole")
    install(Sandbox(whole, Machine()))
    wanted = tree(whole, without=OF_THE_ENGINE)
    assert kill_points > 40
    for root in _killed_hosts(tmp_path, kill_points):
        install(Sandbox(root, Machine()))
        assert tree(root, without=OF_THE_ENGINE) == wanted, root
        third = prepare(Sandbox(root, Machine()), {}, layout=LAYOUT, inspector=inspector())
        assert not third.plan.changed, (root, third.plan.changes, third.plan.handlers)
        assert not third.resumed


def test_rollback_takes_back(tmp_path: Path, kill_points: int) -> None:
    bare = tree(_bare(tmp_path / "before"), without=OF_THE_ENGINE)
    for root in _killed_hosts(tmp_path, kill_points):
        system = Sandbox(root, Machine())
        outcome = roll_back(system, layout=LAYOUT, finished=True)
        assert outcome is None or outcome.rolled_back, (root, outcome.notes)
        left = tree(root, without=OF_THE_ENGINE)
        machine = json.loads(left.pop("machine.json", ("", "{}"))[1])
        assert not any(unit["active"] or unit["enabled"] for unit in machine.get("units", {}).values()), root
        assert machine.get("packages", []) == [], root
        assert _without_engine_folders(left) == _without_engine_folders(bare), root


def _without_engine_folders(found: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Without the way to the journal itself, apt's lists, and what logind leaves."""
    skip = ("home/pi/.local", "var/lib/apt/lists/", "run/user/", "var/lib/dpkg/status")
    return {name: value for name, value in found.items() if not name.startswith(skip)}


def test_a_killed_second_change_goes_back_to_the_first(tmp_path: Path) -> None:
    root = _bare(tmp_path / "root")
    install(Sandbox(root, Machine()))
    before = tree(root, without=OF_THE_ENGINE)
    number = 0
    while True:
        number += 1
        copy = tmp_path / f"copy{number}"
        shutil.copytree(root, copy)
        _run_killed(copy, number)
        if Journal(Sandbox(copy, Machine()), LAYOUT.provision).interrupted() is None:
            break  # it had ended
        roll_back(Sandbox(copy, Machine()), layout=LAYOUT)
        assert tree(copy, without=OF_THE_ENGINE) == before, number
    assert number > 15


_CHANGE = """
import sys
from pathlib import Path
from swarmbus.provision.journal import Journal
from swarmbus.provision.carry_out import carry_out
from swarmbus.provision.prepare import prepare
from tests.provision.installing import LAYOUT, inspector
from tests.provision.machine import Machine
from tests.provision.sandbox import Sandbox
system = Sandbox(Path(sys.argv[1]), Machine(), kill_at=int(sys.argv[2]))
carry_out(prepare(system, {"port": 1885}, layout=LAYOUT, inspector=inspector()))
"""


def _run_killed(root: Path, number: int) -> None:
    command = [sys.executable, "-c", _CHANGE, str(root), str(number)]
    assert subprocess.run(command, cwd=CHECKOUT, timeout=30, capture_output=True).returncode == -9
