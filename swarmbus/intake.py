"""Receiving: broker -> mailbox, committed -> PUBACK -> receipts, in this order and no other.

A kill at any instant loses nothing: what was not committed was not acknowledged, and comes again; what
comes again is known by its id. What cannot be read goes to the quarantine and is acknowledged too, so that
it is never in the way of the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from swarmbus import topics
from swarmbus.commits import GroupCommit
from swarmbus.connection import Arrival, Connection
from swarmbus.envelope import CANARY, AgentMessage, Unreadable, read_payload
from swarmbus.errors import SwarmbusError
from swarmbus.mailbox import Mailbox
from swarmbus.presence import read_presence
from swarmbus.spool import Spool, read_receipts

log = logging.getLogger(__name__)

BURST: Final = 1000
"""Arrivals that go into one commit at the most."""

_RETRY_SECONDS = 2.0


@dataclass(slots=True)
class _Sorted:
    """One burst, taken apart."""

    messages: list[AgentMessage] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)
    canaries: list[AgentMessage] = field(default_factory=list)
    bad: list[dict[str, Any]] = field(default_factory=list)
    markers: list[str] = field(default_factory=list)
    not_stored: set[str] = field(default_factory=set)  # ids of conflicts, once it was tried

    @property
    def needs_storing(self) -> bool:
        return bool(self.messages or self.canaries or self.bad)


class Intake:
    """The receiving half of an agent on one host.

    Args:
        on_mail: Called after a commit that brought something new.
        on_marker: Called with the nonce of a marker that we sent to ourselves, when all that came before
            it is stored and acknowledged.
    """

    def __init__(
        self,
        agent_id: str,
        mailbox: Mailbox,
        commits: GroupCommit,
        spool: Spool,
        *,
        on_mail: Callable[[], None],
        on_marker: Callable[[str], None],
    ) -> None:
        self._agent_id = agent_id
        self._mailbox = mailbox
        self._commits = commits
        self._spool = spool
        self._on_mail = on_mail
        self._on_marker = on_marker
        self._arrived: list[Arrival] = []
        self._wake = asyncio.Event()

    def arrived(self, arrival: Arrival) -> None:
        """For `Connection.open`: put an arrival into the next burst."""
        if arrival.qos == 0 and self._took_presence(arrival):
            return
        self._arrived.append(arrival)
        self._wake.set()

    def _took_presence(self, arrival: Arrival) -> bool:
        """At once, because it is heard just before the PUBACK of the first message to that agent."""
        with contextlib.suppress(ValueError):
            topic = topics.parse(arrival.topic)
            if topic.kind == "presence" and topic.agent_id is not None:
                if (presence := read_presence(topic.agent_id, arrival.payload)) is not None:
                    if presence.status == "stale" and not arrival.retained:
                        # Given at this moment: not the lease has run out, but its clock is slow.
                        presence = replace(presence, status="online")
                    self._spool.on_presence(presence)
                return True
        return False

    async def serve(self, connection: Connection) -> None:
        """Store what arrives over this connection, until cancelled."""
        while True:
            await self._wake.wait()
            # While one burst is on its way to the disk, the next one gathers.
            burst, self._arrived = self._arrived[:BURST], self._arrived[BURST:]
            if not self._arrived:
                self._wake.clear()
            await self._take(connection, burst)

    def forget_connection(self) -> None:
        """Drop what is not stored: it was not acknowledged, and comes again."""
        self._arrived.clear()
        self._wake.clear()

    async def _take(self, connection: Connection, burst: list[Arrival]) -> None:
        by_kind = self._sort(burst)
        received = time.time()
        # Receipts and presence are notes: one that is lost costs a message that is sent twice, not a promise.
        while by_kind.needs_storing:
            try:
                work = partial(self._store, by_kind, received)
                stored = self._commits.add(work, then=self._stored)
                self._commits.flush()  # a burst is a group already
                await stored
            except SwarmbusError as error:
                # Not acknowledged: the broker keeps it, and we try again while it does.
                log.error("cannot store %d messages: %s", len(by_kind.messages), error.message)
                await asyncio.sleep(_RETRY_SECONDS)
                if connection.lost.done():
                    return
            except Exception as error:
                log.exception("cannot store %d messages", len(by_kind.messages))
                if len(burst) > 1:
                    # One of them is to blame, and must not be in the way of the others.
                    for arrival in burst:
                        await self._take(connection, [arrival])
                    return
                if not by_kind.messages and not by_kind.canaries:
                    raise
                by_kind = _Sorted(bad=[_bad("unreadable", burst[0], f"cannot be stored: {error!a}")])
            else:
                break
        connection.acknowledge(burst)
        self._send_receipts(connection, by_kind, received)
        for nonce in by_kind.markers:
            self._on_marker(nonce)

    def _stored(self, new: int) -> None:
        # Handlers need not wait for the disk: what a power cut takes back was not acknowledged, comes again,
        # and is known to them by its id.
        if new:
            self._on_mail()

    def _sort(self, burst: list[Arrival]) -> _Sorted:
        by_kind = _Sorted()
        for arrival in burst:
            try:
                topic = topics.parse(arrival.topic)
            except ValueError as error:
                by_kind.bad.append(_bad("unreadable", arrival, str(error)))
                continue
            match topic.kind:
                case "receipts":
                    self._take_receipts(arrival, topic.sender, by_kind)
                case _:
                    self._take_messages(arrival, topic.sender, by_kind)
        return by_kind

    def _take_receipts(self, arrival: Arrival, vouched: str | None, by_kind: _Sorted) -> None:
        receipts = read_receipts(arrival.payload)
        if receipts is None or (vouched is not None and vouched != receipts["from"]):
            log.warning("passed over receipts that cannot be read, on %s", arrival.topic)
        elif isinstance(marker := receipts.get("marker"), str):
            by_kind.markers.append(marker)
        else:
            self._spool.on_receipts(receipts["from"], receipts)

    def _take_messages(self, arrival: Arrival, vouched: str | None, by_kind: _Sorted) -> None:
        for item in read_payload(arrival.payload):
            if isinstance(item, Unreadable):
                by_kind.bad.append(_bad("unreadable", arrival, item.reason, item.payload))
            elif vouched is not None and vouched != item.from_agent:
                reason = f"says it is from {item.from_agent}, the broker says {vouched}"
                by_kind.bad.append(_bad("forged", arrival, reason, item.to_wire().encode(), item.id))
            elif item.to == "broadcast" and item.from_agent == self._agent_id:
                continue  # our own broadcast comes back to us
            elif item.kind == CANARY:
                by_kind.canaries.append(item)
            else:
                item.verified = vouched is not None
                by_kind.messages.append(item)
                by_kind.topics.append(arrival.topic)

    def _store(self, by_kind: _Sorted, received: float) -> int:
        """Inside a transaction; returns how many messages were new."""
        outcomes = self._mailbox.inbound.store(by_kind.messages, received)
        for outcome, message, topic in zip(outcomes, by_kind.messages, by_kind.topics, strict=True):
            if outcome == "conflict":
                by_kind.not_stored.add(message.id)
                self._mailbox.quarantine.add(
                    "conflict",
                    topic=topic,
                    reason="its id is that of a stored message with other content",
                    payload=message.to_wire().encode(),
                    message_id=message.id,
                )
        for canary in by_kind.canaries:
            self._mailbox.inbound.store_canary(canary.id, canary.from_agent, received)
        for bad in by_kind.bad:
            self._mailbox.quarantine.add(**bad)
        return outcomes.count("new")

    def _send_receipts(self, connection: Connection, by_kind: _Sorted, received: float) -> None:
        # Duplicates are confirmed too: their receipt may have been what was lost.
        stored: dict[str, list[str]] = {}
        for message in by_kind.messages:
            if message.id in by_kind.not_stored:
                continue
            if "wire" in message.extra and message.to != "broadcast":
                stored.setdefault(message.from_agent, []).append(message.id)
        for sender, ids in stored.items():
            publish_receipts(connection, self._agent_id, sender, {"stored": ids})
        for canary in by_kind.canaries:
            hops = {"received": received, "stored": time.time()}
            publish_receipts(
                connection, self._agent_id, canary.from_agent, {"canary": canary.id, "hops": hops}
            )
            self._commits.note(partial(self._mailbox.inbound.forget_canary, canary.id))


def publish_receipts(
    connection: Connection, agent_id: str, to: str, receipts: dict[str, Any]
) -> asyncio.Future[int]:
    """Tell ``to`` what became of its messages here; lost with the connection, which brings them again."""
    future = connection.publish(topics.receipts(to), json.dumps({"from": agent_id, **receipts}))
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


def _bad(
    kind: str, arrival: Arrival, reason: str, payload: bytes | None = None, message_id: str | None = None
) -> dict[str, Any]:
    return {
        "kind": kind,
        "topic": arrival.topic,
        "reason": reason,
        "payload": arrival.payload if payload is None else payload,
        "message_id": message_id,
    }
