"""Presence: the retained word of each agent about itself, and the list of them.

A lease: it says when it was given and how often it is renewed, and what has run out is shown as stale,
because no will is sent when a cluster's node or a bridge dies. A sample::

    {"agent": "coder", "status": "online", "ts": "2026-04-14T05:00:00+00:00", "interval": 60.0, "wire": 1,
     "version": "1.0.0", "fingerprint": "9f…", "instance": "3c…", "host": "pi4", "since": "2026-04-13T…"}

Peers of the existing tool write and read ``agent`` and ``status`` only.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from swarmbus import topics
from swarmbus.broker import Broker
from swarmbus.connection import Arrival, Connection, client_id
from swarmbus.errors import BrokerUnreachable

LEASE: Final = 3
"""Renewals that may be missed before presence is stale."""

_LISTING_TIMEOUT = 10.0
_HIGHEST_WIRE = 1_000_000
_YEAR = 366 * 86_400.0

Status = Literal["online", "offline", "stale"]


@dataclass(frozen=True, slots=True)
class Presence:
    """What is known of an agent's presence.

    Attributes:
        status: ``stale`` is ``online`` whose lease has run out.
        wire: Its wire number; None for a peer of the existing tool.
        instance: Differs with every start of its listener daemon.
        since: When that daemon started.
        ts: When this word was given.
        interval: Seconds between renewals; None for a peer that does not renew.
        paused: Why nothing wakes it at present; None if it may be woken.
    """

    agent: str
    status: Status
    wire: int | None = None
    version: str | None = None
    fingerprint: str | None = None
    instance: str | None = None
    host: str | None = None
    since: str | None = None
    ts: str | None = None
    interval: float | None = None
    paused: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For ``list --long --json``; ``state`` is the status, ``last_seen`` when it was last given."""
        facts = {name: getattr(self, name) for name in self.__slots__ if name not in ("status", "ts")}
        return {"agent": self.agent, "state": self.status, "last_seen": self.ts, **facts}


def read_presence(agent: str, payload: bytes, now: datetime | None = None) -> Presence | None:
    """Read a presence; None for one that was cleared or says nothing we know.

    Args:
        agent: The agent id in the topic: what the payload calls itself does not count.
        payload: The retained message.
        now: To judge the lease by; None for now.
    """
    try:
        said = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or said.get("status") not in ("online", "offline"):
        return None
    # Anybody may have written it: what is not plain text is not shown, no number is trusted.
    text = {key: value for key in _TEXT if _is_plain(value := said.get(key))}
    text |= {key: value for key in _TIMES if _is_time(value := said.get(key))}
    interval = said.get("interval")
    wire = said.get("wire")
    presence = Presence(
        agent,
        said["status"],
        wire=wire if type(wire) is int and 0 <= wire <= _HIGHEST_WIRE else None,
        interval=float(interval) if isinstance(interval, int | float) and 0 < interval <= _YEAR else None,
        **text,
    )
    if presence.status == "online" and _lease_over(presence, now or datetime.now(UTC)):
        return Presence(agent, "stale", presence.wire, interval=presence.interval, **text)
    return presence


async def list_presence(connection: Connection, arrivals: asyncio.Queue[Arrival]) -> list[Presence]:
    """All agents with a presence at the broker, by id.

    A subscription at QoS 0, and an end marker of our own sent behind it: complete for any number of
    agents, where a time window is not, and QoS 1 is cut off silently at the broker's queue.

    Args:
        connection: One that is used for nothing else.
        arrivals: Where its arrivals are put.

    Raises:
        BrokerUnreachable: If the connection is lost, or the marker does not come back.
    """
    marker = f"swarmbus/marker/{os.urandom(6).hex()}"
    await connection.subscribe([(topics.ANY_PRESENCE_FILTER, 0), (marker, 0)])
    connection.publish(marker, b"", qos=0)
    found: dict[str, Presence] = {}
    try:
        async with asyncio.timeout(_LISTING_TIMEOUT):
            while (arrival := await arrivals.get()).topic != marker:
                try:
                    agent = topics.parse(arrival.topic).agent_id
                except ValueError:
                    continue  # agents/Nobody!/presence: no agent has that name
                presence = read_presence(agent, arrival.payload) if agent is not None else None
                if presence is not None:
                    found[presence.agent] = presence
    except TimeoutError as error:
        raise BrokerUnreachable(
            f"the broker at {connection.broker} did not finish the list of agents",
            hint="try again; the list so far is not shown, because it may be incomplete",
        ) from error
    return [found[agent] for agent in sorted(found)]


async def ask_presence(broker: Broker, agent_id: str | None = None) -> list[Presence]:
    """`list_presence` over a connection of its own.

    Raises:
        BrokerUnreachable: If there is no broker, or the list could not be completed.
        BrokerRefused: If it refuses us.
    """
    arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
    async with await Connection.open(
        broker, client_id=client_id(agent_id), on_arrival=arrivals.put_nowait
    ) as connection:
        return await list_presence(connection, arrivals)


def _lease_over(presence: Presence, now: datetime) -> bool:
    if presence.ts is None or presence.interval is None:
        return False
    try:
        given = datetime.fromisoformat(presence.ts)
    except ValueError:
        return False
    if given.tzinfo is None:
        return False
    return now - given > timedelta(seconds=presence.interval * LEASE)


def _is_plain(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_TEXT and value.isprintable()


def _is_time(value: object) -> bool:
    """Whether it is ISO 8601 with a zone, and a moment that Unix time has."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        return moment is not None and moment.tzinfo is not None and moment.timestamp() >= 0
    except (ValueError, OverflowError):
        return False


_TEXT = ("version", "fingerprint", "instance", "host", "paused")
_TIMES = ("since", "ts")
_LONGEST_TEXT = 255  # a host name at its longest (RFC 1035)
