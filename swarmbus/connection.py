"""One connection to the broker: address, credentials, TLS, session, will. The only importer of aiomqtt.

MQTT 5 where the broker speaks it, 3.1.1 where it answers "unsupported protocol version" (NATS does).

aiomqtt 2.5 hides four things that honest delivery needs, so this module reaches through it to paho:
manual acknowledgement (aiomqtt acknowledges what is only in memory; empicano/aiomqtt issue 345), the
reason code of PUBACK, session-present of CONNACK, and publishing without waiting for each PUBACK.
`_reach_through` is the only place that knows paho's names, and fails at once if they are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from swarmbus.broker import Broker
from swarmbus.errors import BrokerRefused, BrokerUnreachable, NotAuthorized

if TYPE_CHECKING:
    from types import TracebackType


log = logging.getLogger(__name__)

CONNECT_TIMEOUT: Final = 5.0
"""Seconds for TCP, TLS and CONNACK together, each at most."""

KEEP_ALIVE: Final = 30
"""Seconds; a broker that has gone silent is noticed after at most one and a half of these."""

MAX_PACKET_BYTES: Final = 4 * 1024 * 1024
"""What the broker may send us at once (MQTT 5, 3.1.2.11.4): whoever publishes more cannot fill our memory."""

NO_MATCHING_SUBSCRIBERS: Final = 0x10
NOT_AUTHORIZED: Final = 0x87
_HUNG_UP: Final = "it hung up before it answered"
_UNSUPPORTED_PROTOCOL_VERSION: Final = 0x84
_NEVER_EXPIRES: Final = 0xFFFF_FFFF
# CONNACK reason codes that concern who we are (MQTT 5, 3.2.2.2); paho maps 3.1.1's codes 2, 4, 5 onto them.
_REFUSALS: Final = {
    0x85: "client id",
    0x86: "user name or password",
    0x87: "credentials",
    0x8A: "client (banned)",
}


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes, retained, when the connection is lost."""

    topic: str
    payload: str


@dataclass(slots=True)
class Arrival:
    """A message as it came, not yet acknowledged (QoS 1) to the broker."""

    topic: str
    payload: bytes
    retained: bool
    qos: int
    packet_id: int


class Connection:
    """An open connection; made by `Connection.open`, an asynchronous context manager.

    Attributes:
        protocol: 5, or 4 for MQTT 3.1.1.
        session_present: Whether the broker still had our session (MQTT 5, 3.2.2.1.1).
        lost: Done when the connection is gone for whatever reason, by `close` too; its result is the
            reason in words.
    """

    def __init__(self, client: aiomqtt.Client, broker: Broker, protocol: int) -> None:
        self.broker = broker
        self.protocol = protocol
        self.session_present = False
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._abandoned = False
        self._client = client
        self._acknowledgements: dict[int, asyncio.Future[int]] = {}
        self._on_arrival: Callable[[Arrival], None] = lambda arrival: None
        self._reach_through(client)

    @classmethod
    async def open(
        cls,
        broker: Broker,
        *,
        client_id: str,
        persistent: bool = False,
        will: Will | None = None,
        on_arrival: Callable[[Arrival], None] | None = None,
    ) -> Connection:
        """Connect.

        Args:
            broker: Where to.
            client_id: The client id (`client_id` below makes them).
            persistent: Keep the session at the broker between connections.
            will: Published by the broker when we vanish.
            on_arrival: Called in the event loop for each message; it must not block. Messages of the
                session come at once after CONNACK, so this cannot be set later.

        Raises:
            BrokerUnreachable: If there is no connection, or no answer within the time-out.
            BrokerRefused: If the broker answers with a refusal.
            ConfigError: If a TLS file is unusable.
        """
        context = broker.tls_context()
        for protocol in (aiomqtt.ProtocolVersion.V5, aiomqtt.ProtocolVersion.V311):
            client = aiomqtt.Client(
                broker.host,
                broker.port,
                identifier=client_id,
                username=broker.username,
                password=broker.password,
                protocol=protocol,
                will=aiomqtt.Will(will.topic, will.payload, qos=1, retain=True) if will else None,
                keepalive=KEEP_ALIVE,
                timeout=CONNECT_TIMEOUT,
                tls_context=context,
                socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
                logger=_PAHO_LOG,
                **_session_arguments(protocol, persistent),
            )
            connection = cls(client, broker, protocol.value)
            if on_arrival is not None:
                connection._on_arrival = on_arrival
            try:
                await client.__aenter__()
            except aiomqtt.MqttError as error:
                connection._abandon()
                if protocol is aiomqtt.ProtocolVersion.V5 and _is_unsupported_version(error):
                    continue
                raise _translated(error, broker) from error
            except (ValueError, OverflowError) as error:  # no host name (IDNA), no port
                raise BrokerUnreachable(
                    f"{broker} is no address of a broker: {error}", hint="check --broker and --port"
                ) from error
            except BaseException:
                connection._abandon()
                raise
            client._disconnected.add_done_callback(connection._on_disconnected)
            return connection
        raise AssertionError("unreachable: the 3.1.1 attempt returns or raises")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def publish(
        self, topic: str, payload: str | bytes, *, qos: int = 1, retain: bool = False
    ) -> asyncio.Future[int]:
        """Publish without waiting.

        Returns:
            A future of the reason code of PUBACK (0 for QoS 0 and for MQTT 3.1.1, which has none);
            it raises `BrokerUnreachable` when the connection is lost first.
        """
        future = asyncio.get_running_loop().create_future()
        if self.lost.done():
            future.set_exception(self._unreachable())
            return future
        info = self._paho.publish(topic, payload, qos, retain)
        if info.rc != 0:
            future.set_exception(self._unreachable())
        elif qos == 0:
            future.set_result(0)
        else:
            self._acknowledgements[info.mid] = future
        return future

    async def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """Subscribe to topic filters, each with its QoS, in one packet.

        Raises:
            NotAuthorized: If the broker refuses one of them.
            BrokerUnreachable: If the connection is lost, or no SUBACK comes in time.
        """
        try:
            codes: Any = await self._client.subscribe(list(filters), timeout=CONNECT_TIMEOUT)
        except aiomqtt.MqttError as error:
            raise BrokerUnreachable(f"no SUBACK from the broker at {self.broker}") from error
        for (topic_filter, _), code in zip(filters, codes, strict=True):
            if int(getattr(code, "value", code)) >= 0x80:
                raise NotAuthorized(f"the broker at {self.broker} refuses a subscription to {topic_filter}")

    async def unsubscribe(self, topic_filter: str) -> None:
        """Drop a subscription; a lost connection is no error, for it drops them all."""
        with contextlib.suppress(aiomqtt.MqttError):
            await self._client.unsubscribe(topic_filter)

    def acknowledge(self, arrivals: Sequence[Arrival]) -> None:
        """Send PUBACK for QoS 1 arrivals of this connection; others are passed over."""
        for arrival in arrivals:
            if arrival.qos:
                self._paho.ack(arrival.packet_id, arrival.qos)

    async def close(self) -> None:
        """Disconnect; the will is not published, a persistent session stays."""
        with contextlib.suppress(aiomqtt.MqttError):
            await self._client.__aexit__(None, None, None)
        self._lose("closed")

    def drop(self) -> None:
        """Tear the connection down without DISCONNECT, as for a broker that no longer answers."""
        if (sock := self._paho.socket()) is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(2)
        self._lose("no answer from the broker")

    def _abandon(self) -> None:
        """Let go of the socket of an attempt that failed; aiomqtt keeps it, and the event loop with it."""
        self._abandoned = True
        self._paho.disconnect()
        self._lose("never connected")

    def _reach_through(self, client: aiomqtt.Client) -> None:
        # Any: aiomqtt types its callbacks by the protocol-independent half only.
        paho: Any = client._client
        self._paho = paho
        paho.manual_ack_set(True)  # before CONNECT: the session's messages follow CONNACK at once
        paho.connect_timeout = CONNECT_TIMEOUT
        connected, subscribed_publish = paho.on_connect, paho.on_publish
        disconnected = paho.on_disconnect

        def on_connect(c: Any, userdata: Any, flags: Any, code: Any, properties: Any = None) -> None:
            self.session_present = bool(flags.session_present)
            connected(c, userdata, flags, code, properties)

        def on_disconnect(c: Any, userdata: Any, flags: Any, code: Any, properties: Any = None) -> None:
            if self._abandoned:
                return
            if client._connected.done():
                disconnected(c, userdata, flags, code, properties)
            else:  # aiomqtt would wait for a CONNACK until the time-out
                client._connected.set_exception(aiomqtt.MqttError(_HUNG_UP))

        def on_publish(c: Any, userdata: Any, mid: int, code: Any, properties: Any) -> None:
            self._acknowledge_quickly()
            future = self._acknowledgements.pop(mid, None)
            if future is None:
                subscribed_publish(c, userdata, mid, code, properties)
            elif not future.done():
                future.set_result(int(getattr(code, "value", 0)))

        def on_message(c: Any, userdata: Any, message: Any) -> None:
            self._acknowledge_quickly()
            # message.topic decodes; undecodable names cannot match our filters' grammar anyway.
            topic = message._topic.decode("utf-8", "replace")
            self._on_arrival(Arrival(topic, message.payload, message.retain, message.qos, message.mid))

        loop = asyncio.get_running_loop()

        def on_socket_register_write(c: Any, userdata: Any, sock: Any) -> None:
            # aiomqtt's own adds the writer in the next turn even if the socket has been closed by then.
            loop.call_soon_threadsafe(self._add_writer, sock)

        paho.on_socket_register_write = on_socket_register_write
        paho.on_connect = on_connect
        paho.on_disconnect = on_disconnect
        paho.on_publish = on_publish
        paho.on_message = on_message

    def _add_writer(self, sock: Any) -> None:
        if sock.fileno() >= 0:
            asyncio.get_running_loop().add_writer(sock.fileno(), self._write)

    def _write(self) -> None:
        try:
            self._paho.loop_write()
        except Exception as error:  # whatever it is, the connection is gone
            if not self._client._disconnected.done():
                self._client._disconnected.set_exception(error)

    def _acknowledge_quickly(self) -> None:
        """Have the kernel acknowledge the broker's next segment at once (TCP_QUICKACK, tcp(7); not lasting).

        mosquitto leaves Nagle's algorithm on: its second small packet, a receipt behind a PUBACK, waits for
        our acknowledgement of the first, which Linux delays by 40 ms.
        """
        if (sock := self._paho.socket()) is not None:
            with contextlib.suppress(OSError, AttributeError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _on_disconnected(self, disconnected: asyncio.Future[None]) -> None:
        error = None if disconnected.cancelled() else disconnected.exception()
        self._lose("closed" if error is None else str(error))

    def _lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)
        pending, self._acknowledgements = self._acknowledgements, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(self._unreachable())
                future.exception()  # whoever awaits it still gets it; nobody else is warned

    def _unreachable(self) -> BrokerUnreachable:
        reason = self.lost.result() if self.lost.done() else "not connected"
        return BrokerUnreachable(f"lost the broker at {self.broker}: {reason}")


def client_id(agent_id: str | None, *, listener: bool = False) -> str:
    """The client id: ``swarmbus-<id>`` for the one holder of the session, else one with a random tail.

    The tail begins with a dot, which no agent id has: nobody's tail is somebody's session.
    """
    name = f"swarmbus-{agent_id}" if agent_id else "swarmbus"
    return name if listener else f"{name}.{os.urandom(6).hex()}"


def _session_arguments(protocol: aiomqtt.ProtocolVersion, persistent: bool) -> dict[str, Any]:
    if protocol is aiomqtt.ProtocolVersion.V311:
        return {"clean_session": not persistent}
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.MaximumPacketSize = MAX_PACKET_BYTES
    if persistent:
        properties.SessionExpiryInterval = _NEVER_EXPIRES
    # Spelt out: aiomqtt's default starts clean on the first connection of each client object.
    return {"clean_start": not persistent, "properties": properties}


def _is_unsupported_version(error: aiomqtt.MqttError) -> bool:
    return isinstance(error, aiomqtt.MqttCodeError) and _code(error) == _UNSUPPORTED_PROTOCOL_VERSION


def _translated(error: aiomqtt.MqttError, broker: Broker) -> BrokerUnreachable | BrokerRefused:
    if isinstance(error, aiomqtt.MqttCodeError):
        code = _code(error)
        refused = _REFUSALS.get(code or 0)
        if refused is None:
            return BrokerUnreachable(f"the broker at {broker} refuses connections: {error}")
        return BrokerRefused(
            f"the broker at {broker} refused our {refused}",
            hint="check --username and the password (SWARMBUS_BROKER_PASSWORD or password_file)",
            reason_code=code,
        )
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return BrokerUnreachable(
            f"the certificate of the broker at {broker} is not valid for us: {text}",
            hint="give the right --ca-cert, and use a name that is in the certificate",
        )
    hint = f"is it running? swarmbus doctor, or: nc -vz {broker.host} {broker.port}"
    if broker.uses_tls and any(word in text for word in (_HUNG_UP, "SSL", "EOF", "reset")):
        hint = "is that its TLS port, and does it want a client certificate? (--no-tls, --client-cert)"
    elif text == _HUNG_UP:
        hint = "a broker that speaks TLS on this port looks like this; try --tls or --ca-cert"
    elif "timed out" in text:
        text = "connected, but no answer" if "Operation" in text else "timed out"
        hint = "a broker that speaks TLS on this port, or hangs, looks like this; try --tls"
    return BrokerUnreachable(f"cannot reach the broker at {broker}: {text}", hint=hint)


def _code(error: aiomqtt.MqttCodeError) -> int | None:
    code: Any = getattr(error.rc, "value", error.rc)
    return None if code is None else int(code)


# paho logs every packet at DEBUG and disconnects at WARNING; what matters is said by our own modules.
_PAHO_LOG = logging.getLogger("swarmbus.paho")
_PAHO_LOG.addHandler(logging.NullHandler())
_PAHO_LOG.propagate = False
