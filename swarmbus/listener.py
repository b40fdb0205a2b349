"""The listener daemon: broker -> mailbox -> acknowledgement -> handlers; presence; systemd."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from swarmbus import topics
from swarmbus.agent import Agent
from swarmbus.broker import Broker
from swarmbus.connection import Arrival, Connection, Will, client_id
from swarmbus.control_server import ControlServer
from swarmbus.dispatch import Dispatcher, Handler
from swarmbus.ending import end
from swarmbus.envelope import AgentMessage
from swarmbus.errors import BrokerUnreachable, SessionTaken
from swarmbus.fingerprint import installed_fingerprint
from swarmbus.link import Link
from swarmbus.lock import session_lock
from swarmbus.message_id import new_id
from swarmbus.notify import notify, watchdog_seconds
from swarmbus.operations import Operations
from swarmbus.paths import lock_path, socket_path
from swarmbus.pause import BUS_SCOPE, Pauses, agent_scope, host_scope
from swarmbus.presence import read_presence
from swarmbus.rivals import Rivals, described
from swarmbus.spool import Delivery, Wait
from swarmbus.version import WIRE, __version__

if TYPE_CHECKING:
    from swarmbus.handlers.wake_governor import WakeGovernor

log = logging.getLogger(__name__)

HEARTBEAT: Final = 20.0
"""Seconds between two markers that the daemon sends to itself through the broker."""

_EXPIRE_EVERY: Final = 3600.0

DRAIN: Final = 20.0
"""Seconds that running handlers have to end after SIGTERM; the unit's TimeoutStopSec is 30."""


class Listener:
    """The daemon of one agent; `run` it once.

    Args:
        agent_id: Whose messages.
        broker: Where they come from.
        handlers: Run over each message, beginning in this order.
        persistent: Hold the session ``swarmbus-<id>`` at the broker, so that it queues while we are away.
        presence_interval: Seconds between renewals of presence.
        keep_days: Days after which an undelivered message is given up.
        about: Words for ``status``: inbox, outbox, invoke.
        heartbeat: Seconds between two markers to ourselves, and the most that one may take.
        on_ready: Called at the first connection that is in order.
        pauses: Where it keeps what it knows of pauses.
        governor: The handler among these that wakes the agent, which can be asked; None if none does.
    """

    def __init__(
        self,
        agent_id: str,
        broker: Broker,
        *,
        handlers: Sequence[Handler] = (),
        persistent: bool = True,
        presence_interval: float = 60.0,
        keep_days: float = 7.0,
        about: dict[str, str | None] | None = None,
        heartbeat: float = HEARTBEAT,
        on_ready: Callable[[Connection], None] = lambda connection: None,
        pauses: Pauses | None = None,
        governor: WakeGovernor | None = None,
    ) -> None:
        self._agent_id = agent_id
        self._broker = broker
        self._handlers = handlers
        self._persistent = persistent
        self._presence_interval = presence_interval
        self._keep_days = keep_days
        self._about = about or {}
        self._heartbeat = heartbeat
        self._pauses = pauses or Pauses()
        self._governor = governor
        self._on_ready: Callable[[Connection], None] | None = on_ready
        self._instance = new_id()
        self._since = datetime.now(UTC)
        self._rivals = Rivals(self._instance, self._since.isoformat())
        self._fingerprint = installed_fingerprint()
        self._heard: float | None = None
        self._stop = asyncio.Event()
        self._wakings: set[asyncio.Task[None]] = set()
        self._agent: Agent
        self._link: Link
        self._dispatcher: Dispatcher
        self._operations: Operations

    async def run(self) -> None:
        """Listen until `stop` or SIGTERM.

        Raises:
            ListenerRunning: If a listener for this id already runs here.
            SessionTaken: If a listener on another host has our client id, and it is we who give up.
            MailboxError, StorageError: If the mailbox, the socket or a handler's file cannot be used.
        """
        async with session_lock(lock_path(self._agent_id), self._agent_id, "listener"):
            async with Agent(
                self._agent_id, keep_days=self._keep_days, on_mail=self._announce_mail
            ) as self._agent:
                await self._run_with_mailbox()

    def stop(self) -> None:
        """Drain and end; safe to call from a signal handler of the event loop."""
        self._stop.set()

    async def send(self, message: AgentMessage, wait: Wait, timeout: float) -> Delivery:
        """Send over the daemon's own connection (`Spool.submit`)."""
        return await self._agent.spool.submit(message, wait, timeout)

    async def _run_with_mailbox(self) -> None:
        self._dispatcher = Dispatcher(self._agent.mailbox, self._agent.commits)
        self._link = Link(
            self._broker,
            client_id=client_id(self._agent_id, listener=self._persistent),
            persistent=self._persistent,
            will=lambda: Will(topics.presence(self._agent_id), self._presence("offline")),
            on_arrival=self._arrived,
            serve=self._serve,
            on_lost=self._forget_connection,
        )
        self._operations = Operations(
            self._agent, self._link, about=self._describe, on_poke=self._dispatcher.wake
        )
        operations = self._operations.by_name()
        if self._governor is not None:
            operations["rehearse"] = self._governor.rehearse
        control = ControlServer(socket_path(self._agent_id), operations)
        await self._dispatcher.start(self._handlers)
        try:
            await control.start()
            with self._signals():
                await self._run_linked()
        finally:
            notify("STOPPING=1")
            await self._dispatcher.stop(DRAIN)
            await control.stop()

    async def _run_linked(self) -> None:
        tasks = [
            asyncio.create_task(self._link.run(), name="link"),
            asyncio.create_task(self._look_after(), name="look after"),
            asyncio.create_task(self._stop.wait(), name="stop"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                await self._say_goodbye()
            else:
                for task in done:
                    task.result()  # raises what ended it
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, connection: Connection) -> None:
        """One connection, from subscribing to its loss."""
        serving = asyncio.create_task(self._agent.intake.serve(connection))
        try:
            await self._agent.subscribe(connection, receive=True)
            await connection.subscribe([(topics.presence(self._agent_id), 0)])  # whose it is: `_arrived`
            scopes = [agent_scope(self._agent_id), host_scope(socket.gethostname()), BUS_SCOPE]
            await self._pauses.ask(connection, scopes)
            await connection.publish(topics.presence(self._agent_id), self._presence("online"), retain=True)
            self._pauses.settle()
            if self._pauses.in_force() is not None:
                self._tell_presence()
            self._rivals.connected()
            self._yield_to_rival()
            self._link.settled()
            self._agent.spool.attach(connection)
            self._agent.spool.expire()
            notify("READY=1", f"STATUS=connected to {self._broker}")
            if self._on_ready is not None:
                self._on_ready(connection)
                self._on_ready = None
            await self._agent.tell_seen(connection)
            await asyncio.gather(serving, self._renew_presence(connection), self._listen_to_self(connection))
        finally:
            await end(serving)

    def _arrived(self, arrival: Arrival) -> None:
        if arrival.retained and arrival.topic == topics.presence(self._agent_id):
            presence = read_presence(self._agent_id, arrival.payload)
            if presence is not None and self._rivals.found(presence):
                who = described(presence)
                log.warning("%s has taken the session of %s since we had it", who, self._agent_id)
                notify(f"STATUS=the session goes to and fro between us and {who}")
        if self._pauses.heard(arrival):
            if (connection := self._link.connection) is not None:
                connection.acknowledge([arrival])
            self._tell_presence()
            return
        self._agent.intake.arrived(arrival)

    def _tell_presence(self) -> None:
        """Publish it again at once, for what it says has changed."""
        if (connection := self._link.connection) is not None:
            connection.publish(
                topics.presence(self._agent_id), self._presence("online"), retain=True
            ).add_done_callback(lambda done: done.cancelled() or done.exception())

    def _yield_to_rival(self) -> None:
        rival = self._rivals.to_yield_to()
        if rival is None:
            return
        who = described(rival)
        notify(f"STATUS=gave up: {who} has the session")
        raise SessionTaken(
            f"{who}, takes the session of {self._agent_id} from us again and again; it keeps it",
            hint="one agent id, one listener: stop the other, or give one of them another agent id",
            host=rival.host,
        )

    async def _renew_presence(self, connection: Connection) -> None:
        while True:
            await asyncio.sleep(self._presence_interval)
            await connection.publish(topics.presence(self._agent_id), self._presence("online"), retain=True)

    async def _listen_to_self(self, connection: Connection) -> None:
        """Silence must not look like idle: a daemon that cannot hear itself connects anew."""
        while await self._agent.hear_marker(connection, qos=0, timeout=self._heartbeat):
            self._heard = time.time()
            await asyncio.sleep(self._heartbeat)
        connection.drop()
        raise BrokerUnreachable(f"the broker at {self._broker} takes our messages and brings none")

    async def _look_after(self) -> None:
        """Every second: late receipts, what readers have done, the watchdog."""
        every = watchdog_seconds()
        told = looked = time.monotonic()
        while True:
            await asyncio.sleep(1.0)
            self._agent.spool.check()
            if time.monotonic() - looked > _EXPIRE_EVERY:
                looked = time.monotonic()
                self._agent.spool.expire()
            if every is not None and time.monotonic() - told > every / 3:
                told = time.monotonic()
                notify("WATCHDOG=1", self._status_line())

    async def _say_goodbye(self) -> None:
        connection = self._link.connection
        if connection is None:
            return
        await self._agent.spool.settle(timeout=1.0)
        with contextlib.suppress(BrokerUnreachable, TimeoutError):
            async with asyncio.timeout(2.0):
                await connection.publish(
                    topics.presence(self._agent_id), self._presence("offline"), retain=True
                )

    def _forget_connection(self) -> None:
        self._agent.spool.detach()
        self._agent.intake.forget_connection()
        notify(f"STATUS=no broker at {self._broker}: {self._link.last_error}")

    def _announce_mail(self) -> None:
        self._dispatcher.wake()
        waking = asyncio.get_running_loop().create_task(self._operations.announce_mail())
        self._wakings.add(waking)  # a task that nobody holds may be collected before it runs
        waking.add_done_callback(self._wakings.discard)

    def _status_line(self) -> str:
        queued = self._agent.mailbox.outbound.count_open()
        state = "connected to" if self._link.connection else "no broker at"
        return f"STATUS={state} {self._broker}, {queued} on their way out"

    def _presence(self, status: str) -> str:
        lease = {"status": status, "ts": datetime.now(UTC).isoformat(), "interval": self._presence_interval}
        pause = self._pauses.in_force()
        paused = {"paused": str(pause)[:255]} if pause is not None else {}
        return json.dumps({"agent": self._agent_id, **lease, **paused, **self._identity()})

    def _identity(self) -> dict[str, Any]:
        return {
            "wire": WIRE,
            "version": __version__,
            "fingerprint": self._fingerprint,
            "instance": self._instance,
            "host": socket.gethostname(),
            "since": self._since.isoformat(),
        }

    def _describe(self) -> dict[str, Any]:
        return {
            "agent_id": self._agent_id,
            "pid": os.getpid(),
            "broker": self._broker.host,
            "port": self._broker.port,
            "persistent": self._persistent,
            "heard": self._heard,
            "handlers": self._dispatcher.status(),
            "wakes": self._governor.status() if self._governor is not None else None,
            **self._identity(),
            **self._about,
        }

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        ours = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGTERM, signal.SIGINT) if ours else ()
        for number in numbers:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)
