"""Staying connected, and ending at any moment."""

from __future__ import annotations

import asyncio

from swarmbus.broker import Broker as Address
from swarmbus.connection import Connection
from swarmbus.link import Link
from tests.lab.loop import in_loop
from tests.lab.mosquitto import Broker


@in_loop
async def test_link_ends_when_it_is_cancelled_while_it_takes_leave_of_a_lost_broker(broker: Broker) -> None:
    leaving = asyncio.Event()

    async def serve(connection: Connection) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            leaving.set()
            await asyncio.sleep(0.3)  # a handler's receipt, the last commit: it may take a moment

    link = Link(
        Address("127.0.0.1", broker.port),
        client_id="leaving",
        persistent=False,
        will=None,
        on_arrival=lambda arrival: None,
        serve=serve,
        on_lost=lambda: None,
    )
    running = asyncio.create_task(link.run())
    async with asyncio.timeout(5):
        while link.connection is None:
            await asyncio.sleep(0.01)
    broker.kill()
    async with asyncio.timeout(5):
        await leaving.wait()
    running.cancel()
    done, _ = await asyncio.wait([running], timeout=5)
    assert done, "it swallowed the cancellation, and connects again for ever"
