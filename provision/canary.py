"""The canary: one message along the whole way, with the time of each hop and the first hop that failed.

::

    result = canary(settings, timeout=5.0)
    result.ok, result.failed, result.hops   # True, None, {"connect": 3.1, "broker": 0.6, ...}

It travels as every message does, from the agent to itself, and is of a kind that the listener daemon stores
apart, confirms and forgets: no reader, handler or inbox file ever sees it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from swarmbus import topics
from swarmbus.broker import Broker
from swarmbus.config import Settings
from swarmbus.connection import (
    NO_MATCHING_SUBSCRIBERS,
    NOT_AUTHORIZED,
    Arrival,
    Connection,
    client_id,
)
from swarmbus.envelope import CANARY, new_message
from swarmbus.errors import BrokerUnreachable, ConfigError, SwarmbusError

Hop = Literal["connect", "broker", "listener", "mailbox", "receipt"]

HOPS: Final[tuple[Hop, ...]] = ("connect", "broker", "listener", "mailbox", "receipt")
"""``connect``: to the broker, and subscribed to receipts. ``broker``: from PUBLISH to PUBACK. ``listener``:
from PUBLISH until the daemon has it (beside the hop before, not behind it). ``mailbox``: until it is
committed. ``receipt``: until the sender knows."""

_PAUSE = 0.25


@dataclass(frozen=True, slots=True)
class CanaryResult:
    """How far it came.

    Attributes:
        hops: Milliseconds of each hop that it made, in their order.
        failed: The first hop that it did not make; None if it came through.
        reason: Why, in words; None likewise.
        total: Milliseconds from sending to the receipt; None if none came.
        retry: Whether what failed may be over in a moment: no broker yet, nobody subscribed yet.
    """

    agent_id: str
    hops: Mapping[Hop, float] = field(default_factory=dict)
    failed: Hop | None = None
    reason: str | None = None
    total: float | None = None
    retry: bool = False

    @property
    def ok(self) -> bool:
        """Whether it came through."""
        return self.failed is None

    @property
    def summary(self) -> str:
        """One line for a human."""
        message = f"a message from {self.agent_id} to {self.agent_id}"
        if self.ok:
            return f"{message} was stored and confirmed in {self.total:.0f} ms"
        return f"{message} failed at the hop '{self.failed}': {self.reason}"

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "agent": self.agent_id,
            "ok": self.ok,
            "hops_ms": dict(self.hops),
            "total_ms": self.total,
            "failed": self.failed,
            "reason": self.reason,
        }


def canary(settings: Settings, *, timeout: float = 5.0, patience: float = 0.0) -> CanaryResult:
    """Send one for the settings' agent, and wait for its receipt.

    Args:
        timeout: Seconds for the receipt; connecting has its own time-out.
        patience: Seconds during which it is sent again where there is no broker yet, or nobody subscribed:
            for daemons that have only just been started.

    Raises:
        UsageError: If the settings name no agent.
        ConfigError: If a password or TLS file cannot be used.
    """
    agent_id = settings.require_agent_id()
    give_up = time.monotonic() + patience
    while True:
        result = asyncio.run(send_canary(Broker.from_settings(settings), agent_id, timeout=timeout))
        if not result.retry or time.monotonic() > give_up:
            return result
        time.sleep(_PAUSE)


async def send_canary(broker: Broker, agent_id: str, *, timeout: float) -> CanaryResult:
    """Send one over a connection of its own.

    Raises:
        ConfigError: If a TLS file cannot be used.
    """
    arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
    journey = _Journey(agent_id)
    try:
        async with await Connection.open(
            broker, client_id=client_id(agent_id), on_arrival=arrivals.put_nowait
        ) as connection:
            await connection.subscribe([(topics.receipts_filter(agent_id), 1)])
            journey.connected()
            return await _travel(journey, connection, arrivals, timeout)
    except ConfigError:
        raise  # a setting that is wrong is not the bus's failure
    except SwarmbusError as error:
        return journey.failed(error.message, retry=isinstance(error, BrokerUnreachable))


class _Journey:
    """The hops as they are made."""

    def __init__(self, agent_id: str) -> None:
        self.agent_id = agent_id
        self._began = time.time()
        self._hops: dict[Hop, float] = {}
        self.sent = 0.0

    def connected(self) -> None:
        self._hops["connect"] = _milliseconds(self._began, time.time())

    def acknowledged(self) -> None:
        self._hops["broker"] = _milliseconds(self.sent, time.time())

    def confirmed(self, received: float, stored: float, arrived: float) -> CanaryResult:
        # Wall clocks of one host: the canary is sent where the listener daemon runs.
        self._hops.setdefault(
            "broker", _milliseconds(self.sent, arrived)
        )  # a receipt may overtake the PUBACK
        self._hops["listener"] = _milliseconds(self.sent, received)
        self._hops["mailbox"] = _milliseconds(received, stored)
        self._hops["receipt"] = _milliseconds(stored, arrived)
        return CanaryResult(self.agent_id, self._hops, total=_milliseconds(self.sent, arrived))

    def failed(self, reason: str, *, retry: bool = False) -> CanaryResult:
        # Hops are made in their order.
        return CanaryResult(self.agent_id, self._hops, HOPS[len(self._hops)], reason, retry=retry)


async def _travel(
    journey: _Journey, connection: Connection, arrivals: asyncio.Queue[Arrival], timeout: float
) -> CanaryResult:
    agent_id = journey.agent_id
    message = new_message(sender=agent_id, to=agent_id, subject="canary", body="", extra={"kind": CANARY})
    journey.sent = time.time()
    puback = connection.publish(topics.inbox(agent_id), message.to_wire())
    try:
        async with asyncio.timeout(timeout):
            code = await puback
            if code == NOT_AUTHORIZED:
                return journey.failed(f"the broker forbids us to publish on {topics.inbox(agent_id)}")
            if code >= 0x80:
                return journey.failed(f"the broker answered with reason code 0x{code:02x}")
            journey.acknowledged()
            if code == NO_MATCHING_SUBSCRIBERS:
                return journey.failed("the broker has nobody subscribed to that inbox", retry=True)
            hops, arrived = await _receipt(message.id, connection, arrivals)
    except TimeoutError:
        if puback.done() and not puback.cancelled():
            return journey.failed(f"the broker has it, and no receipt came within {timeout:g} s")
        return journey.failed(f"the broker did not acknowledge it within {timeout:g} s")
    return journey.confirmed(hops["received"], hops["stored"], arrived)


async def _receipt(
    message_id: str, connection: Connection, arrivals: asyncio.Queue[Arrival]
) -> tuple[dict[str, float], float]:
    """Wait for ``{"from": id, "canary": message id, "hops": {"received": Unix time, "stored": …}}``."""
    while True:
        next_one = asyncio.ensure_future(arrivals.get())
        waiting: list[asyncio.Future[Any]] = [next_one, connection.lost]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not next_one.done():
                raise BrokerUnreachable(f"lost the broker at {connection.broker}: {connection.lost.result()}")
            arrival = next_one.result()
        finally:
            next_one.cancel()
        arrived = time.time()
        connection.acknowledge([arrival])
        said = _read(arrival.payload)
        if said.get("canary") == message_id and isinstance(hops := said.get("hops"), dict):
            return hops, arrived


def _read(payload: bytes) -> dict[str, Any]:
    try:
        said = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _milliseconds(start: float, end: float) -> float:
    return round(max(end - start, 0.0) * 1000, 2)
