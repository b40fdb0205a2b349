"""Agents of the library in the test's own process, and a client that sends what no agent would.

async with listening(broker, "coder") as coder:
    await coder.send(to="planner", subject="hello", body="...")
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from swarmbus.broker import Broker as Address
from swarmbus.bus import AgentBus
from swarmbus.connection import Arrival, Connection
from swarmbus.dispatch import Handler
from swarmbus.envelope import AgentMessage
from swarmbus.lock import lock_holder
from swarmbus.mailbox import Mailbox, Outbound, Quarantined, StoredMessage
from swarmbus.paths import lock_path, mailbox_path
from tests.lab.loop import until
from tests.lab.mosquitto import Broker


class Collect:
    """A handler that keeps what it is given."""

    def __init__(self, name: str = "collect") -> None:
        self.name = name
        self.messages: list[AgentMessage] = []

    async def handle(self, msg: AgentMessage) -> None:
        self.messages.append(msg)

    @property
    def subjects(self) -> list[str]:
        return [message.subject for message in self.messages]


def address(broker: Broker) -> Address:
    """The test's broker as the library names it."""
    return Address(broker.host, broker.port)


def bus_of(broker: Broker, agent_id: str, **options: Any) -> AgentBus:
    """An `AgentBus` at the test's broker."""
    return AgentBus(agent_id, broker.host, broker.port, **options)


@contextlib.asynccontextmanager
async def listening(
    broker: Broker, agent_id: str, *handlers: Handler, **options: Any
) -> AsyncIterator[AgentBus]:
    """A bus whose listener has subscribed; it is stopped as by SIGTERM at the end."""
    bus = bus_of(broker, agent_id, **options)
    for handler in handlers:
        bus.register_handler(handler)
    ready = asyncio.Event()
    listener = asyncio.create_task(bus.listen(on_ready=lambda connection: ready.set()))
    is_ready = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait([listener, is_ready], return_when=asyncio.FIRST_COMPLETED)
        if not ready.is_set():
            listener.result()
        yield bus
    finally:
        is_ready.cancel()
        bus.stop()
        await listener


@contextlib.asynccontextmanager
async def raw(
    broker: Broker, topic_filter: str | None = None
) -> AsyncIterator[tuple[Connection, list[Arrival]]]:
    """A connection that is no agent's, and what it has received."""
    arrivals: list[Arrival] = []

    def keep(arrival: Arrival) -> None:
        arrivals.append(arrival)
        connection.acknowledge([arrival])

    client_id = f"raw-{uuid.uuid4()}"
    async with await Connection.open(address(broker), client_id=client_id, on_arrival=keep) as connection:
        if topic_filter is not None:
            await connection.subscribe([(topic_filter, 1)])
        yield connection, arrivals


async def publish(broker: Broker, topic: str, payload: str | bytes, *, retain: bool = False) -> int:
    """Publish one message as it is; returns the reason code."""
    async with raw(broker) as (connection, _):
        return await connection.publish(topic, payload, retain=retain)


def envelope(**fields: Any) -> dict[str, Any]:
    """An envelope such as an older peer writes, from ``stranger`` to ``coder``."""
    return {
        "id": str(uuid.uuid4()),
        "from": "stranger",
        "to": "coder",
        "ts": datetime.now(UTC).isoformat(),
        "subject": "hello",
        "body": "got a minute?",
        "content_type": "text/plain",
        "priority": "normal",
        "reply_to": None,
    } | fields


def envelope_json(**fields: Any) -> str:
    """`envelope` as it goes over the wire."""
    return json.dumps(envelope(**fields))


def stored(agent_id: str) -> list[StoredMessage]:
    """All messages in an agent's mailbox, oldest first."""
    with Mailbox.open(mailbox_path(agent_id)) as mailbox:
        return mailbox.inbound.after(0, 1_000_000)


def subjects(agent_id: str) -> list[str]:
    """Subjects of all messages in an agent's mailbox, oldest first."""
    return [message.subject for message in stored(agent_id)]


def quarantined(agent_id: str) -> list[Quarantined]:
    """An agent's quarantine, oldest first."""
    with Mailbox.open(mailbox_path(agent_id)) as mailbox:
        return mailbox.quarantine.list()


def sent(agent_id: str, message_id: str) -> Outbound:
    """What an agent's spool knows of one message."""
    with Mailbox.open(mailbox_path(agent_id)) as mailbox:
        found = mailbox.outbound.get(message_id)
    assert found is not None, f"{message_id} is not in the spool of {agent_id}"
    return found


async def until_state(agent_id: str, message_id: str, state: str, *, timeout: float = 10.0) -> None:
    """Wait until an agent's spool says so of a message."""
    await until(lambda: sent(agent_id, message_id).state == state, timeout=timeout)


async def send_stored(broker: Broker, *subjects: str, to: str = "coder", body: str = "b") -> list[str]:
    """Have ``planner`` send these, and wait until they are in the receiver's mailbox; their ids."""
    async with bus_of(broker, "planner") as planner:
        return [(await planner.send(to, subject, body, wait="stored")).id for subject in subjects]


async def until_received(agent_id: str) -> None:
    """Wait until some process on this host holds the agent's session and has drained it."""

    def is_received() -> bool:
        holder = lock_holder(lock_path(agent_id))
        return holder is not None and holder[1] in ("staying", "listener")

    await until(is_received)
