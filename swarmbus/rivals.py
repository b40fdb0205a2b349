"""Another listener with our client id: the broker lets one in and throws the other out, for ever.

mosquitto 2.0 does not tell a client why it was thrown out, and a broken network looks the same from here.
What proves a rival is presence: each listener writes its own, retained, when it has connected. Who finds
somebody else's when it comes back, written since it was last there, was not alone.

One of the two has to give up. It is the one that was started later; against a peer that says nothing of
itself it is we, for such a peer never gives up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from swarmbus.presence import Presence

ENOUGH: Final = 4
"""Meetings that make a fight: who moves an agent to another host may have both run for some seconds."""

TOO_MANY: Final = 20
"""Meetings after which the elder gives up too: the younger does not know this rule."""

WINDOW: Final = 600.0
"""Seconds after which a meeting counts no more."""


@dataclass(slots=True)
class _Rival:
    """One that we have met.

    Attributes:
        written: When its last presence was given, by its own clock; what is read twice is no second meeting.
        met: When we met it, by our monotonic clock.
    """

    presence: Presence
    written: str | None
    met: list[float] = field(default_factory=list)


class Rivals:
    """What a listener knows of those who take its session from it.

    Args:
        instance: Ours.
        since: When we were started, ISO 8601.
    """

    def __init__(self, instance: str, since: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._instance = instance
        self._since = since
        self._clock = clock
        self._was_there = False
        self._rivals: dict[str | None, _Rival] = {}

    def connected(self) -> None:
        """We have written our presence: from now on somebody else's means that it came after ours."""
        self._was_there = True

    def found(self, presence: Presence) -> bool:
        """The presence that was there when we connected; returns whether it proves a rival."""
        if presence.instance == self._instance:
            return False
        rival = self._rivals.setdefault(presence.instance, _Rival(presence, None))
        # A broker that came back with an old file shows one and the same again and again.
        is_new = presence.ts is None or presence.ts != rival.written
        rival.presence, rival.written = presence, presence.ts
        if not self._was_there or not is_new:
            return False
        now = self._clock()
        rival.met = [*(at for at in rival.met if now - at < WINDOW), now]
        return True

    def to_yield_to(self) -> Presence | None:
        """The rival that we have to leave the session to; None while there is none."""
        for rival in self._rivals.values():
            enough = ENOUGH if self._is_ours_to_yield(rival.presence) else TOO_MANY
            if len(rival.met) >= enough:
                return rival.presence
        return None

    def _is_ours_to_yield(self, rival: Presence) -> bool:
        if rival.instance is None or rival.since is None:
            return True
        return (self._since, self._instance) > (rival.since, rival.instance)


def described(rival: Presence) -> str:
    """Who it is, for a log."""
    if rival.instance is None:
        return "a listener of the older tool, which says nothing of where it runs"
    return f"a listener on {rival.host or 'an unknown host'}, started {rival.since or 'at an unknown time'}"
