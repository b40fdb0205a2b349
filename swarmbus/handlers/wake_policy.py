"""When a message may wake its agent: what the settings say, decided without looking at anything."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING, Self

from swarmbus.errors import ConfigError
from swarmbus.hops import hops_of

if TYPE_CHECKING:
    from swarmbus.config import Settings
    from swarmbus.envelope import AgentMessage


@dataclass(frozen=True, slots=True)
class QuietHours:
    """A part of each day, by the clock of this host, in which nobody is woken; it may go over midnight."""

    begin: time
    end: time

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``22:00-07:00``.

        Raises:
            ConfigError: If it is none.
        """
        found = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)-([01]?\d|2[0-3]):([0-5]\d)", text.replace(" ", ""))
        if found is None:
            raise ConfigError(
                f"wake_quiet: {text!r} is no part of a day", hint="write it like this: 22:00-07:00"
            )
        hours = [int(number) for number in found.groups()]
        return cls(time(hours[0], hours[1]), time(hours[2], hours[3]))

    def seconds_left(self, now: datetime) -> float:
        """How long it is quiet from ``now`` on; 0 if it is not."""
        at = now.time()
        inside = self.begin <= at < self.end
        if self.begin > self.end:
            inside = at >= self.begin or at < self.end
        if not inside:
            return 0.0
        end = datetime.combine(now.date(), self.end, now.tzinfo)
        return ((end if end > now else end + timedelta(days=1)) - now).total_seconds()


@dataclass(frozen=True, slots=True)
class WakePolicy:
    """Who and what may wake an agent, and how often; the settings ``wake_*``.

    Attributes:
        wake: ``high``: by messages of high priority only; ``all``: by any; ``none``: by nothing; ``each``: by
            each single one, with no regard to the rest.
        senders: Only theirs; empty means everybody's.
        quiet: None for round the clock.
        cooldown: Seconds between the end of a wake and the next.
        daily: How many in a day, 0 for as many as come.
        hops: The last hop of a conversation that wakes (`swarmbus.hops`).
        pair_hourly: How many in an hour for the messages of one sender, 0 for as many as come.
    """

    wake: str = "high"
    senders: frozenset[str] = frozenset()
    quiet: QuietHours | None = None
    cooldown: float = 0.0
    daily: int = 0
    hops: int = 8
    pair_hourly: int = 0

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The policy of the settings.

        Raises:
            ConfigError: If the quiet hours are none.
        """
        return cls(
            settings.wake,
            frozenset((settings.wake_from or "").replace(",", " ").split()),
            QuietHours.parse(settings.wake_quiet) if settings.wake_quiet else None,
            settings.wake_cooldown,
            settings.wake_daily,
            settings.wake_hops,
            settings.wake_pair_hourly,
        )

    @property
    def is_for_each(self) -> bool:
        """Whether the command is run for each single message."""
        return self.wake == "each"

    def why_never(self, msg: AgentMessage) -> str | None:
        """Why this message wakes nobody, whenever it is; None if it may."""
        if self.is_for_each:
            return None
        if self.wake == "none":
            return "wake is none"
        if self.wake == "high" and msg.priority != "high":
            return f"priority {msg.priority}"
        if self.senders and msg.from_agent not in self.senders:
            return f"{msg.from_agent} is not in wake_from"
        if (hop := hops_of(msg)) > self.hops:
            return f"hop {hop} of a conversation of agents, wake_hops is {self.hops}"
        return None
