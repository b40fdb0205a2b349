from __future__ import annotations

import asyncio
import fcntl
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from swarmbus import FileBridgeHandler
from swarmbus.errors import StorageError
from swarmbus.inbox_file import TRAILER, inbox_entry, parse_entries
from swarmbus.journal_file import rotated, rotated_files
from tests.unit.message_samples import message


def ids(*paths: Path) -> list[str]:
    return [found.decode() for path in paths for found in TRAILER.findall(path.read_bytes())]


def handle(path: Path, *numbers: int) -> None:
    """As after a start: by a handler of its own."""

    async def run() -> None:
        handler = FileBridgeHandler(path)
        await handler.start()
        await handler.handle_many([message(number) for number in numbers])
        await handler.close()

    asyncio.run(run())


def test_messages_are_appended_in_order(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    handle(path, 1, 2)
    handle(path, 3)
    assert path.read_bytes() == b"".join(inbox_entry(message(number)) for number in (1, 2, 3))


def test_the_home_folder_is_expanded_and_what_is_missing_is_created(home: Path) -> None:
    handler = FileBridgeHandler("~/sync/deep/x.md")
    asyncio.run(handler.handle(message(1)))
    path = home / "sync" / "deep" / "x.md"
    assert handler.name == f"file-bridge:{path}"
    assert ids(path) == [message(1).id]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.parent.parent.stat().st_mode & 0o777 == 0o700


def test_a_message_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    handle(path, 1, 2, 3)
    handle(path, 2, 3, 4)
    assert ids(path) == [message(number).id for number in (1, 2, 3, 4)]


def test_a_message_that_comes_again_without_a_restart_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "x.md"

    async def run() -> None:
        handler = FileBridgeHandler(path)
        await handler.handle_many([message(1), message(2)])
        await handler.handle_many([message(1), message(2), message(3), message(3)])
        await handler.handle(message(3))

    asyncio.run(run())
    assert ids(path) == [message(number).id for number in (1, 2, 3)]


def test_a_message_in_a_rotated_file_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "x.md"

    async def run(*numbers: int) -> None:
        await FileBridgeHandler(path, max_bytes=1, keep=9).handle_many(
            [message(number) for number in numbers]
        )

    asyncio.run(run(1, 2, 3))
    asyncio.run(run(1, 2, 3, 4))
    assert ids(*reversed(rotated_files(path)), path) == [message(number).id for number in (1, 2, 3, 4)]


def test_the_memory_of_what_was_written_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    handler = FileBridgeHandler(path)

    async def run() -> None:
        for first in range(0, 5_000, 250):
            await handler.handle_many([message(number) for number in range(first, first + 250)])

    asyncio.run(run())
    assert len(ids(path)) == 5_000
    assert handler._at_the_end is not None
    assert len(handler._at_the_end) <= 1_024


def test_an_inbox_of_the_existing_tool_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    theirs = "\n## [2026-04-14 23:30] From: planner | hello\ntwo\nlines\n"
    path.write_text(theirs)
    handle(path, 1)
    assert path.read_text() == theirs + inbox_entry(message(1)).decode()
    assert [entry.id for entry in parse_entries(path.read_text())] == [None, message(1).id]


def test_an_inbox_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/x\.md") as caught:
        asyncio.run(FileBridgeHandler(tmp_path / "file" / "x.md").start())
    assert caught.value.hint


def test_after_a_failure_in_the_middle_the_next_attempt_writes_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    batch = [message(number) for number in (1, 2, 3)]

    async def run() -> None:
        handler = FileBridgeHandler(path, max_bytes=3 * len(inbox_entry(message(0))), keep=1)
        await handler.handle(message(0))
        in_the_way = rotated(path, 1)
        in_the_way.mkdir()
        with pytest.raises(StorageError, match="Is a directory"):
            await handler.handle_many(batch)
        assert len(ids(path)) == 3
        in_the_way.rmdir()
        await handler.handle_many(batch)

    asyncio.run(run())
    assert ids(rotated(path, 1), path) == [message(0).id, *(one.id for one in batch)]


def test_a_call_after_a_cancelled_one_waits_for_it_and_repeats_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    batch = [message(number) for number in range(5)]

    async def run() -> None:
        handler = FileBridgeHandler(path)
        await handler.start()
        with path.open("ab") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            first = asyncio.create_task(handler.handle_many(batch))
            await asyncio.sleep(0.05)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            second = asyncio.create_task(handler.handle_many(batch))
            await asyncio.sleep(0.05)
            assert not second.done()
        await second

    asyncio.run(run())
    assert ids(path) == [one.id for one in batch]


def test_the_event_loop_goes_on_while_the_disk_is_busy(tmp_path: Path) -> None:
    path = tmp_path / "x.md"

    async def run() -> int:
        handler = FileBridgeHandler(path)
        await handler.start()
        with path.open("ab") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            writing = asyncio.create_task(handler.handle(message(1)))
            turns = 0
            for _ in range(20):
                await asyncio.sleep(0.005)
                turns += 1
            assert not writing.done()
            fcntl.flock(other, fcntl.LOCK_UN)
        await writing
        return turns

    assert asyncio.run(run()) == 20
    assert ids(path) == [message(1).id]


# What a dispatcher does: messages from the mailbox after the cursor, the cursor moved when they are handled.
WRITER = """
import asyncio, os, sys
from datetime import UTC, datetime
from pathlib import Path
from swarmbus.envelope import AgentMessage
from swarmbus.handlers import FileBridgeHandler

path, cursor, total, batch = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])

def message(number):
    return AgentMessage(
        id=f"m-{number}", from_agent="planner", to="coder", ts=datetime(2026, 4, 14, 5, tzinfo=UTC),
        subject=f"number {number}", body=f"{number}\\n\\n## [x] {number}\\n" * (1 + number * 97 % 700))

async def main():
    handler = FileBridgeHandler(path, max_bytes=400_000, keep=10_000)
    await handler.start()
    done = int(cursor.read_text()) if cursor.exists() else 0
    print("ready", flush=True)
    while done < total:
        await handler.handle_many([message(number) for number in range(done, min(done + batch, total))])
        done = min(done + batch, total)
        temporary = cursor.with_name("new")
        temporary.write_text(str(done))
        temporary.replace(cursor)

asyncio.run(main())
"""


@pytest.mark.parametrize("batch", [1, 64])
def test_every_message_is_there_once_however_often_the_writer_is_killed(tmp_path: Path, batch: int) -> None:
    path, cursor = tmp_path / "x.md", tmp_path / "cursor"
    total = 800 if batch == 1 else 4_000  # more than the fastest disk takes in three lives
    command = [sys.executable, "-c", WRITER, str(path), str(cursor), str(total), str(batch)]
    chance = random.Random(batch)
    kills = 0
    while True:
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            with suppress(subprocess.TimeoutExpired):
                writer.wait(chance.uniform(0, 0.06) if kills < 12 else 60)
            writer.send_signal(signal.SIGKILL)
        if writer.returncode == 0:
            break
        kills += 1
    parts = [*reversed(rotated_files(path)), path]
    assert kills >= 3
    assert Counter(ids(*parts)) == Counter(f"m-{number}" for number in range(total))
    assert ids(*parts) == [f"m-{number}" for number in range(total)], "and in order"
    entries = [entry for part in parts for entry in parse_entries(part.read_text())]
    assert [entry.body for entry in entries] == [
        f"{number}\n\n## [x] {number}\n" * (1 + number * 97 % 700) for number in range(total)
    ]


@pytest.mark.parametrize("step", [1, 7, 100])
def test_every_message_is_there_once_wherever_the_writer_was_cut(tmp_path: Path, step: int) -> None:
    """SIGKILL in the middle of a write is rare: here the file is cut as it would leave it, at every place."""
    batch = [message(number, body=f"{number}\n\n## [x] {number}\n" * number) for number in range(1, 5)]
    whole = b"".join(inbox_entry(one) for one in batch)
    path = tmp_path / "x.md"
    before = inbox_entry(message(0))

    async def recover() -> None:
        for length in range(0, len(whole) + 1, step):
            path.write_bytes(before + whole[:length])
            handler = FileBridgeHandler(path)
            if step == 1:
                await handler.handle_many(batch)
            else:  # after a failure the dispatcher may give them one by one
                for one in batch:
                    await handler.handle(one)
            assert path.read_bytes() == before + whole, f"cut after {length} bytes"

    asyncio.run(recover())


def test_many_small_messages_cost_little(tmp_path: Path) -> None:
    handler = FileBridgeHandler(tmp_path / "x.md")
    costs = []

    async def run() -> None:
        for first in range(0, 256 * 10, 256):
            batch = [message(number) for number in range(first, first + 256)]
            before = time.process_time_ns()
            await handler.handle_many(batch)
            costs.append((time.process_time_ns() - before) / 256 / 1000)

    asyncio.run(run())
    assert (
        min(costs) < 60
    )  # some 6 µs on a laptop; the bound is for the slowest Raspberry Pi, and for a busy one
