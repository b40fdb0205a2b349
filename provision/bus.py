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
from swarmbus.connection import NOT_AUTHORIZED, Arrival, Connection, client_id
from swarmbus.errors import BrokerUnreachable, ConfigError, NotAuthorized, SwarmbusError, TimedOut
from swarmbus.presence import Presence, read_presence
from swarmbus.provision.canary import CanaryResult, send_canary
from swarmbus.provision.mailbox_look import MailboxSeen, look_into_mailbox
from swarmbus.provision.sources.sys_topics import PREFIX
from swarmbus.provision.tls_look import CertificateSeen, look_at_certificate

_STATUS_TIMEOUT = 2.0
_MARKER_TIMEOUT = 3.0
_CANARY_TIMEOUT = 5.0
_TELL_TIMEOUT = 5.0
_REHEARSAL_TIMEOUT = 45.0
"""Where systemd does not start what it took, that shows after 30 seconds; then there is a child process."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One connection to a broker, and what it showed.

    Attributes:
        error: Why there was none; None if there was.
        protocol: 5, or 4 for MQTT 3.1.1; None without a connection.
        milliseconds: Until CONNACK, or until it failed.
        presences: Retained presence of all agents that have one; None if it could not be read.
        round_trip: Milliseconds from a message of ours to its arrival here; None if none came.
        sys: What the broker tells of itself, by whole topic; empty also where it hides that.
        retained: Topics of the inboxes of these agents on which the broker keeps a message for ever.
        writes: Reason codes of PUBACK for a message to an inbox that nobody has: on the bare topic, and
            on the one that ends in the sender; empty on MQTT 3.1.1, which has none.
    """

    error: SwarmbusError | None = None
    protocol: int | None = None
    milliseconds: float = 0.0
    presences: Mapping[str, Presence] | None = field(default_factory=dict)
    round_trip: float | None = None
    sys: Mapping[str, str] = field(default_factory=dict)
    retained: tuple[str, ...] = ()
    writes: tuple[int, ...] = ()


class Bus(Protocol):
    """What checks ask of it."""

    def status(self, agent_id: str) -> Mapping[str, Any] | None:
        """What a listener daemon answers on its control socket; None if nobody listens there.

        Raises:
            TimedOut: If somebody does, and does not answer.
        """
        ...

    def visit(self, settings: Settings, agent_ids: Sequence[str]) -> Visit:
        """Connect to the settings' broker, as one of these agents, and look round."""
        ...

    def certificate(self, settings: Settings) -> CertificateSeen | None:
        """Look at the certificate of the settings' broker; None if there is none to be seen.

        Raises:
            ConfigError: If one of our own TLS files is unusable.
        """
        ...

    def canaries(self, settings: Mapping[str, Settings]) -> Mapping[str, CanaryResult]:
        """Send one for each agent id, all at once."""
        ...

    def rehearse(self, agent_id: str) -> Mapping[str, Any] | None:
        """Have a listener daemon rehearse a wake, and tell how it went; None if nobody listens there.

        Raises:
            TimedOut: If it does not end.
            UsageError: If it cannot do that.
        """
        ...

    def clear_presence(self, settings: Settings, agent_id: str) -> None:
        """Take the retained presence and health of an agent off the broker, unless it says online.

        Raises:
            SwarmbusError: If that could not be done.
        """
        ...

    def mailbox(self, path: Path) -> MailboxSeen:
        """Look into a mailbox.

        Raises:
            OSError: If it cannot be read.
        """
        ...

    def tell(self, words: Sequence[tuple[Settings, str, bytes]]) -> Sequence[str | None]:
        """Leave retained words at brokers; not for checks, which only look.

        Args:
            words: As whom and where to, the topic, and the word.

        Returns:
            For each, why the broker did not take it; None if it did.
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

    def certificate(self, settings: Settings) -> CertificateSeen | None:
        """By a handshake of its own."""
        return look_at_certificate(Broker.from_settings(settings))

    def canaries(self, settings: Mapping[str, Settings]) -> Mapping[str, CanaryResult]:
        """Each over a connection of its own."""
        return asyncio.run(_canaries(settings))

    def rehearse(self, agent_id: str) -> Mapping[str, Any] | None:
        """By its control socket."""
        try:
            question = {"op": "rehearse", "agent_id": agent_id}
            return control.request(agent_id, question, timeout=_REHEARSAL_TIMEOUT)
        except control.NoListener:
            return None

    def clear_presence(self, settings: Settings, agent_id: str) -> None:
        """Over a connection of its own."""
        asyncio.run(_clear_presence(Broker.from_settings(settings), agent_id))

    def mailbox(self, path: Path) -> MailboxSeen:
        """By SQLite, read-only."""
        return look_into_mailbox(path)

    def tell(self, words: Sequence[tuple[Settings, str, bytes]]) -> Sequence[str | None]:
        """All at once."""
        return asyncio.run(_tell(words))


async def _visit(broker: Broker, agent_ids: Sequence[str], began: float) -> Visit:
    arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
    name = agent_ids[0] if agent_ids else None
    async with await Connection.open(
        broker, client_id=client_id(name), on_arrival=arrivals.put_nowait
    ) as connection:
        connected = _milliseconds(began)
        look = _Look(connection, arrivals)
        retained = await look.retained(topics.ANY_PRESENCE_FILTER)
        if retained is None:
            return Visit(protocol=connection.protocol, milliseconds=connected, presences=None)
        inboxes = [topics.inbox_filter(agent) for agent in agent_ids]
        return Visit(
            protocol=connection.protocol,
            milliseconds=connected,
            presences=_presences(retained),
            round_trip=await look.round_trip(),
            sys={one.topic: one.payload.decode(errors="replace") for one in await look.some(f"{PREFIX}#")},
            retained=tuple(dict.fromkeys(one.topic for one in await look.some(*inboxes))),
            writes=await _writes(connection, name) if name else (),
        )


class _Look:
    """What a broker keeps: retained messages come before what is published after the subscription, so a
    marker of our own ends each list."""

    def __init__(self, connection: Connection, arrivals: asyncio.Queue[Arrival]) -> None:
        self._connection = connection
        self._arrivals = arrivals
        self._marker = f"swarmbus/marker/{os.urandom(6).hex()}"

    async def retained(self, *filters: str) -> list[Arrival] | None:
        """What is kept there; None if the broker refuses, or the marker does not come."""
        try:
            await self._connection.subscribe([*((one, 0) for one in filters), (self._marker, 0)])
            return [one for one in await self._until_marker() if one.retained]
        except (NotAuthorized, TimeoutError):
            return None

    async def some(self, *filters: str) -> list[Arrival]:
        """The same, where nothing and not allowed are the same."""
        return (await self.retained(*filters) or []) if filters else []

    async def round_trip(self) -> float | None:
        """Milliseconds of a marker's way."""
        began = time.monotonic()
        try:
            await self._until_marker()
        except TimeoutError:
            return None
        return _milliseconds(began)

    async def _until_marker(self) -> list[Arrival]:
        self._connection.publish(self._marker, b"", qos=0)
        found = []
        async with asyncio.timeout(_MARKER_TIMEOUT):
            while (arrival := await self._arrivals.get()).topic != self._marker:
                found.append(arrival)
        return found


def _presences(retained: Sequence[Arrival]) -> dict[str, Presence]:
    found: dict[str, Presence] = {}
    for arrival in retained:
        try:
            agent = topics.parse(arrival.topic).agent_id
        except ValueError:
            continue  # agents/Nobody!/presence: no agent has that name
        presence = read_presence(agent, arrival.payload) if agent is not None else None
        if presence is not None:
            found[presence.agent] = presence
    return found


async def _clear_presence(broker: Broker, agent_id: str) -> None:
    arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
    async with await Connection.open(
        broker, client_id=client_id(agent_id), on_arrival=arrivals.put_nowait
    ) as connection:
        retained = await _Look(connection, arrivals).retained(topics.presence(agent_id))
        if retained is None:
            raise TimedOut("the broker does not show it")
        if (seen := _presences(retained).get(agent_id)) is None or seen.status == "online":
            return
        for topic in (topics.presence(agent_id), topics.health(agent_id)):
            try:
                async with asyncio.timeout(_MARKER_TIMEOUT):
                    code = await connection.publish(topic, b"", retain=True)
            except TimeoutError as error:
                raise TimedOut("the broker did not confirm that it is gone") from error
            if code >= NOT_AUTHORIZED:
                raise NotAuthorized("the broker does not let us clear it")


async def _writes(connection: Connection, agent_id: str) -> tuple[int, ...]:
    """To an inbox that nobody has: what an access list says of it, it says of every other's."""
    if connection.protocol != 5:
        return ()
    nobody = f"nobody-{os.urandom(6).hex()}"
    answers = [
        connection.publish(topic, b"") for topic in (topics.inbox(nobody), topics.inbox(nobody, agent_id))
    ]
    try:
        async with asyncio.timeout(_MARKER_TIMEOUT):
            return tuple([await answer for answer in answers])
    except (TimeoutError, BrokerUnreachable):
        return ()


async def _canaries(settings: Mapping[str, Settings]) -> dict[str, CanaryResult]:
    async def one(agent_id: str, own: Settings) -> CanaryResult:
        try:
            return await send_canary(Broker.from_settings(own), agent_id, timeout=_CANARY_TIMEOUT)
        except ConfigError as error:
            return CanaryResult(agent_id, failed="connect", reason=error.message)

    results = await asyncio.gather(*(one(agent_id, own) for agent_id, own in settings.items()))
    return {result.agent_id: result for result in results}


async def _tell(words: Sequence[tuple[Settings, str, bytes]]) -> list[str | None]:
    async def one(own: Settings, topic: str, word: bytes) -> str | None:
        try:
            async with await Connection.open(
                Broker.from_settings(own), client_id=client_id(own.agent_id)
            ) as connection:
                async with asyncio.timeout(_TELL_TIMEOUT):
                    code = await connection.publish(topic, word, retain=True)
        except SwarmbusError as error:
            return error.message
        except TimeoutError:
            return f"the broker did not acknowledge it within {_TELL_TIMEOUT:g} s"
        return None if code < 0x80 else f"the broker answered with reason code 0x{code:02x}"

    return list(await asyncio.gather(*(one(*word) for word in words)))


def _milliseconds(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 2)
