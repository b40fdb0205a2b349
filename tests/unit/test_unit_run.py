"""Wakes in units, with a stand-in for systemd-run that only starts the program."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from swarmbus.handlers.runs import Command, Ended
from swarmbus.handlers.unit_main import JOURNAL_BYTES, KEPT_BYTES
from swarmbus.handlers.unit_run import Limits, UnitRunner, best_runner, why_no_units

STARTS = f"""#!{sys.executable}
import os, subprocess, sys
with open(os.environ["ARGV_SEEN"], "a") as seen:
    print(*sys.argv, file=seen)
program = sys.argv[sys.argv.index("--") + 1 :]
subprocess.Popen(program, start_new_session=True, stdin=subprocess.DEVNULL,
                 stdout=open(os.environ["JOURNAL"], "ab"), stderr=subprocess.STDOUT)
"""
REFUSES = "#!/bin/sh\necho Failed to connect to bus >&2\nexit 1\n"


class Programs:
    """What stands in for systemd's programs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.argv_seen = folder / "argv"
        self.journal = folder / "journal"

    def systemd_run(self, text: str) -> None:
        program = self.folder / "systemd-run"
        program.write_text(text)
        program.chmod(0o700)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    folder = tmp_path / "programs"
    folder.mkdir()
    programs = Programs(folder)
    programs.systemd_run(STARTS)
    (folder / "systemctl").write_text("#!/bin/sh\n")
    (folder / "systemctl").chmod(0o700)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("ARGV_SEEN", str(programs.argv_seen))
    monkeypatch.setenv("JOURNAL", str(programs.journal))
    return programs


@pytest.fixture
def runner(tmp_path: Path, programs: Programs) -> UnitRunner:
    return UnitRunner("coder", tmp_path / "wake", Limits(memory_mb=100, tasks=50))


def sh(script: str, *, id: str = "m-1", body: str = "", seconds: float = 20) -> Command:  # noqa: A002
    variables = {"PATH": os.environ["PATH"], "SECRET": "for-the-wake-only"}
    return Command(id, ["sh", "-c", script], variables, body.encode(), seconds)


def ended(runner: UnitRunner, command: Command) -> Ended:
    return asyncio.run(runner.run(command))


def wait_for(path: Path) -> str:
    end = time.monotonic() + 20
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end, f"{path} was not written"
        time.sleep(0.02)
    return path.read_text()


def test_the_command_gets_body_and_environment_and_its_end_comes_back(
    runner: UnitRunner, tmp_path: Path
) -> None:
    script = f"cat > {tmp_path}/body; echo $SECRET > {tmp_path}/secret; echo oh no >&2; exit 7"
    body = "é" * 500_000
    result = ended(runner, sh(script, body=body))
    assert (result.status, result.output, result.cut_off) == (7, "oh no", None)
    assert (tmp_path / "body").read_text() == body
    assert (tmp_path / "secret").read_text() == "for-the-wake-only\n"


def test_no_command_line_shows_message_or_environment(runner: UnitRunner, programs: Programs) -> None:
    ended(runner, sh("true", body="between us"))
    (argv,) = programs.argv_seen.read_text().splitlines()
    assert "between us" not in argv
    assert "for-the-wake-only" not in argv
    assert "--property=RuntimeMaxSec=20" in argv
    assert "--property=MemoryMax=100M" in argv
    assert "--property=TasksMax=50" in argv


def test_nothing_of_a_message_stays_in_the_folder(runner: UnitRunner, tmp_path: Path) -> None:
    ended(runner, sh("cat", body="between us"))
    assert [path.name for path in (tmp_path / "wake").iterdir()] == ["alive"]


def test_a_signal_comes_back_as_one(runner: UnitRunner) -> None:
    assert ended(runner, sh("kill -SEGV $$")).status == -signal.SIGSEGV


def test_a_command_that_cannot_be_run_says_why(runner: UnitRunner) -> None:
    result = ended(runner, Command("m-1", ["/no/such/program"], {}, b"", 20))
    assert result.cannot_start == "No such file or directory"


def test_megabytes_are_not_held_up_and_the_journal_gets_the_beginning(
    runner: UnitRunner, programs: Programs
) -> None:
    result = ended(runner, sh("head -c 30000000 /dev/zero | tr '\\0' x; echo end"))
    assert result.status == 0
    assert result.output.endswith("xend")
    assert len(result.output) == KEPT_BYTES - 1
    journal = programs.journal.read_text()
    assert len(journal) < JOURNAL_BYTES + 70_000
    assert journal.endswith("(swarmbus: what else it wrote is not in the journal)\n")


def test_what_is_left_in_the_background_is_not_waited_for(runner: UnitRunner, tmp_path: Path) -> None:
    before = time.monotonic()
    assert ended(runner, sh(f"sleep 60 & echo $! > {tmp_path}/pid")).status == 0
    assert time.monotonic() - before < 20
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_a_run_outlives_its_listener_and_the_next_one_takes_its_result(
    runner: UnitRunner, tmp_path: Path
) -> None:
    script = f"echo begun >> {tmp_path}/begun; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; exit 4"

    async def cut_off() -> None:
        task = asyncio.create_task(runner.run(sh(script)))
        await asyncio.to_thread(wait_for, tmp_path / "begun")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cut_off())

    async def take_up() -> Ended:
        task = asyncio.create_task(runner.run(sh(script)))
        await asyncio.sleep(0.3)
        assert not task.done()
        (tmp_path / "go").touch()
        return await task

    assert asyncio.run(take_up()).status == 4
    assert (tmp_path / "begun").read_text() == "begun\n"


def test_a_result_that_came_while_no_listener_ran_is_taken(runner: UnitRunner, tmp_path: Path) -> None:
    script = f"echo begun >> {tmp_path}/begun; sleep 0.3; exit 4"

    async def cut_off() -> None:
        task = asyncio.create_task(runner.run(sh(script)))
        await asyncio.to_thread(wait_for, tmp_path / "begun")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(cut_off())
    wait_for(tmp_path / "wake" / "result.json")
    assert ended(runner, sh(script)).status == 4
    assert (tmp_path / "begun").read_text() == "begun\n"


def test_the_result_of_another_message_is_not_taken_for_ours(runner: UnitRunner, tmp_path: Path) -> None:
    async def cut_off() -> None:
        task = asyncio.create_task(runner.run(sh(f"echo > {tmp_path}/begun; sleep 0.5; exit 4", id="m-1")))
        await asyncio.to_thread(wait_for, tmp_path / "begun")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(cut_off())
    began = time.monotonic()
    assert ended(runner, sh("exit 5", id="m-2")).status == 5
    assert time.monotonic() - began > 0.2, "two wakes ran at once"


def test_sigterm_from_outside_is_told_as_such(runner: UnitRunner, tmp_path: Path) -> None:
    script = f"echo $PPID > {tmp_path}/main; sleep 0.5"

    async def run() -> Ended:
        task = asyncio.create_task(runner.run(sh(script)))
        os.kill(int(await asyncio.to_thread(wait_for, tmp_path / "main")), signal.SIGTERM)
        return await task

    result = asyncio.run(run())
    assert (result.status, result.cut_off) == (None, "stopped")


def test_a_main_process_that_was_killed_is_noticed(runner: UnitRunner, tmp_path: Path) -> None:
    async def run() -> Ended:
        task = asyncio.create_task(runner.run(sh(f"echo $PPID > {tmp_path}/main; exec sleep 5")))
        os.kill(int(await asyncio.to_thread(wait_for, tmp_path / "main")), signal.SIGKILL)
        return await task

    assert asyncio.run(run()).cut_off == "lost"


def test_without_a_bus_the_wake_is_a_child_process_and_the_log_says_so(
    runner: UnitRunner, programs: Programs, caplog: pytest.LogCaptureFixture
) -> None:
    programs.systemd_run(REFUSES)
    result = ended(runner, sh("echo $SECRET; exit 3"))
    assert (result.status, result.output, result.unit) == (3, "for-the-wake-only", None)
    assert "Failed to connect to bus" in caplog.text


def test_without_a_user_manager_wakes_are_child_processes(
    tmp_path: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert "no user manager answers" in str(why_no_units())
    assert not best_runner("coder", tmp_path, Limits()).outlives_us


def test_a_rehearsal_runs_beside_a_wake_and_leaves_nothing(runner: UnitRunner, tmp_path: Path) -> None:
    async def run() -> tuple[Ended, Ended]:
        wake = asyncio.create_task(runner.run(sh(f"touch {tmp_path}/begun; sleep 1; exit 4")))
        while not (tmp_path / "begun").exists():
            await asyncio.sleep(0.02)
        rehearsed = await runner.rehearse(sh("echo $SECRET; exit 3", id="canary"))
        assert not wake.done()
        return rehearsed, await wake

    rehearsed, woken = asyncio.run(run())
    assert (rehearsed.status, rehearsed.output, woken.status) == (3, "for-the-wake-only", 4)
    assert str(rehearsed.unit).startswith("swarmbus-wake-coder-")
    assert not (tmp_path / "wake-canary").exists()


def test_a_rehearsal_takes_nobodys_result(runner: UnitRunner, tmp_path: Path) -> None:
    async def run() -> Ended:
        wake = asyncio.create_task(runner.run(sh(f"echo run >> {tmp_path}/runs; sleep 0.5; exit 4")))
        await asyncio.to_thread(wait_for, tmp_path / "runs")
        wake.cancel()  # the listener ends
        await asyncio.to_thread(wait_for, tmp_path / "wake" / "result.json")
        await runner.rehearse(sh("true", id="canary"))
        return await runner.run(sh("exit 5"))

    assert asyncio.run(run()).status == 4
    assert (tmp_path / "runs").read_text() == "run\n"


def test_a_unit_that_is_refused_is_told_by_its_rehearsal(runner: UnitRunner, programs: Programs) -> None:
    programs.systemd_run(REFUSES)
    result = asyncio.run(runner.rehearse(sh("true")))
    assert (result.status, result.unit) == (0, None)
    assert "Failed to connect to bus" in str(result.refused)
