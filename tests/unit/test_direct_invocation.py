from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from swarmbus import DirectInvocationHandler
from swarmbus.errors import UsageError
from swarmbus.handlers import InvocationFailed
from swarmbus.handlers.unit_main import KEPT_BYTES
from tests.unit.message_samples import message

SHOW = """
import json, os, sys
shown = [item for item in os.environ.items() if item[0].startswith("SWARMBUS_") and "_TEST_" not in item[0]]
body = sys.stdin.buffer.read().decode()
json.dump({"fields": dict(shown), "body": body, "argv": sys.argv[2:]}, open(sys.argv[1], "w"))
"""


def python(script: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", script, *map(str, arguments)]


def seen_by_the_command(tmp_path: Path, **fields: Any) -> tuple[dict[str, str], str]:
    seen = tmp_path / "seen.json"
    asyncio.run(DirectInvocationHandler(python(SHOW, seen)).handle(message(1, **fields)))
    shown = json.loads(seen.read_text())
    return shown["fields"], shown["body"]


def failure_of(cmd: str | list[str], *, timeout: float = 20, body: str = "") -> InvocationFailed:
    with pytest.raises(InvocationFailed) as caught:
        asyncio.run(DirectInvocationHandler(cmd, timeout=timeout).handle(message(1, body=body)))
    return caught.value


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


def have_ended(pids: Path) -> bool:
    """Whether all of them are gone, within the time that the kernel takes to carry out a SIGKILL."""
    for _ in range(100):
        if not any(is_running(int(pid)) for pid in pids.read_text().split()):
            return True
        time.sleep(0.01)
    return False


def wait_for_text(path: Path) -> str:
    for _ in range(500):
        if path.exists() and path.read_text().endswith("\n"):
            return path.read_text()
        time.sleep(0.01)
    raise AssertionError(f"{path} was not written")


def test_the_command_gets_the_body_and_the_fields(tmp_path: Path) -> None:
    fields, body = seen_by_the_command(
        tmp_path, subject="hi there", body="é\n$(x)\n", priority="high", reply_to="boss"
    )
    assert body == "é\n$(x)\n"
    assert fields == {
        "SWARMBUS_FROM": "planner",
        "SWARMBUS_TO": "coder",
        "SWARMBUS_ID": message(1).id,
        "SWARMBUS_SUBJECT": "hi there",
        "SWARMBUS_CONTENT_TYPE": "text/plain",
        "SWARMBUS_PRIORITY": "high",
        "SWARMBUS_TS": "2026-04-14T05:00:59+00:00",
        "SWARMBUS_REPLY_TO": "boss",
        "SWARMBUS_VERIFIED": "no",
        "SWARMBUS_HOPS": "0",
        "SWARMBUS_THREAD": message(1).id,
    }


def test_a_thread_is_told_and_a_foreign_reply_to_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARMBUS_REPLY_TO", "someone")
    monkeypatch.setenv("SWARMBUS_WAKE_POLICY", "all")
    fields, _ = seen_by_the_command(tmp_path, in_reply_to="m-1")
    assert fields["SWARMBUS_IN_REPLY_TO"] == "m-1"
    assert fields["SWARMBUS_WAKE_POLICY"] == "all"
    assert "SWARMBUS_REPLY_TO" not in fields


def test_control_characters_in_a_field_stay_in_their_field(tmp_path: Path) -> None:
    fields, _ = seen_by_the_command(
        tmp_path, subject="a\0b\nSWARMBUS_FROM=boss\x1b[2J", id="x\ny\0", priority="high\nx=1"
    )
    assert fields["SWARMBUS_SUBJECT"] == r"a\x00b\nSWARMBUS_FROM=boss\x1b[2J"
    assert fields["SWARMBUS_ID"] == r"x\ny\x00"
    assert fields["SWARMBUS_PRIORITY"] == r"high\nx=1"
    assert fields["SWARMBUS_FROM"] == "planner"


def test_a_string_is_split_as_by_a_shell_but_no_shell_runs_it(tmp_path: Path, home: Path) -> None:
    script = home / "wake.py"
    script.write_text(f"#!{sys.executable}\n{SHOW}")
    script.chmod(0o700)
    seen = tmp_path / "seen.json"
    asyncio.run(DirectInvocationHandler(f"~/wake.py {seen} 'two words' $HOME ; *").handle(message(1)))
    assert json.loads(seen.read_text())["argv"] == ["two words", "$HOME", ";", "*"]


@pytest.mark.parametrize("cmd", ["", "  ", [], [""], "'unclosed"])
def test_no_command_is_a_usage_error(cmd: str | list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        DirectInvocationHandler(cmd)
    assert caught.value.hint


@pytest.mark.parametrize("size", [0, 65_536, 1_000_000])
def test_a_command_that_reads_nothing_is_fine(size: int) -> None:
    handler = DirectInvocationHandler(["true"])
    asyncio.run(handler.handle(message(1, body="x" * size)))


def test_a_body_larger_than_a_pipe_arrives_whole(tmp_path: Path) -> None:
    count = tmp_path / "count"
    script = (
        "import sys, time; time.sleep(0.1); print(len(sys.stdin.buffer.read()), file=open(sys.argv[1], 'w'))"
    )
    body = "x" * 3_000_000
    handler = DirectInvocationHandler(python(script, count))
    asyncio.run(handler.handle(message(1, body=body)))
    assert int(count.read_text()) == len(body)


def test_a_failure_tells_status_and_the_end_of_standard_error() -> None:
    error = failure_of(["sh", "-c", "echo out; echo first >&2; echo 'no \033[31mgateway' >&2; exit 3"])
    assert error.status == 3
    assert error.output == "first\nno \\x1b[31mgateway"
    assert error.message.endswith(r"exited 3: no \x1b[31mgateway")


def test_a_failure_without_standard_error_tells_the_end_of_standard_output() -> None:
    assert failure_of(["sh", "-c", "echo why; exit 1"]).output == "why"


def test_a_command_ended_by_a_signal_says_which() -> None:
    error = failure_of(["sh", "-c", "kill -SEGV $$"])
    assert error.status == -11
    assert "SIGSEGV" in error.message


def test_a_command_that_prints_megabytes_is_not_held_up_and_only_the_end_is_kept() -> None:
    script = "import sys\nfor f in (sys.stdout, sys.stderr):\n f.write('x' * 30_000_000 + 'end')\nsys.exit(1)"
    error = failure_of(python(script))
    assert error.output.endswith("xend")
    assert len(error.output) == KEPT_BYTES


@pytest.mark.parametrize("kind", ["missing", "not executable", "folder", "no interpreter", "not a program"])
def test_a_command_that_cannot_be_run_says_so(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "wake.sh"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_text("#!/no/such/interpreter\n" if kind == "no interpreter" else "garbage")
        path.chmod(0o600 if kind == "not executable" else 0o700)
    error = failure_of([str(path)])
    assert error.status is None
    assert error.message.startswith(f"cannot run {path}: ")
    assert error.hint


def test_a_command_that_takes_too_long_is_ended_with_all_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    before = time.monotonic()
    error = failure_of(["sh", "-c", f"sleep 60 & echo $$ $! > {pids}; echo waiting >&2; wait"], timeout=0.3)
    assert 0.3 <= time.monotonic() - before < 4
    assert "took longer than 0.3 s" in error.message
    assert error.message.endswith(": waiting")
    assert have_ended(pids)


def test_a_command_that_ignores_sigterm_is_killed_after_a_grace_time(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    before = time.monotonic()
    # The first process ends at once; the one it started does not.
    script = f"(trap '' TERM; while :; do sleep 0.1; done) & echo $$ $! > {pids}; wait"
    failure_of(["sh", "-c", script], timeout=0.2)
    assert 5 <= time.monotonic() - before < 8
    assert have_ended(pids)


def test_cancellation_ends_the_command(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    async def run() -> None:
        handler = DirectInvocationHandler(["sh", "-c", f"sleep 60 & echo $$ $! > {pids}; wait"])
        task = asyncio.create_task(handler.handle(message(1)))
        await asyncio.to_thread(wait_for_text, pids)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert have_ended(pids)


def test_a_second_cancellation_does_not_wait_for_the_grace_time(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    async def run() -> float:
        script = f"trap '' TERM; echo $$ > {pids}; while :; do sleep 0.1; done"
        task = asyncio.create_task(DirectInvocationHandler(["sh", "-c", script]).handle(message(1)))
        await asyncio.to_thread(wait_for_text, pids)
        before = time.monotonic()
        task.cancel()
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - before

    assert asyncio.run(run()) < 3
    assert have_ended(pids)


def test_what_a_command_leaves_in_the_background_is_left_alone_and_not_waited_for(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    before = time.monotonic()
    handler = DirectInvocationHandler(["sh", "-c", f"sleep 60 & echo $! > {pids}"])
    asyncio.run(handler.handle(message(1)))
    assert time.monotonic() - before < 5
    pid = int(pids.read_text())
    assert is_running(pid)
    os.kill(pid, 9)


def test_no_file_descriptor_is_left_open() -> None:
    async def run() -> None:
        for _ in range(3):
            await DirectInvocationHandler(["true"]).handle(message(1))
            with pytest.raises(InvocationFailed):
                await DirectInvocationHandler(["/no/such/program"]).handle(message(1))
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            await DirectInvocationHandler(["true"]).handle(message(1))
            with pytest.raises(InvocationFailed):
                await DirectInvocationHandler(["/no/such/program"]).handle(message(1))
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    asyncio.run(run())
