from __future__ import annotations

import asyncio
import logging

import pytest

from swarmbus import PersistentListenerHandler
from tests.unit.message_samples import message


def test_messages_are_counted_by_sender_and_priority() -> None:
    handler = PersistentListenerHandler()
    assert handler.stats()["messages_received"] == 0
    assert handler.stats()["last_message_ts"] is None

    async def run() -> None:
        await handler.start()
        await handler.handle_many([message(1), message(2, priority="high"), message(3, sender="boss")])
        await handler.close()

    asyncio.run(run())
    stats = handler.stats()
    assert stats["messages_received"] == 3
    assert stats["by_sender"] == {"planner": 2, "boss": 1}
    assert stats["by_priority"] == {"normal": 2, "high": 1}
    assert stats["last_message_ts"] >= stats["started_at"]


def test_the_counts_are_logged_at_intervals_and_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        handler = PersistentListenerHandler(heartbeat_interval=0.02)
        await handler.start()
        await handler.handle(message(1))
        while len(caplog.messages) < 2:
            await asyncio.sleep(0.005)
        await handler.close()

    with caplog.at_level(logging.INFO, "swarmbus.handlers.persistent_listener"):
        asyncio.run(run())
    assert len(caplog.messages) >= 3
    assert caplog.messages[-1].startswith("1 messages received (from planner 1); the last: 20")


def test_invented_senders_do_not_fill_the_memory() -> None:
    async def run() -> None:
        await handler.handle_many([message(number, sender=f"s{number}") for number in range(1_500)])

    handler = PersistentListenerHandler()
    asyncio.run(run())
    counts = handler.stats()["by_sender"]
    assert len(counts) == 1_001
    assert counts["(others)"] == 500
    assert sum(counts.values()) == handler.stats()["messages_received"] == 1_500


def test_an_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="heartbeat_interval"):
        PersistentListenerHandler(heartbeat_interval=0)
