"""Group commit: together where it can be, each by itself where one is bad, and never promised too early."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest

from swarmbus.commits import GroupCommit
from swarmbus.errors import StorageError
from swarmbus.mailbox import Mailbox
from tests.lab.loop import in_loop, until
from tests.unit.message_samples import message


@contextlib.asynccontextmanager
async def committing(path: Path) -> AsyncIterator[tuple[Mailbox, GroupCommit]]:
    with Mailbox.open(path / "mailbox.db") as mailbox:
        commits = GroupCommit(mailbox)
        try:
            yield mailbox, commits
        finally:
            await commits.close()


def store(mailbox: Mailbox, number: int) -> Callable[[], str]:
    return lambda: mailbox.inbound.store([message(number)], 1.0)[0]


@in_loop
async def test_works_of_one_turn_are_one_transaction(tmp_path: Path) -> None:
    async with committing(tmp_path) as (mailbox, commits), asyncio.timeout(10):
        with Mailbox.open(tmp_path / "mailbox.db") as onlooker:
            seen: list[int] = []

            def look() -> None:
                seen.append(onlooker.inbound.last_seq())

            futures = []
            for number in range(100):
                futures.append(commits.add(store(mailbox, number)))
                futures[-1].add_done_callback(lambda _: look())
            assert await asyncio.gather(*futures) == ["new"] * 100
        assert set(seen) == {100}


@in_loop
async def test_bad_work_spoils_no_other(tmp_path: Path) -> None:
    def bad() -> None:
        mailbox.inbound.store([message(99)], 1.0)
        raise RuntimeError("half done")

    async with committing(tmp_path) as (mailbox, commits):
        works = [store(mailbox, 1), bad, store(mailbox, 2)]
        results = await asyncio.gather(*(commits.add(work) for work in works), return_exceptions=True)
        assert [str(result) for result in results] == ["new", "half done", "new"]
        assert [stored.id for stored in mailbox.inbound.after(0, 10)] == [message(1).id, message(2).id]


@in_loop
async def test_what_follows_is_called_after_the_commit_and_before_the_disk(tmp_path: Path) -> None:
    events: list[str] = []
    async with committing(tmp_path) as (mailbox, commits):
        with Mailbox.open(tmp_path / "mailbox.db") as onlooker:

            def follow(outcome: str) -> None:
                events.append(f"{outcome}, {onlooker.inbound.last_seq()} seen by others")

            future = commits.add(store(mailbox, 1), then=follow)
            future.add_done_callback(lambda _: events.append("on the disk"))
            await future
            await asyncio.sleep(0)
    assert events == ["new, 1 seen by others", "on the disk"]


@in_loop
async def test_note_is_written_without_anybody_waiting(tmp_path: Path) -> None:
    async with committing(tmp_path) as (mailbox, commits):
        commits.note(store(mailbox, 1))
        await until(lambda: mailbox.inbound.last_seq() == 1)


@in_loop
async def test_note_that_cannot_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def bad() -> None:
        raise StorageError("no room")

    async with committing(tmp_path) as (mailbox, commits):
        commits.note(bad)
        commits.note(store(mailbox, 1))
        await until(lambda: mailbox.inbound.last_seq() == 1)
    assert "no room" in caplog.text


@in_loop
async def test_close_writes_what_waits(tmp_path: Path) -> None:
    async with committing(tmp_path) as (mailbox, commits):
        future = commits.add(store(mailbox, 1))
        commits.note(store(mailbox, 2))
    assert future.done()
    with Mailbox.open(tmp_path / "mailbox.db") as mailbox:
        assert mailbox.inbound.last_seq() == 2


@in_loop
async def test_work_whose_owner_was_cancelled_is_done_all_the_same(tmp_path: Path) -> None:
    async with committing(tmp_path) as (mailbox, commits):
        cancelled = commits.add(store(mailbox, 1))
        other = commits.add(store(mailbox, 2))
        cancelled.cancel()
        assert await other == "new"
        assert mailbox.inbound.last_seq() == 2


@in_loop
async def test_work_may_add_work(tmp_path: Path) -> None:
    async with committing(tmp_path) as (mailbox, commits):
        inner: list[asyncio.Future[str]] = []
        await commits.add(lambda: inner.append(commits.add(store(mailbox, 1))))
        assert await inner[0] == "new"


PROMISES = """
import asyncio, sys
from functools import partial
from pathlib import Path
from swarmbus.commits import GroupCommit
from swarmbus.mailbox import Mailbox
from tests.unit.message_samples import message

async def main():
    with Mailbox.open(Path(sys.argv[1]) / "mailbox.db") as mailbox:
        commits = GroupCommit(mailbox)
        for start in range(0, 1_000_000, 7):
            works = [partial(mailbox.inbound.store, [message(start + n)], 1.0) for n in range(7)]
            await asyncio.gather(*(commits.add(work) for work in works))
            print(start + 6, flush=True)

asyncio.run(main())
"""


def test_what_was_promised_outlives_a_kill(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    writer = subprocess.Popen(
        [sys.executable, "-c", PROMISES, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    with writer.stdout as printed:
        last = next(number for number in map(int, printed) if number > 300)
        writer.kill()
        last = max([last, *(int(line) for line in printed if line.endswith("\n"))])
    writer.wait()
    with Mailbox.open(tmp_path / "mailbox.db") as mailbox:
        assert mailbox.inbound.get(message(last).id) is not None
        assert mailbox.inbound.last_seq() >= last + 1


@in_loop
async def test_many_groups_keep_their_order(tmp_path: Path) -> None:
    done: list[int] = []
    async with committing(tmp_path) as (mailbox, commits):
        futures = []
        for number in range(300):
            future = commits.add(store(mailbox, number))
            future.add_done_callback(partial(lambda number, _: done.append(number), number))
            futures.append(future)
            if number % 10 == 0:
                await asyncio.sleep(0)
        await asyncio.gather(*futures)
        ids = [stored.id for stored in mailbox.inbound.after(0, 1_000)]
    assert done == list(range(300))
    assert ids == [message(number).id for number in range(300)]
