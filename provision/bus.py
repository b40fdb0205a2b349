"""The one door to the bus for checks, as `System` is the one to the machine; tests hand in another."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from swarmbus import control, topics
from swarmbus.broker import Broker
from swarmbus.config import Settings
from swarmbus.connection import Arrival, Connection, client_id
from swarmbus.errors import ConfigError, NotAuthorized, SwarmbusError
from swarmbus.presence import Presence, read_presence
from swarmbus.provision.canary import CanaryResult, send_canary
from swarmbus.provision.mailbox_look import MailboxSeen, look_into_mailbox

_STATUS_TIMEOUT = 2.0
_MARKER_TIMEOUT = 3.0
_CANARY_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Visit:
    """One connection to a broker, and what it showed.

    Attributes:
        error: Why there was none; None if there was.
        protocol: 5, or 4 for MQTT 3.1.1; None without a connection.
        milliseconds: Until CONNACK, or until it failed.
        presences: Retained presence of those agents that have one; None if it could not be read.
    """

    error: SwarmbusError | None = None
    protocol: int | None = None
    milliseconds: float = 0.0
    presences: Mapping[str, Presence] | None = field(default_factory=dict)


class Bus(Protocol):
    """What checks ask of it."""

    def status(self, agent_id: str) -> Mapping[str, Any] | None:
        """What a listener daemon answers on its control socket; None if nobody listens there.

        Raises:
            TimedOut: If somebody does, and does not answer.
        """
        ...

    def visit(self, settings: Settings, agent_ids: Sequence[str]) -> Visit:
        """Connect to the settings' broker and read the presence of these agents."""
        ...

    def canaries(self, settings: Mapping[str, Settings]) -> Mapping[str, CanaryResult]:
        """Send one for each agent id, all at once."""
        ...

    def mailbox(self, path: Path) -> MailboxSeen:
        """Look into a mailbox.

        Raises:
            OSError: If it cannot be read.
        """
        ...


class LocalBus:
    """`Bus` from this process."""

    def status(self, agent_id: str) -> Mapping[str, Any] | None:
        """By its control socket."""
        try:
            return control.request(agent_id, {"op": "status"}, timeout=_STATUS_TIMEOUT)
        except control.NoListener:
            return None

    def visit(self, settings: Settings, agent_ids: Sequence[str]) -> Visit:
        """Over a connection of its own."""
        began = time.monotonic()
        try:
            return asyncio.run(_visit(Broker.from_settings(settings), agent_ids, began))
        except SwarmbusError as error:
            return Visit(error=error, milliseconds=_milliseconds(began))

    def canaries(self, settings: Mapping[str, Settings]) -> Mapping[str, CanaryResult]:
        """Each over a connection of its own."""
        return asyncio.run(_canaries(settings))

    def mailbox(self, path: Path) -> MailboxSeen:
        """By SQLite, read-only."""
        return look_into_mailbox(path)


async def _visit(broker: Broker, agent_ids: Sequence[str], began: float) -> Visit:
    arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
    async with await Connection.open(
        broker, client_id=client_id(agent_ids[0] if agent_ids else None), on_arrival=arrivals.put_nowait
    ) as connection:
        connected = _milliseconds(began)
        presences = await _presences(connection, arrivals, agent_ids)
        return Visit(protocol=connection.protocol, milliseconds=connected, presences=presences)


async def _presences(
    connection: Connection, arrivals: asyncio.Queue[Arrival], agent_ids: Sequence[str]
) -> Mapping[str, Presence] | None:
    """Retained messages come before what is published after the subscription: a marker ends the list."""
    marker = f"swarmbus/marker/{os.urandom(6).hex()}"
    found: dict[str, Presence] = {}
    try:
        await connection.subscribe([*((topics.presence(agent), 0) for agent in agent_ids), (marker, 0)])
        connection.publish(marker, b"", qos=0)
        async with asyncio.timeout(_MARKER_TIMEOUT):
            while (arrival := await arrivals.get()).topic != marker:
                agent = topics.parse(arrival.topic).agent_id or ""
                if (presence := read_presence(agent, arrival.payload)) is not None:
                    found[agent] = presence
    except (NotAuthorized, TimeoutError):
        return None
    return found


async def _canaries(settings: Mapping[str, Settings]) -> dict[str, CanaryResult]:
    async def one(agent_id: str, own: Settings) -> CanaryResult:
        try:
            return await send_canary(Broker.from_settings(own), agent_id, timeout=_CANARY_TIMEOUT)
        except ConfigError as error:
            return CanaryResult(agent_id, failed="connect", reason=error.message)

    results = await asyncio.gather(*(one(agent_id, own) for agent_id, own in settings.items()))
    return {result.agent_id: result for result in results}


def _milliseconds(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 2)
