"""Waking an agent with restraint: the wake command is run when it should be, and for many messages once.

Messages come in order, and one is decided upon before the next is looked at, so that one wake runs at a
time. A wake stands for all messages that were in the mailbox when it began; when it has ended, those that
came later begin the next. Whatever is decided is noted in the mailbox (`swarmbus.mailbox.wakes`), also for
a listener that is started again while a wake runs. No message is lost by any of this: they are all in the
mailbox, woken for or not.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from swarmbus.envelope import CANARY, new_message
from swarmbus.errors import SwarmbusError
from swarmbus.handlers.base import BaseHandler
from swarmbus.handlers.direct_invocation import DirectInvocationHandler
from swarmbus.handlers.wake_policy import WakePolicy
from swarmbus.mailbox import Mailbox, StoredMessage
from swarmbus.pause import Pauses

if TYPE_CHECKING:
    from swarmbus.envelope import AgentMessage

log = logging.getLogger(__name__)

_LONGEST_SLEEP: Final = 60.0
"""Seconds after which somebody who waits looks again whether the message has been read meanwhile."""


@dataclass(frozen=True, slots=True)
class Hold:
    """What holds wakes back at a moment.

    Attributes:
        seconds: For how long at least.
        words: The reason.
    """

    kind: Literal["unknown", "pause", "quiet", "daily", "cooldown"]
    seconds: float
    words: str


class WakeGovernor(BaseHandler):
    """Runs the wake command by a policy.

    Args:
        command: Runs it.
        policy: When.
        mailbox: Path of the agent's mailbox.
        pauses: What the listener knows of pauses; None means that there are none.
    """

    name = "invoke"

    def __init__(
        self,
        command: DirectInvocationHandler,
        policy: WakePolicy,
        mailbox: Path,
        pauses: Pauses | None = None,
    ) -> None:
        self._command = command
        self._policy = policy
        self._path = mailbox
        self._pauses = pauses
        self._mailbox: Mailbox
        self._held: dict[str, Any] | None = None
        self._rehearsing = asyncio.Lock()
        self.max_attempts = command.max_attempts
        self.drains = False  # only a command that ends with us is worth waiting for

    async def start(self) -> None:
        """Open the mailbox."""
        self._mailbox = Mailbox.open(self._path)

    async def close(self) -> None:
        """Close it."""
        self._mailbox.close()

    async def handle(self, msg: AgentMessage) -> None:
        """Wake the agent for a message, or note why not; returns when that is done.

        Raises:
            InvocationFailed: If the command failed; it is noted, and to be tried again.
        """
        stored = self._mailbox.inbound.get(msg.id)
        if stored is None:
            return
        number = self._mailbox.wakes.running(stored.seq)
        if number is None:
            reason = self._policy.why_never(msg) or await self._until_it_may_wake(stored)
            if reason is not None:
                # What the settings leave out is usual; that somebody has gone too far is not.
                log.log(logging.WARNING if "wake_" in reason else logging.DEBUG, "%s: %s", stored.id, reason)
                self._pass_over(stored, reason)
                await asyncio.sleep(0)  # thousands may follow: others want to run too
                return
            with self._mailbox.transaction():
                number = self._mailbox.wakes.begin(stored.seq, stored.sender)
        await self._wake(number, msg)

    async def _until_it_may_wake(self, stored: StoredMessage) -> str | None:
        """Wait until the time is right; why the message needs no wake by then, None if it does."""
        told = ""
        since = time.time()
        try:
            while True:
                if (reason := self._why_no_more(stored)) is not None:
                    return reason
                hold = self._hold()
                if hold is None:
                    return None
                self._held = {"id": stored.id, "since": since, "kind": hold.kind, "words": hold.words}
                if hold.words != told:
                    log.info("no wake for %s now: %s", stored.id, hold.words)
                    told = hold.words
                await self._sleep(min(hold.seconds, _LONGEST_SLEEP))
        finally:
            self._held = None

    async def _sleep(self, seconds: float) -> None:
        if self._pauses is None:
            await asyncio.sleep(seconds)
        else:
            await self._pauses.until_change(seconds)

    def _why_no_more(self, stored: StoredMessage) -> str | None:
        if self._policy.is_for_each:
            return None
        now = self._mailbox.inbound.get(stored.id)
        if now is None or now.seen is not None:
            return "already read"
        if self._mailbox.wakes.is_covered(stored.seq):
            return "a wake for an earlier message began when this one was there"
        hourly = self._policy.pair_hourly
        if 0 < hourly <= self._mailbox.wakes.count_since(time.time() - 3600.0, stored.sender):
            return (
                f"{stored.sender} has woken us {hourly} times within an hour, wake_pair_hourly allows no more"
            )
        return None

    def _hold(self) -> Hold | None:
        """Why no wake may begin now; None if one may."""
        if self._pauses is not None:
            if not self._pauses.known:
                words = "no broker has said yet whether there is a pause"
                return Hold("unknown", _LONGEST_SLEEP, words)
            if (pause := self._pauses.in_force()) is not None:
                return Hold("pause", pause.seconds_left(), str(pause))
        if self._policy.is_for_each:
            return None
        now = datetime.now().astimezone()
        if self._policy.quiet and (left := self._policy.quiet.seconds_left(now)) > 0:
            return Hold("quiet", left, f"quiet hours, until {self._policy.quiet.end:%H:%M}")
        if 0 < self._policy.daily <= self._today(now):
            left = (_midnight(now) + timedelta(days=1) - now).total_seconds()
            words = f"{self._policy.daily} wakes today, which is all that wake_daily allows"
            return Hold("daily", left, words)
        left = self._mailbox.wakes.last_end() + self._policy.cooldown - time.time()
        # A clock that was set back must not keep an agent asleep.
        left = min(left, self._policy.cooldown)
        words = "the last wake has only just ended (wake_cooldown)"
        return Hold("cooldown", left, words) if left > 0 else None

    def _today(self, now: datetime) -> int:
        return self._mailbox.wakes.count_since(_midnight(now).timestamp())

    def status(self) -> dict[str, Any]:
        """What of the listener's ``status`` is about wakes.

        ``held`` is the message that would wake the agent if it might: its id, since when (Unix time), why.
        """
        pause = self._pauses.in_force() if self._pauses is not None else None
        return {
            "wake": self._policy.wake,
            "today": self._today(datetime.now().astimezone()),
            "daily": self._policy.daily,
            "pause": None
            if pause is None
            else {
                "scope": pause.scope,
                "words": str(pause),
                "since": pause.since.timestamp(),
                "until": pause.until.timestamp() if pause.until else None,
            },
            "held": self._held,
        }

    async def rehearse(self, question: dict[str, Any]) -> dict[str, Any]:
        """Answer ``rehearse``: a canary goes the whole way of a wake, and no command of the agent's is run.

        With what came of it (`Rehearsal`) is told what holds wakes back at this moment, if anything does.
        """
        me = str(question["agent_id"])
        canary = new_message(sender=me, to=me, subject="canary", body="", extra={"kind": CANARY})
        async with self._rehearsing:
            unread = self._mailbox.inbound.unread("default")
            rehearsal = await self._command.rehearse(canary, {"SWARMBUS_UNREAD": str(unread)})
        if self._policy.wake == "none":
            return asdict(rehearsal) | {"held": "wake is none"}
        hold = self._hold()
        return asdict(rehearsal) | {"held": hold.words if hold and hold.kind != "cooldown" else None}

    async def _wake(self, number: int, msg: AgentMessage) -> None:
        unread = self._mailbox.inbound.unread("default")
        self.drains = self._command.drains
        try:
            await self._command.run(msg, {"SWARMBUS_UNREAD": str(unread)})
        except SwarmbusError as error:
            self._end(number, f"failed: {error.message}")
            raise
        finally:
            self.drains = False
        self._end(number, "done")

    def _end(self, number: int, outcome: str) -> None:
        with self._mailbox.transaction(durable=False):
            self._mailbox.wakes.end(number, outcome)

    def _pass_over(self, stored: StoredMessage, reason: str) -> None:
        with self._mailbox.transaction(durable=False):
            self._mailbox.wakes.pass_over(stored.seq, stored.sender, reason)


def _midnight(now: datetime) -> datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0)
