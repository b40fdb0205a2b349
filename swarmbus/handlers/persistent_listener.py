"""Statistics of what came in, and a sign of life in the log."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from swarmbus.handlers.base import BaseHandler

if TYPE_CHECKING:
    from swarmbus.envelope import AgentMessage

_log = logging.getLogger(__name__)

_NAMES: Final = 1_000  # that are counted one by one: on an open broker anyone may invent senders
_OTHERS: Final = "(others)"


class PersistentListenerHandler(BaseHandler):
    """Count messages by sender and priority, and log the counts now and then.

    Args:
        heartbeat_interval: Seconds between two lines in the log, more than 0.
    """

    name = "listener"
    batch_size = 256

    def __init__(self, heartbeat_interval: float = 60) -> None:
        if heartbeat_interval <= 0:
            raise ValueError(f"heartbeat_interval is {heartbeat_interval}, must be more than 0 seconds")
        self._interval = heartbeat_interval
        self._received = 0
        self._by_sender: Counter[str] = Counter()
        self._by_priority: Counter[str] = Counter()
        self._started: datetime | None = None
        self._last: datetime | None = None
        self._heart: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to log."""
        self._started = datetime.now(UTC)
        self._heart = asyncio.create_task(self._beat(), name="swarmbus heartbeat log")

    async def handle(self, msg: AgentMessage) -> None:
        """Count one message."""
        self._received += 1
        _count(self._by_sender, msg.from_agent)
        _count(self._by_priority, msg.priority)
        self._last = datetime.now(UTC)

    async def close(self) -> None:
        """Log for the last time."""
        if self._heart is not None:
            self._heart.cancel()
            with suppress(asyncio.CancelledError):
                await self._heart
            self._heart = None
            self._log_counts()

    def stats(self) -> dict[str, Any]:
        """Counts since the start of this process; times are ISO 8601 in UTC, None if nothing happened yet."""
        return {
            "messages_received": self._received,
            "last_message_ts": self._last.isoformat() if self._last else None,
            "started_at": self._started.isoformat() if self._started else None,
            "by_sender": dict(self._by_sender),
            "by_priority": dict(self._by_priority),
        }

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            self._log_counts()

    def _log_counts(self) -> None:
        last = self._last.isoformat(timespec="seconds") if self._last else "none yet"
        busiest = ", ".join(f"{name} {count}" for name, count in self._by_sender.most_common(5))
        _log.info(
            "%d messages received%s; the last: %s",
            self._received,
            f" (from {busiest})" if busiest else "",
            last,
        )


def _count(counter: Counter[str], name: str) -> None:
    counter[name if name in counter or len(counter) < _NAMES else _OTHERS] += 1
