"""Mailbox -> handlers: each with its own cursor, its own retries, its own dead letters.

A slow or failing handler delays only itself. For one message the handlers begin in their order of
registration; none waits for another to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final, Protocol

from swarmbus.commits import GroupCommit
from swarmbus.envelope import AgentMessage
from swarmbus.errors import SwarmbusError, TimedOut
from swarmbus.mailbox import Mailbox, StoredMessage

log = logging.getLogger(__name__)

LONGEST_BACKOFF: Final = 60.0
"""Seconds between two attempts at the most; the first wait is one second, and it doubles."""

_PAGE = 256


class Handler(Protocol):
    """What a handler must have; `swarmbus.handlers.BaseHandler` has the rest, with defaults."""

    async def handle(self, msg: AgentMessage) -> None:
        """Act on one message; an exception means it has to be tried again."""


class Dispatcher:
    """Runs handlers over an agent's mailbox."""

    def __init__(self, mailbox: Mailbox, commits: GroupCommit) -> None:
        self._mailbox = mailbox
        self._commits = commits
        self._lanes: list[_Lane] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, handlers: Sequence[Handler]) -> None:
        """Give each handler its cursor and begin; what came while nobody ran is handled first.

        Raises:
            ValueError: If two handlers have one name.
            SwarmbusError: If a handler cannot start (its file cannot be written).
        """
        self._lanes = [_Lane(handler, self._mailbox, self._commits) for handler in handlers]
        names = [lane.name for lane in self._lanes]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"handlers with one name would share a cursor: {sorted(twice)}")
        with self._mailbox.transaction():
            for name in names:
                self._mailbox.cursors.register(name)
        for lane in self._lanes:
            await lane.start()
        self._tasks = [asyncio.create_task(lane.serve(), name=f"handler {lane.name}") for lane in self._lanes]

    def wake(self) -> None:
        """There is something new in the mailbox."""
        for lane in self._lanes:
            lane.mail.set()

    async def stop(self, drain: float) -> None:
        """Let what runs come to its end, for ``drain`` seconds at the most, and stop.

        A handler that does not drain is cut off at once.

        What is cut off was not marked as handled, and is handled again at the next start.
        """
        for lane in self._lanes:
            lane.stopping.set()
            lane.mail.set()
        if self._tasks:
            for lane, task in zip(self._lanes, self._tasks, strict=True):
                if not lane.drains:
                    task.cancel()
            _, late = await asyncio.wait(self._tasks, timeout=drain)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for lane in self._lanes:
            await lane.close()

    def status(self) -> list[dict[str, Any]]:
        """For the control socket: each handler with its lag in messages, failed attempts and dead letters."""
        last = self._mailbox.inbound.last_seq()
        return [lane.status(last) for lane in self._lanes]


class _Lane:
    """One handler and its way through the mailbox."""

    def __init__(self, handler: Handler, mailbox: Mailbox, commits: GroupCommit) -> None:
        self.handler = handler
        self.name = str(getattr(handler, "name", type(handler).__name__))
        self.mail = asyncio.Event()
        self.stopping = asyncio.Event()
        self._mailbox = mailbox
        self._commits = commits
        self._batch_size = int(getattr(handler, "batch_size", 1))
        self._timeout: float | None = getattr(handler, "timeout", None)
        self._max_attempts = int(getattr(handler, "max_attempts", 5))
        self._attempts = 0
        self._seq = 0

    @property
    def drains(self) -> bool:
        return bool(getattr(self.handler, "drains", True))

    async def start(self) -> None:
        cursor = self._mailbox.cursors.of(self.name)
        self._seq, self._attempts = cursor.seq, cursor.attempts
        if (begin := getattr(self.handler, "start", None)) is not None:
            await begin()

    async def close(self) -> None:
        if (end := getattr(self.handler, "close", None)) is not None:
            try:
                await end()
            except Exception:
                log.exception("handler %s did not close", self.name)

    async def serve(self) -> None:
        while not self.stopping.is_set():
            self.mail.clear()
            try:
                page = self._mailbox.inbound.after(self._seq, _PAGE)
                for start in range(0, len(page), self._batch_size):
                    if self.stopping.is_set():
                        return
                    await self._handle(page[start : start + self._batch_size])
                await self._try_dead_letters()
            except Exception:
                # Not the handler's: reading or committing failed. The cursor stands where it stood.
                log.exception("handler %s could not go on", self.name)
                await asyncio.sleep(LONGEST_BACKOFF / 10)
                continue
            if not page:
                await self.mail.wait()

    async def _handle(self, stored: list[StoredMessage]) -> None:
        """See one batch through, to success or dead letter; a batch that fails is tried one by one."""
        while not self.stopping.is_set():
            error = await self._attempt(stored)
            if error is None:
                self._advance(stored)
                return
            if len(stored) > 1:
                for message in stored:
                    await self._handle([message])
                return
            if await self._gave_up(stored[0], error):
                return

    async def _try_dead_letters(self) -> None:
        """Those that ``swarmbus quarantine --retry`` gave back, each once."""
        for entry in self._mailbox.quarantine.given_back(self.name):
            if self.stopping.is_set():
                return
            message = self._mailbox.inbound.get(entry.message_id or "")
            error = LookupError("not in the mailbox") if message is None else await self._attempt([message])
            if message is None or error is not None:
                log.warning("%s failed again on %s: %s", self.name, entry.message_id, _reason(error))
                await self._commits.add(partial(self._bury_again, entry.id, _reason(error)))
            else:
                await self._commits.add(partial(self._raise_from_the_dead, entry.id, message.seq))

    async def _attempt(self, stored: list[StoredMessage]) -> BaseException | None:
        """Call the handler; what went wrong, None if nothing did."""
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                await self._call(stored)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return error  # not we were cancelled, but something that the handler awaits
        except Exception as error:
            return TimedOut(f"took longer than {self._timeout} s") if limit.expired() else error
        return None

    async def _call(self, stored: list[StoredMessage]) -> None:
        messages = [_as_agent_message(message) for message in stored]
        many = getattr(self.handler, "handle_many", None)
        if many is not None and self._batch_size > 1:
            await many(messages)
        else:
            for message in messages:
                await self.handler.handle(message)

    def _advance(self, stored: list[StoredMessage]) -> None:
        seqs = [message.seq for message in stored]
        self._seq, self._attempts = seqs[-1], 0
        self._commits.note(lambda: self._mailbox.cursors.advance(self.name, seqs))

    async def _gave_up(self, message: StoredMessage, error: BaseException) -> bool:
        """Record a failure and wait; True when the message became a dead letter."""
        self._attempts += 1
        reason = _reason(error)
        if self._attempts >= self._max_attempts:
            log.error("%s gave up on %s: %s", self.name, message.id, reason)
            await self._commits.add(lambda: self._bury(message, reason))
            self._seq, self._attempts = message.seq, 0
            return True
        pause = min(2.0 ** (self._attempts - 1), LONGEST_BACKOFF)
        log.warning("%s failed on %s, again in %.0f s: %s", self.name, message.id, pause, reason)
        attempts = self._attempts
        self._commits.note(lambda: self._mailbox.cursors.failed(self.name, attempts, reason))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self.stopping.wait()
        return False

    def _bury(self, message: StoredMessage, reason: str) -> None:
        self._mailbox.quarantine.add(
            "dead-letter",
            topic=f"agents/{message.to}/inbox",
            reason=f"failed {self._max_attempts} times: {reason}",
            payload=message.body.encode("utf-8", "surrogatepass"),
            message_id=message.id,
            handler=self.name,
        )
        self._mailbox.cursors.give_up(self.name, message.seq, reason)

    def _bury_again(self, entry_id: int, reason: str) -> None:
        self._mailbox.quarantine.failed_again(entry_id, f"failed again: {reason}")

    def _raise_from_the_dead(self, entry_id: int, seq: int) -> None:
        self._mailbox.quarantine.drop([entry_id])
        self._mailbox.cursors.handled(self.name, seq)

    def status(self, last: int) -> dict[str, Any]:
        cursor = self._mailbox.cursors.of(self.name)
        return {
            "name": self.name,
            "lag": last - self._seq,
            "attempts": cursor.attempts,
            "last_error": cursor.last_error,
            "dead": self._mailbox.quarantine.dead_letters(self.name),
        }


def _reason(error: BaseException | None) -> str:
    """Our own errors are whole sentences; of others the kind says as much as the text (KeyError: 'x')."""
    if isinstance(error, SwarmbusError):
        return error.message
    return ": ".join(filter(None, (type(error).__name__, str(error))))


def _as_agent_message(stored: StoredMessage) -> AgentMessage:
    return AgentMessage(
        id=stored.id,
        from_agent=stored.sender,
        to=stored.to,
        ts=datetime.fromisoformat(stored.ts),
        subject=stored.subject,
        body=stored.body,
        content_type=stored.content_type,
        priority=stored.priority,
        reply_to=stored.reply_to,
        extra=stored.extra,
        verified=stored.verified,
    )
