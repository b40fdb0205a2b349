"""Background processes: real ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmbus.errors import CannotRun
from swarmbus.provision.handlers import Handler
from swarmbus.provision.local_system import LocalSystem
from swarmbus.provision.resources.process import Process


@pytest.fixture
def system() -> LocalSystem:
    return LocalSystem()


@pytest.fixture
def sleeper(tmp_path: Path, system: LocalSystem) -> Iterator[Process]:
    process = Process(
        group="broker", name="broker", argv=("/bin/sleep", "600"), env=(("A", "b"),), folder=tmp_path
    )
    yield process
    process.stop(system)


def _pid(process: Process, system: LocalSystem) -> int | None:
    seen = process.running(system)
    return seen.pid if seen else None


def test_it_runs_and_is_known_to_the_next_run(sleeper: Process, system: LocalSystem) -> None:
    state = sleeper.realise(system)
    assert state == sleeper.wanted(system)
    pid = _pid(sleeper, system)
    assert pid is not None
    assert b"A=b\0" in Path(f"/proc/{pid}/environ").read_bytes()
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"/bin/sleep\x00600\x00"
    again = Process.from_record("broker", json.loads(json.dumps(sleeper.record())))
    assert again.read(system) == state


def test_settings_of_the_callers_shell_are_not_handed_on(
    system: LocalSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARMBUS_BROKER", "elsewhere")
    monkeypatch.setenv("SWARMBUS_CONFIG", "/moved")
    monkeypatch.setenv("API_KEY", "of the wake command")
    process = Process(
        group="agent:a",
        name="agent.a",
        argv=("/bin/sleep", "600"),
        env=(("SWARMBUS_CONFIG", "/moved"),),
        folder=tmp_path,
    )
    process.realise(system)
    environ = Path(f"/proc/{_pid(process, system)}/environ").read_bytes().split(b"\0")
    process.stop(system)
    assert b"SWARMBUS_CONFIG=/moved" in environ
    assert b"API_KEY=of the wake command" in environ
    assert not [line for line in environ if line.startswith(b"SWARMBUS_BROKER")]


def test_undo_ends_it_and_its_records(sleeper: Process, system: LocalSystem, tmp_path: Path) -> None:
    before = sleeper.read(system)
    sleeper.realise(system)
    sleeper.undo(system, before, None)
    assert _pid(sleeper, system) is None
    assert list(tmp_path.iterdir()) == []


def test_a_handler_restarts_it(sleeper: Process, system: LocalSystem, tmp_path: Path) -> None:
    sleeper.realise(system)
    first = _pid(sleeper, system)
    Handler("process:restart:broker", tmp_path).run(system)
    assert _pid(sleeper, system) not in (None, first)


def test_a_pid_that_is_somebody_elses_now_is_not_ours(
    sleeper: Process, system: LocalSystem, tmp_path: Path
) -> None:
    sleeper.realise(system)
    boot, stat = (tmp_path / "broker.pid").read_text().splitlines()
    pid = _pid(sleeper, system)
    assert pid is not None
    ours = Path(f"/proc/{os.getpid()}/stat").read_text().strip()
    (tmp_path / "broker.pid").write_text(f"{boot}\n{stat.replace(str(pid), str(os.getpid()), 1)}\n")
    assert sleeper.running(system) is None, "another start time"
    (tmp_path / "broker.pid").write_text(f"an-earlier-boot\n{ours}\n")
    assert sleeper.running(system) is None, "before a reboot"
    os.kill(pid, signal.SIGKILL)


def test_one_that_does_not_stay_up_is_told_with_its_last_words(tmp_path: Path, system: LocalSystem) -> None:
    process = Process(
        group="broker", name="broker", argv=("/bin/sh", "-c", "echo port taken; exit 1"), folder=tmp_path
    )
    with pytest.raises(CannotRun, match="broker does not stay up: port taken"):
        process.realise(system)


_DIES_AFTER_THE_START = """
import os, signal, sys
from pathlib import Path
from swarmbus.provision.local_system import LocalSystem
from swarmbus.provision.resources.process import Process

class Dies(LocalSystem):
    def spawn(self, *arguments, **options):
        super().spawn(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

Process(group="broker", name="broker", argv=("/bin/sleep", "600"), folder=Path(sys.argv[1])).realise(Dies())
"""


def test_killed_right_after_the_start_it_is_known_all_the_same(
    sleeper: Process, system: LocalSystem, tmp_path: Path
) -> None:
    """The process writes its own record before it becomes the program."""
    died = subprocess.run([sys.executable, "-c", _DIES_AFTER_THE_START, str(tmp_path)])
    assert died.returncode == -signal.SIGKILL
    deadline = system.monotonic() + 10
    while sleeper.running(system) is None:
        assert system.monotonic() < deadline
        system.sleep(0.02)
    assert sleeper.read(system)["running"]
