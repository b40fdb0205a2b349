"""Group commit: the writes of one turn of the event loop become one transaction.

A commit with ``synchronous=FULL`` costs an fsync whether it holds one row or a hundred. Work is done in the
event loop's thread: a hand-over to another thread would cost a lone message more than the fsync does on
the disks we know, and while the loop waits for the disk the sockets gather the next group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from swarmbus.mailbox import Mailbox

T = TypeVar("T")


class GroupCommit:
    """Gathers work on a mailbox and commits it together."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self._loop = asyncio.get_running_loop()

    def add(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Have ``work`` done inside the next transaction.

        Returns:
            A future of its result, done when it is on the disk; it raises `StorageError` or
            `MailboxError` if it could not be kept, and then nothing of it is.
        """
        if not self._waiting:
            self._loop.call_soon(self.flush)
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append((work, future))
        return future

    def flush(self) -> None:
        """Commit what waits, now."""
        group, self._waiting = self._waiting, []
        if not group:
            return
        try:
            with self._mailbox.transaction():
                results = [work() for work, _ in group]
        except Exception:
            # One bad piece of work must not spoil the others: each by itself.
            for work, future in group:
                self._commit_alone(work, future)
            return
        for (_, future), result in zip(group, results, strict=True):
            if not future.done():
                future.set_result(result)

    def _commit_alone(self, work: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        try:
            with self._mailbox.transaction():
                result = work()
        except Exception as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)
