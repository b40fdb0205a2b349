"""One holder of an agent's session on a host: who waits for whom, and who gives way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmbus.errors import ListenerRunning, StorageError
from swarmbus.lock import ReaderStays, lock_holder, session_lock
from tests.lab.loop import in_loop, until

HOLDER = """
import asyncio, sys
from pathlib import Path
from swarmbus.lock import session_lock

async def main():
    async with session_lock(Path(sys.argv[1]), "coder", sys.argv[2]):
        print("mine", flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "coder" / "listener.lock"


@contextlib.contextmanager
def held(path: Path, role: str) -> Iterator[subprocess.Popen[str]]:
    """Another process has it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), role], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@in_loop
async def test_second_listener_is_refused_at_once_with_the_pid_of_the_first(path: Path) -> None:
    loop = asyncio.get_running_loop()
    with held(path, "listener") as holder:
        began = loop.time()
        for role in ("listener", "reader"):
            with pytest.raises(ListenerRunning, match=f"pid {holder.pid}") as refusal:
                async with session_lock(path, "coder", role):
                    pass
            assert refusal.value.pid == holder.pid
        assert loop.time() - began < 1
        assert lock_holder(path) == (holder.pid, "listener")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@in_loop
async def test_holder_that_ends_however_leaves_it_free(path: Path, how: signal.Signals) -> None:
    with held(path, "listener") as holder:
        holder.send_signal(how)
        holder.wait()
    assert lock_holder(path) is None
    async with session_lock(path, "coder", "listener"):
        assert lock_holder(path) == (os.getpid(), "listener")
    assert lock_holder(path) is None


@in_loop
async def test_reader_that_drains_is_waited_for(path: Path) -> None:
    events: list[str] = []

    async def take(role: str, seconds: float) -> None:
        async with session_lock(path, "coder", role):  # type: ignore[arg-type]
            events.append(f"{role} begins")
            await asyncio.sleep(seconds)
            events.append(f"{role} ends")

    first = asyncio.create_task(take("reader", 0.3))
    await until(lambda: bool(events))
    await asyncio.gather(first, take("reader", 0.05), take("listener", 0.4))
    assert sorted(events) == [
        "listener begins",
        "listener ends",
        *["reader begins"] * 2,
        *["reader ends"] * 2,
    ]
    for begin, end in zip(events[::2], events[1::2], strict=True):
        assert begin.replace("begins", "ends") == end, "two at once"


@in_loop
async def test_reader_finds_another_that_stays(path: Path) -> None:
    async with session_lock(path, "coder", "reader") as lock:
        lock.say("staying")
        with pytest.raises(ReaderStays):
            async with session_lock(path, "coder", "reader"):
                pass
        assert not lock.is_wanted()


@in_loop
async def test_reader_that_stays_learns_that_a_listener_waits(path: Path) -> None:
    got: list[str] = []

    async def listener() -> None:
        async with session_lock(path, "coder", "listener"):
            got.append("listener")

    async with session_lock(path, "coder", "reader") as lock:
        lock.say("staying")
        waiting = asyncio.create_task(listener())
        await until(lock.is_wanted)
        assert got == []
    await waiting
    assert got == ["listener"]
    async with session_lock(path, "coder", "reader") as lock:
        assert not lock.is_wanted()


@in_loop
async def test_what_a_killed_listener_wrote_is_not_taken_for_its_successor(path: Path) -> None:
    """The new holder has locked the file and not yet written into it."""
    path.parent.mkdir()
    path.write_text(json.dumps({"pid": 1, "role": "listener"}))

    async def peep() -> None:
        while True:
            lock_holder(path)  # as doctor does; holds a shared lock for an instant
            await asyncio.sleep(0)

    peeping = asyncio.create_task(peep())
    for _ in range(20):
        async with session_lock(path, "coder", "listener"):
            await asyncio.sleep(0)
        path.write_text(json.dumps({"pid": 1, "role": "listener"}))
    peeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await peeping


@in_loop
async def test_lock_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"listener\.lock"):
        async with session_lock(tmp_path / "file" / "listener.lock", "coder", "reader"):
            pass
    assert lock_holder(tmp_path / "missing") is None
