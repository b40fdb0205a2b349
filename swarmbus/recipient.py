"""What a sender keeps in mind about one receiver: what is ready for it, what awaits its receipt."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from swarmbus.agent_id import BROADCAST
from swarmbus.presence import Presence

WINDOW: Final = 500
"""Messages an online receiver may owe a receipt for: half of mosquitto's default ``max_queued_messages``,
beyond which the broker drops in silence and still acknowledges."""

FIRST_PATIENCE: Final = 3.0
LONGEST_PATIENCE: Final = 60.0
"""Seconds without any receipt before what is owed is sent again: the first time, and at most."""


@dataclass(slots=True)
class Recipient:
    """One receiver of ours.

    Attributes:
        wire: The wire number it speaks; None for a peer that sends no receipts, or one we know nothing of.
        ready: Ids to publish, oldest first.
        owed: Ids that the broker has and the receiver has not confirmed, oldest first (a dict for its order).
        online: Whether its presence says so.
        instance: Which start of its listener daemon we last saw.
        heard: When it last gave a sign of life, on the monotonic clock.
    """

    agent: str
    wire: int | None = None
    ready: deque[str] = field(default_factory=deque)
    owed: dict[str, None] = field(default_factory=dict)
    online: bool = False
    instance: str | None = None
    heard: float = 0.0
    patience: float = FIRST_PATIENCE

    @property
    def confirms(self) -> bool:
        """Whether it says what it has stored: it speaks our wire, and is one receiver."""
        return self.agent != BROADCAST and self.wire is not None and self.wire >= 1

    @property
    def may_be_sent_to(self) -> bool:
        """Whether the next ready message may go out now."""
        return bool(self.ready) and not (self.online and self.confirms and len(self.owed) >= WINDOW)

    def see(self, presence: Presence) -> bool:
        """Take note of its presence; returns whether it has just come back."""
        came_back = presence.status == "online" and (not self.online or presence.instance != self.instance)
        self.online = presence.status == "online"
        self.instance = presence.instance
        self.wire = presence.wire
        if came_back:
            self.heard, self.patience = time.monotonic(), FIRST_PATIENCE
        return came_back

    def confirm(self, ids: list[str]) -> None:
        """Take note of a receipt."""
        for message_id in ids:
            self.owed.pop(message_id, None)
        self.wire = self.wire or 1
        self.heard, self.patience = time.monotonic(), FIRST_PATIENCE

    def is_late(self, now: float) -> bool:
        """Whether it owes receipts for longer than we wait; each time we wait longer."""
        if not self.owed or not self.online or now - self.heard < self.patience:
            return False
        self.heard, self.patience = now, min(self.patience * 2, LONGEST_PATIENCE)
        return True

    def send_again(self) -> None:
        """Make all it owes ready again, before what is newer."""
        self.ready.extendleft(reversed(self.owed))
        self.owed.clear()

    def forget_connection(self) -> None:
        """The connection is gone: its presence has to be heard anew."""
        self.online = False
        self.instance = None
