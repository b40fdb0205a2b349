"""Group commit: writes that come together become one transaction, and then one fsync.

A commit is seen by other processes, and outlives this one, as soon as it is made; it outlives a power cut
when it is on the disk. Only the second is slow. So what follows from a commit may begin at once (`then`),
what is a promise to somebody else waits for the disk (the future), and while the disk is at work the next
group gathers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, TypeVar

from swarmbus.errors import SwarmbusError
from swarmbus.mailbox import Mailbox

log = logging.getLogger(__name__)

T = TypeVar("T")

NOTE_DELAY: Final = 0.01
"""Seconds that a note may wait for company."""


class _Work(NamedTuple):
    do: Callable[[], Any]
    future: asyncio.Future[Any] | None
    then: Callable[[Any], None] | None


class GroupCommit:
    """Gathers work on a mailbox and commits it together, in the event loop's thread; the disk has its own."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._waiting: list[_Work] = []
        self._unsynced: list[tuple[asyncio.Future[Any], Any]] = []
        self._syncing: asyncio.Future[None] | None = None
        self._planned: asyncio.Handle | None = None
        self._loop = asyncio.get_running_loop()
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fsync")

    def add(self, work: Callable[[], T], then: Callable[[T], None] | None = None) -> asyncio.Future[T]:
        """Have ``work`` done inside the next transaction.

        Args:
            work: Writes to the mailbox.
            then: Called with its result right after the commit, before it is on the disk.

        Returns:
            A future of its result, done when it is on the disk; it raises `StorageError` or
            `MailboxError` if it could not be kept.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append(_Work(work, future, then))
        # While the disk is at work a group gathers; when it is idle, nobody waits for company.
        if self._syncing is None:
            self._plan(0.0)
        return future

    def note(
        self, work: Callable[[], object], then: Callable[[Any], None] | None = None, *, soon: bool = False
    ) -> None:
        """Have ``work`` done; if it is lost, nothing is, but something is done again.

        Args:
            work: Writes to the mailbox.
            then: Called with its result right after the commit.
            soon: Not to wait for company, because somebody waits for ``then``.
        """
        self._waiting.append(_Work(work, None, then))
        if soon:
            self._plan(0.0)
        elif self._planned is None:
            self._plan(NOTE_DELAY)

    def flush(self) -> None:
        """Commit what waits, now; the disk is told, and not waited for."""
        if self._planned is not None:
            self._planned.cancel()
            self._planned = None
        group, self._waiting = self._waiting, []
        if not group:
            return
        try:
            with self._mailbox.transaction(durable=False):
                results = [work.do() for work in group]
        except Exception:
            # One bad piece of work must not spoil the others: each by itself.
            for work in group:
                self._commit_alone(work)
        else:
            for work, result in zip(group, results, strict=True):
                self._committed(work, result)
        self._sync()

    async def close(self) -> None:
        """Commit what waits and wait until all of it is on the disk."""
        self.flush()
        while self._syncing is not None:
            await asyncio.wait([self._syncing])
        self._disk.shutdown(wait=True)

    def _plan(self, delay: float) -> None:
        if self._planned is not None:
            if delay or not isinstance(self._planned, asyncio.TimerHandle):
                return
            self._planned.cancel()
        call = self._loop.call_later(delay, self.flush) if delay else self._loop.call_soon(self.flush)
        self._planned = call

    def _commit_alone(self, work: _Work) -> None:
        try:
            with self._mailbox.transaction(durable=False):
                result = work.do()
        except Exception as error:
            if work.future is not None:
                if not work.future.done():
                    work.future.set_exception(error)
            elif isinstance(error, SwarmbusError):
                log.warning("%s", error.message)
            else:
                log.exception("a note could not be written")
        else:
            self._committed(work, result)

    def _committed(self, work: _Work, result: Any) -> None:
        if work.future is not None:
            self._unsynced.append((work.future, result))
        if work.then is not None:
            work.then(result)

    def _sync(self) -> None:
        if self._syncing is not None or not self._unsynced:
            return
        group, self._unsynced = self._unsynced, []
        self._syncing = self._loop.run_in_executor(self._disk, self._mailbox.sync)
        self._syncing.add_done_callback(lambda done: self._synced(done, group))

    def _synced(self, done: asyncio.Future[None], group: list[tuple[asyncio.Future[Any], Any]]) -> None:
        self._syncing = None
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        for future, result in group:
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
        # What came meanwhile, committed or not, is the next group.
        self.flush()
        self._sync()
