"""AgentBus: the public asynchronous interface.

::

    async with AgentBus(agent_id="planner") as bus:
        delivery = await bus.send(to="coder", subject="hello", body="Hi!")
        print(delivery.state)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from copy import copy
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from swarmbus import control
from swarmbus.agent import Agent
from swarmbus.agent_id import check_agent_id
from swarmbus.broker import Broker
from swarmbus.config import Settings
from swarmbus.connection import Connection, client_id
from swarmbus.dispatch import Handler
from swarmbus.envelope import AgentMessage, new_message
from swarmbus.errors import (
    NoSubscriber,
    NotAuthorized,
    NotDelivered,
    Rejected,
    StorageError,
    SwarmbusError,
    UsageError,
)
from swarmbus.hops import inherited
from swarmbus.inbox_file import render_entry
from swarmbus.journal_file import JournalFile
from swarmbus.link import Link
from swarmbus.listener import Listener
from swarmbus.mailbox import Mailbox, StoredMessage
from swarmbus.mailbox.inbound import AGENT
from swarmbus.paths import mailbox_path
from swarmbus.presence import Presence, ask_presence
from swarmbus.reader import fetch, tell_seen
from swarmbus.spool import Delivery, Wait

__all__ = ["AgentBus", "Delivery"]

log = logging.getLogger(__name__)

_DEFAULTS = Settings()

_FAILURES: dict[str, type[NotDelivered]] = {
    "no-subscriber": NoSubscriber,
    "not-authorized": NotAuthorized,
    "rejected": Rejected,
}


class AgentBus:
    """An agent at the bus.

    Args:
        agent_id: Its id, ``[a-z0-9_-]{1,64}``.
        broker: Host name or address of the broker.
        port: Its port.
        persistent: For `listen`: hold a session at the broker, so that it queues while nobody listens.
        username, password: Credentials; None where the broker wants none.
        tls: None means TLS exactly when a certificate is given.
        ca_cert, client_cert, client_key: PEM files.
        presence_interval: Seconds between renewals of presence while listening.
        keep_days: Days after which an undelivered message is given up.

    Raises:
        InvalidAgentId: If ``agent_id`` is none.
    """

    def __init__(
        self,
        agent_id: str,
        broker: str = "localhost",
        port: int = 1883,
        *,
        persistent: bool = True,
        username: str | None = None,
        password: str | None = None,
        tls: bool | None = None,
        ca_cert: str | None = None,
        client_cert: str | None = None,
        client_key: str | None = None,
        presence_interval: float = _DEFAULTS.presence_interval,
        keep_days: float = _DEFAULTS.spool_days,
    ) -> None:
        self.agent_id = check_agent_id(agent_id)
        self.broker = Broker(broker, port, username, password, tls, ca_cert, client_cert, client_key)
        self._persistent = persistent
        self._presence_interval = presence_interval
        self._keep_days = keep_days
        self._handlers: list[Handler] = []
        self._listener: Listener | None = None
        self._agent: Agent | None = None
        self._link: asyncio.Task[None] | None = None
        self.last_error: str | None = None
        """Why the broker is away, in words, or was when this bus last connected; None if it was not."""

    @classmethod
    def from_settings(cls, settings: Settings) -> AgentBus:
        """The bus of the settings' agent and broker."""
        bus = cls(
            settings.require_agent_id(),
            persistent=settings.persistent,
            presence_interval=settings.presence_interval,
            keep_days=settings.spool_days,
        )
        bus.broker = Broker.from_settings(settings)
        return bus

    @classmethod
    def probe(cls, broker: str = "localhost", port: int = 1883, **connection: Any) -> AgentBus:
        """A bus without an agent of its own, for `list_agents`; takes the connection's keyword arguments."""
        return cls("probe", broker, port, **connection)

    async def __aenter__(self) -> Self:
        """Connect for sending; with the broker away, messages stay in the spool until it is back.

        Raises:
            ConfigError: If a TLS file is unusable.
            MailboxError, StorageError: If the mailbox cannot be used.
        """
        if self._agent is not None:
            raise UsageError("this bus is already open", hint="make one AgentBus for each 'async with'")
        agent = self._agent = Agent(self.agent_id, keep_days=self._keep_days)

        async def serve(connection: Connection) -> None:
            serving = asyncio.create_task(agent.intake.serve(connection))
            try:
                await agent.subscribe(connection, receive=False)
                agent.spool.attach(connection)
                link.settled()
                await serving
            finally:
                serving.cancel()

        def lost() -> None:
            agent.spool.detach()
            agent.intake.forget_connection()

        link = Link(
            self.broker,
            client_id=client_id(self.agent_id),
            persistent=False,
            will=None,
            on_arrival=agent.intake.arrived,
            serve=serve,
            on_lost=lost,
        )
        self._link = asyncio.create_task(link.run(), name=f"link of {self.agent_id}")
        tried = asyncio.create_task(link.tried.wait())
        try:
            await asyncio.wait([self._link, tried], return_when=asyncio.FIRST_COMPLETED)
            if self._link.done():
                self._link.result()  # raises ConfigError
            self.last_error = link.last_error
        except BaseException:
            await self._close()
            raise
        finally:
            tried.cancel()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._agent is not None:
            await self._agent.spool.settle(timeout=5.0)
        await self._close()

    def register_handler(self, handler: Handler) -> None:
        """Have a handler run over each message once `listen` or `run` is called."""
        self._handlers.append(handler)

    def run(self) -> None:
        """Listen until SIGTERM or SIGINT; blocks, and connects again by itself after a loss.

        Raises:
            ListenerRunning: If a listener for this id already runs on this host.
        """
        asyncio.run(self.listen())

    async def listen(self, **about: Any) -> None:
        """Listen until cancelled or `stop`; see `Listener` for ``about`` and ``on_ready``."""
        self._listener = Listener(
            self.agent_id,
            self.broker,
            handlers=self._handlers,
            persistent=self._persistent,
            presence_interval=self._presence_interval,
            keep_days=self._keep_days,
            **about,
        )
        try:
            await self._listener.run()
        finally:
            self._listener = None

    def stop(self) -> None:
        """Have `listen` drain and return."""
        if self._listener is not None:
            self._listener.stop()

    async def send(
        self,
        to: str,
        subject: str,
        body: str,
        content_type: str = "text/plain",
        priority: str = "normal",
        reply_to: str | None = None,
        outbox_path: str | Path | None = None,
        *,
        in_reply_to: str | None = None,
        extra: dict[str, Any] | None = None,
        message_id: str | None = None,
        wait: Wait = "accepted",
        timeout: float = 10.0,
    ) -> Delivery:
        """Send a message: it is kept on this host until the receiver has it.

        Goes over this bus's connection inside ``async with`` or while it listens; through the listener
        daemon where one runs for this agent; else over a connection made for this call.

        Args:
            to: Agent id, or ``broadcast``.
            subject: One line of at most 256 bytes.
            body: At most 65,536 bytes of UTF-8.
            content_type: ``text/plain``, ``text/markdown`` or ``application/json``.
            priority: ``low``, ``normal`` or ``high``.
            reply_to: Agent to answer; None means this one.
            outbox_path: File that the message is appended to; None for none.
            in_reply_to: Id of the message that this one answers.
            extra: More keys for the envelope.
            message_id: Its id, to try again what may have been sent already; None for a new one.
            wait: How far to wait for: ``queued``, ``accepted``, ``stored`` or ``seen``.
            timeout: Seconds; when they are over the delivery says how far it has come.

        Returns:
            What is known; ``queued`` when the broker is away (do not send again: it will go out).

        Raises:
            InvalidMessage, InvalidAgentId: Before anything is sent.
            NoSubscriber, NotAuthorized, Rejected: If the broker said so; the message stays listed.
            Conflict: If a listener daemon runs for this agent, at another broker than this bus names.
            MailboxError, StorageError: If it could not be kept; it is not sent.
        """
        more = inherited() | (extra or {})
        if in_reply_to is not None:
            more["in_reply_to"] = in_reply_to
        message = new_message(
            sender=self.agent_id,
            to=to,
            subject=subject,
            body=body,
            content_type=content_type,
            priority=priority,
            reply_to=reply_to,
            extra=more,
            message_id=message_id,
        )
        outbox = None if outbox_path is None else self._outbox(outbox_path)
        delivery = await self._submit(message, wait, timeout)
        if outbox is not None:
            entry = render_entry(
                "To", to, id=message.id, ts=message.ts, subject=subject, body=body, priority=priority
            )
            try:
                outbox.append([entry])
            except StorageError as error:
                # It is on its way: an error would have the caller send it again.
                log.warning("%s was sent, and is not in the outbox file: %s", message.id, error.message)
        if (failure := _FAILURES.get(delivery.state)) is not None:
            raise failure(
                f"{delivery.id} for {to} was not delivered: {delivery.reason}",
                hint="swarmbus outbox lists it; --retry sends it again",
                message_id=delivery.id,
            )
        return delivery

    async def read_inbox(
        self, max_messages: int = 10, *, consumer: str = AGENT, peek: bool = False
    ) -> list[dict[str, Any]]:
        """Messages not yet read by this consumer, oldest first, as dictionaries with the wire's keys.

        Works beside a listener daemon and without one.

        Raises:
            BrokerUnreachable: If there is nothing unread, and the broker could not be asked for more.
        """
        return [message.as_dict() for message in await self.take(max_messages, consumer=consumer, peek=peek)]

    async def watch_inbox(self, timeout: float = 30.0, *, consumer: str = AGENT) -> dict[str, Any] | None:
        """The next message for this consumer; None if none comes within ``timeout`` seconds.

        Raises:
            BrokerUnreachable: If there is nothing unread, and the broker is away.
        """
        taken = await self.take(1, consumer=consumer, wait=timeout)
        return taken[0].as_dict() if taken else None

    async def take(
        self, limit: int, *, consumer: str = AGENT, peek: bool = False, wait: float = 0.0
    ) -> list[StoredMessage]:
        """What `read_inbox` and `watch_inbox` do, as records."""
        with contextlib.suppress(control.NoListener):
            await self._check_listeners_broker()
        try:
            await fetch(self.agent_id, self.broker, keep_days=self._keep_days, consumer=consumer, stay=wait)
        except SwarmbusError:
            with Mailbox.open(mailbox_path(self.agent_id)) as mailbox:
                if not mailbox.inbound.has_unread(consumer):
                    raise
        with Mailbox.open(mailbox_path(self.agent_id)) as mailbox:
            messages = mailbox.take(consumer, limit, peek=peek)
        if messages and consumer == AGENT and not peek:
            with contextlib.suppress(SwarmbusError):  # they are read; who wrote them is told the next time
                await self._tell_seen()
        return messages

    async def list_agents(self) -> list[str]:
        """Ids of the agents that are online, in order; complete for any number of them.

        Raises:
            BrokerUnreachable: If the broker is away, or the list could not be completed.
        """
        return [presence.agent for presence in await self.list_presence() if presence.status == "online"]

    async def list_presence(self) -> list[Presence]:
        """All agents whose presence the broker has, online or not."""
        return await ask_presence(self.broker)

    async def _submit(self, message: AgentMessage, wait: Wait, timeout: float) -> Delivery:
        if self._listener is not None:
            return await self._listener.send(message, wait, timeout)
        if self._agent is not None:
            return await self._agent.spool.submit(message, wait, timeout)
        question = {"op": "submit", "envelope": message.to_wire(), "wait": wait, "timeout": timeout}
        try:
            await self._check_listeners_broker()
            return Delivery(
                **await asyncio.to_thread(control.request, self.agent_id, question, timeout + 5.0)
            )
        except control.NoListener:
            # One of its own for each call: several may be made at once.
            one_shot = copy(self)
            try:
                async with one_shot:
                    return await one_shot._submit(message, wait, timeout)
            finally:
                self.last_error = one_shot.last_error

    async def _check_listeners_broker(self) -> None:
        # The default names no broker: it is then the listener's, wherever that is.
        if (self.broker.host, self.broker.port) != (_DEFAULTS.broker, _DEFAULTS.port):
            await asyncio.to_thread(control.check_broker, self.agent_id, self.broker.host, self.broker.port)

    def _outbox(self, path: str | Path) -> JournalFile:
        name = str(path).replace("{agent_id}", self.agent_id)
        outbox = JournalFile(Path(name).expanduser(), sync=False)
        outbox.check_writable()  # before anything is sent: an unrecorded message is a lost audit trail
        return outbox

    async def _tell_seen(self) -> None:
        try:
            await asyncio.to_thread(control.request, self.agent_id, {"op": "poke"}, 5.0)
        except control.NoListener:
            await tell_seen(self.agent_id, self.broker, keep_days=self._keep_days)

    async def _close(self) -> None:
        if self._link is not None:
            self._link.cancel()
            await asyncio.gather(self._link, return_exceptions=True)
            self._link = None
        if self._agent is not None:
            agent, self._agent = self._agent, None
            await agent.close()
