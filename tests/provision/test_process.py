"""Background processes: real ones."""

from __future__ import annotations

import json
import os
import signal
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


def test_killed_between_start_and_record_it_is_still_known(
    sleeper: Process, system: LocalSystem, tmp_path: Path
) -> None:
    """The process writes its own record before it becomes the program."""
    sleeper.realise(system)
    assert (tmp_path / "broker.pid").stat().st_mtime <= Path(f"/proc/{_pid(sleeper, system)}").stat().st_mtime
