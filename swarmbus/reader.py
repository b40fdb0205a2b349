"""Reading without a listener daemon: take what the broker queued for the agent into its mailbox."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from datetime import UTC, datetime
from typing import Any, Final

from swarmbus import control, topics
from swarmbus.agent import Agent
from swarmbus.broker import Broker
from swarmbus.connection import Connection, client_id
from swarmbus.ending import end
from swarmbus.errors import BrokerUnreachable, ListenerRunning
from swarmbus.lock import ReaderStays, SessionLock, lock_holder, session_lock
from swarmbus.mailbox import Mailbox
from swarmbus.paths import lock_path, mailbox_path
from swarmbus.version import WIRE, __version__

_MARKER_TIMEOUT: Final = 2.0
"""Seconds for the end marker; a full queue at the broker drops it, so it is sent again."""

_DRAIN_TIMEOUT: Final = 120.0

_LISTENER_STARTS: Final = 5.0
"""Seconds between a listener daemon's taking the session and its first answer, at the most."""

_LOOK_EVERY: Final = 0.1
"""Seconds between two looks at what has no event: who wants the session, what another reader stored."""


async def fetch(agent_id: str, broker: Broker, *, keep_days: float, consumer: str, stay: float = 0.0) -> None:
    """Have the mailbox hold what there is for the agent.

    Beside a listener daemon it does already. Without one we connect as the holder of the agent's session and
    store all that the broker has queued; where another reader does so, and stays for the next message,
    there is nothing to connect for.

    Args:
        agent_id: Whose.
        broker: Where.
        keep_days: As for `Agent`.
        consumer: Who wants to read.
        stay: If there is then nothing unread for the consumer, stay for the next message, for so many
            seconds at the most.

    Raises:
        BrokerUnreachable, BrokerRefused, NotAuthorized: If the broker could not be asked; what the mailbox
            has is there all the same.
        MailboxError, StorageError: If nothing can be stored.
        ListenerRunning: If a listener daemon holds the session and does not answer.
    """
    give_up = time.monotonic() + stay
    patience = time.monotonic() + _LISTENER_STARTS
    while True:
        left = max(give_up - time.monotonic(), 0.0)
        with contextlib.suppress(control.NoListener):
            return await asyncio.to_thread(control.wait_for_mail, agent_id, consumer, left)
        try:
            await _drain_session(agent_id, broker, keep_days, consumer, left)
        except ListenerRunning:
            # It has taken the session just now, and its socket answers in a moment.
            if time.monotonic() > max(give_up, patience):
                raise
            await asyncio.sleep(_LOOK_EVERY)
        else:
            return None


async def _drain_session(agent_id: str, broker: Broker, keep_days: float, consumer: str, stay: float) -> None:
    give_up = time.monotonic() + stay
    while True:
        left = max(give_up - time.monotonic(), 0.0)
        try:
            async with session_lock(lock_path(agent_id), agent_id, "reader") as lock:
                await _drain_and_stay(lock, agent_id, broker, keep_days, consumer, left)
                return
        except ReaderStays:
            if await _sees_mail_of_other_reader(agent_id, consumer, left):
                return


async def tell_seen(agent_id: str, broker: Broker, *, keep_days: float) -> None:
    """Tell senders what the agent has just seen, over a connection of its own."""
    async with Agent(agent_id, keep_days=keep_days) as agent:
        if agent.mailbox.inbound.seen_to_tell(1):
            async with await Connection.open(broker, client_id=client_id(agent_id)) as connection:
                await agent.tell_seen(connection)


async def _drain_and_stay(
    lock: SessionLock, agent_id: str, broker: Broker, keep_days: float, consumer: str, stay: float
) -> None:
    mail = asyncio.Event()
    async with Agent(agent_id, keep_days=keep_days, on_mail=mail.set) as agent:
        async with await Connection.open(
            broker,
            client_id=client_id(agent_id, listener=True),
            persistent=True,
            on_arrival=agent.intake.arrived,
        ) as connection:
            serving = asyncio.create_task(agent.intake.serve(connection))
            try:
                await drain(agent, connection)
                lock.say("staying")
                mail.clear()
                if not agent.mailbox.inbound.has_unread(consumer):
                    await _wait(mail, connection, lock, stay)
                await agent.spool.settle(timeout=5.0)
            finally:
                await end(serving)
    if lock.is_wanted() and not mail.is_set():
        raise ListenerRunning(f"a listener for {agent_id!r} takes over")


async def _sees_mail_of_other_reader(agent_id: str, consumer: str, seconds: float) -> bool:
    """Watch the mailbox; False when the other reader has gone before anything came."""
    give_up = time.monotonic() + seconds
    with Mailbox.open(mailbox_path(agent_id)) as mailbox:
        while not mailbox.inbound.has_unread(consumer) and time.monotonic() < give_up:
            holder = lock_holder(lock_path(agent_id))
            if holder is None or holder[1] != "staying":
                return False
            await asyncio.sleep(_LOOK_EVERY)
    return True


async def drain(agent: Agent, connection: Connection) -> None:
    """Subscribe as the holder of the session, and return when all that the broker had queued is stored."""
    await agent.subscribe(connection, receive=True)
    agent.spool.attach(connection)
    await _say_that_we_confirm(agent, connection)
    give_up = time.monotonic() + _DRAIN_TIMEOUT
    while not await agent.hear_marker(connection, qos=1, timeout=_MARKER_TIMEOUT):
        if connection.lost.done() or time.monotonic() > give_up:
            break
    await agent.tell_seen(connection)


async def _say_that_we_confirm(agent: Agent, connection: Connection) -> None:
    """Presence, retained: not listening now, but of our wire, so senders keep a message until our receipt.

    First ``online``, which has senders send again what a broker may have lost, then ``offline``.
    """
    for status in ("online", "offline"):
        payload = {
            "agent": agent.agent_id,
            "status": status,
            "ts": datetime.now(UTC).isoformat(),
            "wire": WIRE,
            "version": __version__,
        }
        await connection.publish(topics.presence(agent.agent_id), json.dumps(payload), retain=True)


async def _wait(mail: asyncio.Event, connection: Connection, lock: SessionLock, seconds: float) -> None:
    """Until there is mail, the time is over, or a listener daemon wants the session."""
    give_up = time.monotonic() + seconds
    arrived = asyncio.create_task(mail.wait())
    waiting: list[asyncio.Future[Any]] = [arrived, connection.lost]
    try:
        while not arrived.done() and not lock.is_wanted() and (left := give_up - time.monotonic()) > 0:
            await asyncio.wait(waiting, timeout=min(left, _LOOK_EVERY), return_when=asyncio.FIRST_COMPLETED)
            if connection.lost.done():
                raise BrokerUnreachable(f"lost the broker at {connection.broker}: {connection.lost.result()}")
    finally:
        arrived.cancel()
