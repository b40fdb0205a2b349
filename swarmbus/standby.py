"""Receiving for an agent for as long as this process lives, whenever nobody else does.

Of all processes on a host that would, one holds the agent's session at the broker, by its lock: the listener
daemon where one runs, else the first of those that stand by. When it ends, the next one takes over; when a
listener daemon starts, all give way to it. Whoever holds the session stores into the same mailbox, so who it
is makes no difference to a reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from swarmbus import control, topics
from swarmbus.agent import Agent
from swarmbus.broker import Broker
from swarmbus.connection import Connection, Will, client_id
from swarmbus.ending import end
from swarmbus.errors import BrokerUnreachable, Conflict, ListenerRunning, SwarmbusError
from swarmbus.lock import ReaderStays, SessionLock, lock_holder, session_lock
from swarmbus.paths import lock_path
from swarmbus.reader import drain
from swarmbus.version import WIRE, __version__

log = logging.getLogger(__name__)

_LOOK_EVERY: Final = 0.1
"""Seconds between two looks at what has no event: who wants the session, who has gone."""

_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 10.0
"""Seconds between two attempts to connect."""

_FIRST_TRY: Final = 12.0
"""Seconds for which a reader waits until we know whether there is a broker."""

_GOODBYE: Final = 0.5
"""Seconds for what is on its way, and for the word that we are offline."""

Holder = Literal["listener", "us", "another"]


class Standby:
    """See the module; `run` it once.

    Args:
        agent_id: Whose messages.
        broker: Where, if it is us who receive.
        keep_days: As for `Agent`.
        persistent: Hold the session ``swarmbus-<id>``, so that the broker queues while nobody receives.
        presence: Show the agent as online while we receive.
        presence_interval: Seconds between renewals of that.
    """

    def __init__(
        self,
        agent_id: str,
        broker: Broker,
        *,
        keep_days: float,
        persistent: bool,
        presence: bool,
        presence_interval: float,
    ) -> None:
        self._agent_id = agent_id
        self._broker = broker
        self._keep_days = keep_days
        self._persistent = persistent
        self._presence = presence
        self._presence_interval = presence_interval
        self._agent: Agent | None = None
        self._connection: Connection | None = None
        self._holder: Holder | None = None
        self._trouble: SwarmbusError | None = None
        self._known = asyncio.Event()

    async def run(self) -> None:
        """Stand by until cancelled; then say goodbye to the broker."""
        pause = _FIRST_PAUSE
        while True:
            try:
                async with session_lock(lock_path(self._agent_id), self._agent_id, "reader") as lock:
                    await self._receive(lock)
                pause = _FIRST_PAUSE
                await asyncio.sleep(2 * _LOOK_EVERY)  # whoever wants the session looks more often than that
            except ListenerRunning:
                await self._while_held_by("listener")
            except ReaderStays:
                await self._while_held_by("another")
            except SwarmbusError as error:
                if self._trouble is None or error.message != self._trouble.message:
                    log.warning("%s", error.message)
                self._note(None, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def check(self) -> Holder:
        """Who receives the agent's messages now.

        Raises:
            BrokerUnreachable, BrokerRefused, NotAuthorized: If nobody does, because of the broker.
            StorageError, MailboxError: If nobody does, because nothing can be stored.
            Conflict: If a listener daemon does, from another broker than the one that was named; or if the
                process that should is stopped.
        """
        give_up = time.monotonic() + _FIRST_TRY
        while True:
            left = give_up - time.monotonic()
            if left <= 0:
                raise self._trouble or BrokerUnreachable(f"no answer yet from the broker at {self._broker}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._known.wait()
            if self._trouble is not None:
                raise self._trouble
            if self._holder == "us":
                return "us"
            if self._holder == "another" and (holder := lock_holder(lock_path(self._agent_id))) is not None:
                _refuse_if_stopped(self._agent_id, holder[0])
                return "another"
            if self._holder == "listener":
                with contextlib.suppress(control.NoListener):
                    await asyncio.to_thread(_check_listener, self._agent_id, self._broker)
                    return "listener"
            # It ends at this moment, or has only just begun.
            await asyncio.sleep(_LOOK_EVERY)

    def take_up(self) -> None:
        """See to what another connection has left in the spool, if it is us who hold the session."""
        if self._agent is not None:
            self._agent.spool.reload()

    async def tell_seen(self) -> bool:
        """Tell senders what the agent has seen; False if it is not us who hold the session."""
        if self._agent is None or self._connection is None:
            return False
        await self._agent.tell_seen(self._connection)
        return True

    async def _receive(self, lock: SessionLock) -> None:
        will = (
            Will(topics.presence(self._agent_id), self._presence_word("offline")) if self._presence else None
        )
        async with Agent(self._agent_id, keep_days=self._keep_days) as agent:
            async with await Connection.open(
                self._broker,
                client_id=client_id(self._agent_id, listener=self._persistent),
                persistent=self._persistent,
                will=will,
                on_arrival=agent.intake.arrived,
            ) as connection:
                serving = asyncio.create_task(agent.intake.serve(connection))
                try:
                    await drain(agent, connection)
                    lock.say("staying")
                    self._agent, self._connection = agent, connection
                    self._note("us", None)
                    await self._stay(lock, agent, connection)
                finally:
                    self._agent = self._connection = None
                    self._note(None, None)
                    await self._say_goodbye(agent, connection)
                    await end(serving)

    async def _stay(self, lock: SessionLock, agent: Agent, connection: Connection) -> None:
        """Until a listener daemon wants the session."""
        renewed = checked = -float("inf")
        while not lock.is_wanted():
            await asyncio.wait([connection.lost], timeout=_LOOK_EVERY)
            if connection.lost.done():
                raise BrokerUnreachable(f"lost the broker at {self._broker}: {connection.lost.result()}")
            now = time.monotonic()
            if now - checked >= 1.0:
                checked = now
                agent.spool.check()
            if self._presence and now - renewed >= self._presence_interval:
                renewed = now
                await self._publish_presence(connection, "online")

    async def _say_goodbye(self, agent: Agent, connection: Connection) -> None:
        with contextlib.suppress(BrokerUnreachable, TimeoutError):
            async with asyncio.timeout(_GOODBYE):
                if self._presence:
                    await self._publish_presence(connection, "offline")
                await agent.spool.settle(_GOODBYE)

    async def _while_held_by(self, holder: Holder) -> None:
        self._note(holder, None)
        while self._is_held():  # noqa: ASYNC110  # the lock of another process has no event
            await asyncio.sleep(_LOOK_EVERY)
        self._note(None, None)

    def _is_held(self) -> bool:
        holder = lock_holder(lock_path(self._agent_id))
        return holder is not None and holder[1] in ("listener", "staying")

    def _note(self, holder: Holder | None, trouble: SwarmbusError | None) -> None:
        self._holder, self._trouble = holder, trouble
        if holder is None and trouble is None:
            self._known.clear()
        else:
            self._known.set()

    async def _publish_presence(self, connection: Connection, status: str) -> None:
        word = self._presence_word(status)
        await connection.publish(topics.presence(self._agent_id), word, retain=True)

    def _presence_word(self, status: str) -> str:
        about = {"agent": self._agent_id, "status": status, "wire": WIRE, "version": __version__}
        lease = {"ts": datetime.now(UTC).isoformat(), "interval": self._presence_interval}
        return json.dumps(about | lease)


def _check_listener(agent_id: str, broker: Broker) -> None:
    """Raise what keeps the listener daemon from its broker, or that it is not the one we were told of."""
    nowhere = Broker()  # the default names no broker: it is then the listener's, wherever that is
    if (broker.host, broker.port) != (nowhere.host, nowhere.port):
        control.check_broker(agent_id, broker.host, broker.port)
    control.wait_for_mail(agent_id, "default", 0.0)


def _refuse_if_stopped(agent_id: str, pid: int) -> None:
    """A window that was put to sleep (Ctrl-Z) keeps the lock, and receives nothing."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]  # proc_pid_stat(5)
    except OSError:
        return  # it has ended, or this system has no such file
    if state in ("T", "t"):
        raise Conflict(
            f"process {pid} holds the session of {agent_id} and is stopped",
            hint=f"ask your user to continue it (fg in its terminal, or kill -CONT {pid}), or to end it",
        )
