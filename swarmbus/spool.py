"""Sending: from the spool to the broker, and again until the receiver says that it has the message.

The broker's acknowledgement is not enough: mosquitto acknowledges what it has not saved. A message leaves
the spool at the receiver's receipt; until then it is sent again, with the same id, whenever the receiver
gives a new sign of life or owes a receipt for too long. Receivers that are offline are not sent to twice:
the broker's queue would fill with copies.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from swarmbus import topics
from swarmbus.agent_id import BROADCAST, is_agent_id
from swarmbus.commits import GroupCommit
from swarmbus.connection import NO_MATCHING_SUBSCRIBERS, NOT_AUTHORIZED, Connection
from swarmbus.envelope import AgentMessage, join_batch
from swarmbus.errors import BrokerUnreachable, SwarmbusError
from swarmbus.mailbox import Mailbox
from swarmbus.recipient import Recipient

if TYPE_CHECKING:
    from swarmbus.mailbox.outbound import Failure
    from swarmbus.mailbox.records import State
    from swarmbus.presence import Presence

log = logging.getLogger(__name__)

Wait = Literal["queued", "accepted", "stored", "seen"]

BATCH_MESSAGES: Final = 100
BATCH_BYTES: Final = 128 * 1024
"""Bounds of one PUBLISH to a receiver of our wire; one larger message still goes alone."""

IN_FLIGHT: Final = 20
"""PUBLISH packets without PUBACK; mosquitto's own window (max_inflight_messages)."""

ANSWER_TIMEOUT: Final = 20.0
"""Seconds a broker may take for a PUBACK before the connection counts as dead."""

RECEIPT_MOMENT: Final = 0.5
"""Seconds that a sender which is about to end waits for receipts; what comes later costs another sending."""

_RANK: dict[str, int] = {"queued": 0, "accepted": 1, "stored": 2, "seen": 3}


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is known of a message that was sent.

    Attributes:
        state: How far it is known to have come, or how it failed.
        reason: Why it is not further, in words; None where nothing is amiss.
        final: Whether nothing more will become known.
        paused: Why nothing wakes the receiver at present; None if something may, or we do not know.
    """

    id: str
    to: str
    ts: str
    state: State
    reason: str | None = None
    final: bool = False
    paused: str | None = None

    @property
    def failed(self) -> bool:
        """Whether it was given up."""
        return self.state not in _RANK

    def reached(self, wait: Wait) -> bool:
        """Whether it has come as far as was asked."""
        return _RANK.get(self.state, -1) >= _RANK[wait]


class Spool:
    """The sending half of an agent on one host; `attach` it to a connection, and again to the next."""

    def __init__(self, agent_id: str, mailbox: Mailbox, commits: GroupCommit, keep_seconds: float) -> None:
        self._agent_id = agent_id
        self._mailbox = mailbox
        self._commits = commits
        self._keep_seconds = keep_seconds
        self._connection: Connection | None = None
        self._recipients: dict[str, Recipient] = {}
        self._wires = mailbox.peers.known()
        self._paused: dict[str, str | None] = {}
        self._envelopes: dict[str, str] = {}  # of what was just submitted; others are read when due
        self._in_flight: dict[asyncio.Future[int], tuple[Recipient, list[str], float]] = {}
        self._waiting: dict[str, list[tuple[Wait, AgentMessage, asyncio.Future[Delivery]]]] = {}
        self._pump_planned = False
        self._loop = asyncio.get_running_loop()
        self.reload()

    @property
    def connected(self) -> bool:
        """Whether messages go out now."""
        return self._connection is not None and not self._connection.lost.done()

    @property
    def watched(self) -> list[str]:
        """The agents whose presence we have to hear."""
        return [agent for agent in self._recipients if is_agent_id(agent)]

    @property
    def idle(self) -> bool:
        """Whether the broker has acknowledged all that could be sent."""
        return not self._in_flight and not any(r.may_be_sent_to for r in self._recipients.values())

    async def submit(self, message: AgentMessage, wait: Wait, timeout: float) -> Delivery:
        """Commit a message to the spool and see it on its way.

        Args:
            message: What to send.
            wait: How far to wait; ``queued`` returns when it is on the disk.
            timeout: Seconds to wait for that; when they are over, what is known by then is returned.

        Raises:
            StorageError: If it could not be committed; it is then not sent.
        """
        delivery = await self._submit(message, wait, timeout)
        return replace(delivery, paused=self._paused.get(message.to))

    async def _submit(self, message: AgentMessage, wait: Wait, timeout: float) -> Delivery:
        envelope = message.to_wire()
        message_id = message.id
        kept = self._commits.add(
            lambda: self._mailbox.outbound.add(message_id, message.to, envelope),
            then=lambda _: self._enqueue(message.to, message_id, envelope),
        )
        if wait == "queued":
            await kept
            return _delivery(message, "queued")
        answer: asyncio.Future[Delivery] = self._loop.create_future()
        self._waiting.setdefault(message_id, []).append((wait, message, answer))
        try:
            await kept  # on its way already; but nothing is promised that is not on the disk
            if wait == "accepted" and not self.connected and not answer.done():
                return _delivery(message, "queued", "the broker is not reachable")
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            return self._known(message)
        finally:
            self._forget_waiter(message_id, answer)

    def attach(self, connection: Connection) -> None:
        """Send over this connection from now on; the caller subscribes to presence of `watched`."""
        self._connection = connection
        self._plan_pump()

    def detach(self) -> None:
        """The connection is gone: nothing in flight counts as accepted."""
        self._connection = None
        for recipient in self._recipients.values():
            recipient.forget_connection()

    def reload(self, ids: Iterable[str] | None = None) -> None:
        """Take up what lies in the spool, or, of it, what is new to us."""
        known = {message_id for r in self._recipients.values() for message_id in (*r.ready, *r.owed)}
        known.update(message_id for _, sent, _ in self._in_flight.values() for message_id in sent)
        after = 0
        while page := self._mailbox.outbound.open(after=after):
            after = page[-1].seq
            for row in page:
                if row.id in known or (ids is not None and row.id not in ids):
                    continue
                recipient = self._recipient(row.to)
                if row.accepted is None:
                    recipient.ready.append(row.id)
                else:
                    recipient.owed[row.id] = None
        self._plan_pump()

    def expire(self) -> None:
        """Give up what has waited for longer than messages are kept."""
        self._commits.note(lambda: self._mailbox.outbound.expire(time.time() - self._keep_seconds))

    def on_presence(self, presence: Presence) -> None:
        """A receiver's presence was heard: it may have come back, and may be owed to."""
        recipient = self._recipients.get(presence.agent)
        if recipient is None:
            return
        self._paused[presence.agent] = presence.paused
        if self._wires.get(presence.agent, -1) != presence.wire:
            self._wires[presence.agent] = presence.wire
            self._commits.note(lambda: self._mailbox.peers.learn(presence.agent, presence.wire))
        if recipient.see(presence):
            recipient.send_again()
        self._plan_pump()

    def on_receipts(self, receiver: str, receipts: dict[str, Any]) -> None:
        """A receiver has stored or seen messages of ours."""
        # Anybody can send receipts: only those of agents that we write to make us remember anything.
        recipient = self._recipients.get(receiver)
        for kind in ("stored", "seen"):
            ids = [message_id for message_id in receipts.get(kind, ()) if isinstance(message_id, str)]
            if not ids:
                continue
            if recipient is not None:
                recipient.confirm(ids)
            work = partial(self._mailbox.outbound.receipt, kind, ids, receiver)
            self._record(work, ids, receiver, kind, final=kind == "seen")
            self._forget_envelopes(ids)
        self._plan_pump()

    def check(self) -> None:
        """To be called every second: late receipts, and a broker that does not answer."""
        now = time.monotonic()
        for recipient in self._recipients.values():
            if recipient.is_late(now):
                recipient.send_again()
        self._plan_pump()
        oldest = min((since for _, _, since in self._in_flight.values()), default=now)
        if self._connection is not None and now - oldest > ANSWER_TIMEOUT:
            self._connection.drop()

    async def settle(self, timeout: float) -> None:
        """Wait until the broker has acknowledged what could be sent, or the time is over.

        And then a moment for the receipts of those who are online.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self.connected and not self.idle:  # noqa: ASYNC110  # idle is derived, not set
                    await asyncio.sleep(0.005)
            async with asyncio.timeout(RECEIPT_MOMENT):
                while self.connected and self._receipts_are_due:  # noqa: ASYNC110
                    await asyncio.sleep(0.002)

    @property
    def _receipts_are_due(self) -> bool:
        due = (
            recipient.owed or recipient.ready for recipient in self._recipients.values() if recipient.online
        )
        return bool(self._in_flight) or any(due)

    def _recipient(self, agent: str) -> Recipient:
        recipient = self._recipients.get(agent)
        if recipient is None:
            recipient = self._recipients[agent] = Recipient(agent, self._wires.get(agent))
            if self._connection is not None and is_agent_id(agent):
                # Sent before the first PUBLISH: retained presence comes before that one's PUBACK.
                self._watch(self._connection, agent)
        return recipient

    def _enqueue(self, to: str, message_id: str, envelope: str) -> None:
        self._envelopes[message_id] = envelope
        self._recipient(to).ready.append(message_id)
        self._plan_pump()

    def _watch(self, connection: Connection, agent: str) -> None:
        task = self._loop.create_task(connection.subscribe([(topics.presence(agent), 0)]))
        task.add_done_callback(_log_failure)

    def _plan_pump(self) -> None:
        if not self._pump_planned and self.connected:
            self._pump_planned = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_planned = False
        connection = self._connection
        if connection is None or connection.lost.done():
            return
        busy = deque(r for r in self._recipients.values() if r.may_be_sent_to)
        while busy and len(self._in_flight) < IN_FLIGHT:
            recipient = busy.popleft()
            if ids := self._next_batch(recipient):
                payload = join_batch([self._envelope(message_id) for message_id in ids])
                topic = topics.for_message(recipient.agent)
                future = connection.publish(topic, payload)
                self._in_flight[future] = (recipient, ids, time.monotonic())
                future.add_done_callback(self._on_answer)
            if recipient.may_be_sent_to:
                busy.append(recipient)

    def _next_batch(self, recipient: Recipient) -> list[str]:
        at_most = BATCH_MESSAGES if recipient.confirms else 1
        ids: list[str] = []
        size = 0
        while recipient.ready and len(ids) < at_most:
            message_id = recipient.ready[0]
            if not (envelope := self._envelope(message_id)):
                recipient.ready.popleft()  # dropped from the spool by `swarmbus outbox --drop`
                continue
            size += len(envelope)
            if ids and size > BATCH_BYTES:
                break
            ids.append(recipient.ready.popleft())
        return ids

    def _envelope(self, message_id: str) -> str:
        if (envelope := self._envelopes.get(message_id)) is not None:
            return envelope
        row = self._mailbox.outbound.get(message_id)
        return "" if row is None or row.done else row.envelope

    def _on_answer(self, future: asyncio.Future[int]) -> None:
        recipient, ids, _ = self._in_flight.pop(future)
        if future.cancelled() or isinstance(future.exception(), BrokerUnreachable):
            recipient.ready.extendleft(reversed(ids))
            for message_id in ids:
                self._tell(message_id, recipient.agent, "queued", "the broker is not reachable", now=True)
            return
        code = future.result()
        if code == NO_MATCHING_SUBSCRIBERS:
            self._nobody_there(ids, recipient)
        elif code == NOT_AUTHORIZED:
            self._fail(ids, recipient, "not-authorized", f"the broker forbids messages to {recipient.agent}")
        elif code >= 0x80:
            self._fail(ids, recipient, "rejected", f"the broker answered with reason code 0x{code:02x}")
        else:
            self._accepted(ids, recipient)
        self._plan_pump()

    def _nobody_there(self, ids: list[str], recipient: Recipient) -> None:
        """A receiver we know has lost its session, with the broker's memory for instance, and will be back.

        One that was never heard of may be a slip of the pen: whoever waits for the answer is told, and has
        to send again. Where nobody waits, because we said before that we would keep the message, we do.
        """
        refused = [] if recipient.confirms else [one for one in ids if one in self._waiting]
        kept = [one for one in ids if one not in refused]
        if refused:
            self._fail(refused, recipient, "no-subscriber", f"nobody has ever listened as {recipient.agent}")
        if kept:
            reason = f"the broker has no session of {recipient.agent} at present"
            if not recipient.confirms:
                reason = f"nobody has ever listened as {recipient.agent}; kept until somebody does"
            self._owe(recipient, kept)
            work = partial(self._mailbox.outbound.defer, kept, reason)
            self._record(work, kept, recipient.agent, "queued", reason, now=True)

    def _accepted(self, ids: list[str], recipient: Recipient) -> None:
        done = not recipient.confirms
        if not done:
            self._owe(recipient, ids)
        reason = None
        if done and recipient.agent != BROADCAST:
            reason = f"{recipient.agent} does not say what it has stored"
        if done:
            self._forget_envelopes(ids)
        work = partial(self._mailbox.outbound.accepted, ids, done=done)
        self._record(work, ids, recipient.agent, "accepted", reason, final=done)

    def _owe(self, recipient: Recipient, ids: list[str]) -> None:
        if not recipient.owed:
            recipient.heard = time.monotonic()
        for message_id in ids:
            # A receipt may overtake the PUBACK; its envelope is gone then.
            if message_id in self._envelopes or not self._is_done(message_id):
                recipient.owed[message_id] = None
                self._envelopes.pop(message_id, None)

    def _is_done(self, message_id: str) -> bool:
        row = self._mailbox.outbound.get(message_id)
        return row is None or row.done

    def _fail(self, ids: list[str], recipient: Recipient, failure: Failure, reason: str) -> None:
        self._forget_envelopes(ids)
        work = partial(self._mailbox.outbound.fail, ids, failure, reason)
        self._record(work, ids, recipient.agent, failure, reason, final=True)

    def _forget_envelopes(self, ids: list[str]) -> None:
        for message_id in ids:
            self._envelopes.pop(message_id, None)

    def _record(
        self,
        work: Callable[[], None],
        ids: list[str],
        to: str,
        state: State,
        reason: str | None = None,
        **how: bool,
    ) -> None:
        """Write down what has become known, and then tell those who wait: they may look it up at once."""

        def tell(_: None) -> None:
            for message_id in ids:
                self._tell(message_id, to, state, reason, **how)

        self._commits.note(work, then=tell, soon=any(message_id in self._waiting for message_id in ids))

    def _tell(
        self,
        message_id: str,
        to: str,
        state: State,
        reason: str | None = None,
        *,
        final: bool = False,
        now: bool = False,
    ) -> None:
        waiting = self._waiting.get(message_id)
        if not waiting:
            return
        for wait, message, future in waiting:
            delivery = _delivery(message, state, reason, final=final)
            # Who waits for the receiver waits on: the broker, or its session, may be back in time.
            if not future.done() and (final or delivery.reached(wait) or (now and wait == "accepted")):
                future.set_result(delivery)

    def _known(self, message: AgentMessage) -> Delivery:
        row = self._mailbox.outbound.get(message.id)
        return _delivery(message, row.state if row else "queued", row.reason if row else None)

    def _forget_waiter(self, message_id: str, future: asyncio.Future[Delivery]) -> None:
        left = [entry for entry in self._waiting.get(message_id, ()) if entry[2] is not future]
        if left:
            self._waiting[message_id] = left
        else:
            self._waiting.pop(message_id, None)


def read_receipts(payload: bytes) -> dict[str, Any] | None:
    """Take a receipts message apart: ``{"from": id, "stored": [ids], "seen": [ids]}``; None if it is none."""
    try:
        receipts = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(receipts, dict) or not isinstance(receipts.get("from"), str):
        return None
    if not is_agent_id(receipts["from"]):
        return None
    for kind in ("stored", "seen"):
        ids = receipts.get(kind)
        # All ids of ours are ASCII; text from outside may be what SQLite cannot compare with.
        listed = ids if isinstance(ids, list) else []
        receipts[kind] = [one for one in listed if isinstance(one, str) and one.isascii()]
    return receipts


def _delivery(
    message: AgentMessage, state: State, reason: str | None = None, *, final: bool = False
) -> Delivery:
    return Delivery(message.id, message.to, message.ts.isoformat(), state, reason, final)


def _log_failure(future: asyncio.Future[Any]) -> None:
    if future.cancelled() or (error := future.exception()) is None:
        return
    if not isinstance(error, SwarmbusError):
        raise error
    # What was not recorded is at worst done again: sent twice with one id, which the receiver ignores.
    log.warning("%s", error.message)
