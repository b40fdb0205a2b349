"""One connection: MQTT 5 and 3.1.1, and each way in which a broker can be away or say no told apart."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from swarmbus.broker import Broker
from swarmbus.connection import CONNECT_TIMEOUT, Arrival, Connection, Will, client_id
from swarmbus.errors import BrokerRefused, BrokerUnreachable, ConfigError, NotAuthorized
from swarmbus.topics import inbox
from tests.broker.agents import address, bus_of, raw, subjects
from tests.conftest import MakeBroker
from tests.lab import mosquitto
from tests.lab.loop import in_loop, until


async def refusal(broker: Broker) -> BrokerUnreachable | BrokerRefused:
    """What an attempt to connect comes to."""
    try:
        await Connection.open(broker, client_id="tester")
    except (BrokerUnreachable, BrokerRefused) as error:
        assert f"{broker.host}:{broker.port}" in error.message
        return error.with_traceback(None)  # whose frames hold sockets
    raise AssertionError(f"{broker} lets us in")


# --- refusals ------------------------------------------------------------------------------------------


@in_loop
async def test_broker_that_is_not_there_is_unreachable() -> None:
    error = await refusal(Broker("127.0.0.1", mosquitto.unused_port()))
    assert isinstance(error, BrokerUnreachable)
    assert "refused" in error.message  # as the kernel says; not "timed out"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "bad..name", "x" * 70, "a b", "::::"])
@in_loop
async def test_host_that_is_none_is_unreachable(host: str) -> None:
    assert isinstance(await refusal(Broker(host)), BrokerUnreachable)


@in_loop
async def test_broker_that_hangs_is_told_after_the_time_out(broker: mosquitto.Broker) -> None:
    broker.pause()
    sockets = open_sockets()
    loop = asyncio.get_running_loop()
    began = loop.time()
    error = await refusal(address(broker))
    assert loop.time() - began < CONNECT_TIMEOUT + 2
    assert isinstance(error, BrokerUnreachable)
    assert "no answer" in error.message
    await until(lambda: open_sockets() <= sockets)


@in_loop
async def test_wrong_password_is_refused(make_broker: MakeBroker, tmp_path: Path) -> None:
    (tmp_path / "passwords").write_text(password_line("coder", "secret"))
    broker = make_broker("allow_anonymous false", f"password_file {tmp_path}/passwords")
    for attempt in (
        Broker(),
        Broker(username="coder", password="wrong"),
        Broker(username="nobody", password="x"),
    ):
        error = await refusal(replace(attempt, host=broker.host, port=broker.port))
        assert isinstance(error, BrokerRefused)
        assert error.reason_code == 0x87
        assert "wrong" not in error.message
    right = replace(address(broker), username="coder", password="secret")
    async with await Connection.open(right, client_id="tester") as connection:
        assert connection.protocol == 5
    assert "secret" not in repr(right)


def password_line(user: str, password: str) -> str:
    """As mosquitto_passwd writes it: PBKDF2 with SHA-512."""
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"{user}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"


# --- TLS -----------------------------------------------------------------------------------------------
# paho (2.2.0) leaves it to the garbage collector to close the socket of a handshake that failed.


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem signs broker.pem (for localhost) and coder.pem; other-ca.pem signs nothing."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    for name in ("ca", "other-ca"):
        extensions = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        openssl(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem", *extensions)
    leaf = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:FALSE")
    for name, names in (
        ("broker", "DNS:localhost,IP:127.0.0.1"),
        ("elsewhere", "DNS:elsewhere"),
        ("coder", "DNS:coder"),
    ):
        request = ("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
        openssl(*new, *request, *leaf, "-addext", f"subjectAltName={names}")
    return folder


def tls_listener(certificates: Path, *more: str, name: str = "broker") -> tuple[str, ...]:
    return (
        "listener {port} 127.0.0.1",
        f"certfile {certificates}/{name}.pem",
        f"keyfile {certificates}/{name}.key",
        f"cafile {certificates}/ca.pem",
        *more,
    )


@in_loop
async def test_tls_with_the_right_authority_connects(make_broker: MakeBroker, certificates: Path) -> None:
    broker = make_broker(*tls_listener(certificates))
    ca = str(certificates / "ca.pem")
    async with await Connection.open(replace(address(broker), ca_cert=ca), client_id="tester") as connection:
        assert await connection.publish("a", b"b") == 0x10


@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
@in_loop
async def test_tls_with_another_authority_or_name_is_not_valid(
    make_broker: MakeBroker, certificates: Path
) -> None:
    broker = make_broker(*tls_listener(certificates))
    elsewhere = make_broker(*tls_listener(certificates, name="elsewhere"))
    for attempt in (
        replace(address(broker), ca_cert=str(certificates / "other-ca.pem")),
        replace(address(broker), tls=True),
        replace(address(elsewhere), ca_cert=str(certificates / "ca.pem")),
    ):
        error = await refusal(attempt)
        assert isinstance(error, BrokerUnreachable)
        assert "certificate" in error.message
        assert error.hint is not None
        assert "--ca-cert" in error.hint


@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
@in_loop
async def test_tls_to_a_port_without_it_and_the_other_way_round(
    make_broker: MakeBroker, certificates: Path, broker: mosquitto.Broker
) -> None:
    with_tls = make_broker(*tls_listener(certificates))
    to_plain = refusal(replace(address(broker), ca_cert=str(certificates / "ca.pem")))
    to_tls = refusal(address(with_tls))
    for error in await asyncio.gather(to_plain, to_tls):
        assert isinstance(error, BrokerUnreachable)
        assert error.hint is not None
        assert "TLS" in error.hint or "TLS" in error.message


@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
@in_loop
async def test_client_certificate_is_our_name_where_the_broker_wants_one(
    make_broker: MakeBroker, certificates: Path
) -> None:
    broker = make_broker(
        *tls_listener(certificates, "require_certificate true", "use_identity_as_username true")
    )
    with_ca = replace(address(broker), ca_cert=str(certificates / "ca.pem"))
    coder = replace(
        with_ca, client_cert=str(certificates / "coder.pem"), client_key=str(certificates / "coder.key")
    )
    async with await Connection.open(coder, client_id="tester"):
        pass
    assert "u'coder'" in broker.log
    error = await refusal(with_ca)
    assert isinstance(error, BrokerUnreachable)
    assert "certificate" in f"{error.message} {error.hint}"


@pytest.mark.parametrize("field", ["ca_cert", "client_cert"])
@in_loop
async def test_tls_file_that_is_missing_or_none_is_a_wrong_setting(tmp_path: Path, field: str) -> None:
    (tmp_path / "rubbish.pem").write_text("no certificate")
    for name in ("missing.pem", "rubbish.pem"):
        with pytest.raises(ConfigError, match=name):
            await Connection.open(Broker(**{field: str(tmp_path / name)}), client_id="tester")  # type: ignore[arg-type]


def test_any_certificate_means_tls_unless_it_is_switched_off() -> None:
    assert not Broker().uses_tls
    assert Broker(ca_cert="ca.pem").uses_tls
    assert Broker(client_key="key.pem").uses_tls
    assert Broker(tls=True).uses_tls
    assert not Broker(ca_cert="ca.pem", tls=False).uses_tls


# --- MQTT 5 and 3.1.1 ----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def old_broker(answer: bytes, behind: mosquitto.Broker) -> AsyncIterator[tuple[Broker, list[int]]]:
    """A broker of before MQTT 5: it answers CONNECT of level 5 with ``answer``; others are mosquitto's.

    Yields its address, and the protocol levels it has been asked for.
    """
    levels: list[int] = []
    talks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            start = await reader.readexactly(2)
            rest = await reader.readexactly(start[1])  # our CONNECT packets are shorter than 128 bytes
            levels.append(rest[6])
            if rest[6] == 5:
                writer.write(answer)
                await writer.drain()
                return
            far_reader, far_writer = await asyncio.open_connection(behind.host, behind.port)
            far_writer.write(start + rest)
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await talk(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Broker("127.0.0.1", server.sockets[0].getsockname()[1]), levels
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@pytest.mark.parametrize(
    "answer",
    [b"\x20\x03\x00\x84\x00", b"\x20\x02\x00\x01"],
    ids=["reason code 0x84", "return code 1 of 3.1.1"],
)
@in_loop
async def test_broker_without_mqtt_5_is_spoken_to_in_3_1_1(broker: mosquitto.Broker, answer: bytes) -> None:
    async with old_broker(answer, broker) as (old, levels):
        async with await Connection.open(old, client_id="tester", persistent=True) as connection:
            assert connection.protocol == 4
            assert connection.session_present is False
            assert await connection.publish("a", b"b") == 0
        assert levels == [5, 4]
        async with await Connection.open(old, client_id="tester", persistent=True) as connection:
            assert connection.session_present is True


@in_loop
async def test_messages_travel_over_3_1_1_and_come_again_after_a_loss(broker: mosquitto.Broker) -> None:
    async with old_broker(b"\x20\x03\x00\x84\x00", broker) as (old, _):
        coder = bus_of(broker, "coder")
        planner = bus_of(broker, "planner")
        coder.broker = planner.broker = old
        ready = asyncio.Event()
        listener = asyncio.create_task(coder.listen(on_ready=lambda connection: ready.set()))
        await ready.wait()
        first = await planner.send(to="coder", subject="one", body="", wait="stored")
        assert first.state == "stored"
        coder.stop()
        await listener
        broker.kill()
        broker.start()
        # No reason codes: the broker says yes, though nobody is there.
        second = await planner.send(to="coder", subject="two", body="")
        assert second.state == "accepted"
        async with planner:
            listener = asyncio.create_task(coder.listen())
            await until(lambda: subjects("coder") == ["one", "two"])
        coder.stop()
        await listener


@in_loop
async def test_broker_that_hangs_up_on_connect_is_unreachable(broker: mosquitto.Broker) -> None:
    async with old_broker(b"", broker) as (rude, levels):
        error = await refusal(rude)
    assert isinstance(error, BrokerUnreachable)
    assert levels


# --- reason codes, sessions, the will ------------------------------------------------------------------


@in_loop
async def test_puback_says_whether_anybody_listens(broker: mosquitto.Broker) -> None:
    async with raw(broker) as (connection, _):
        assert await connection.publish(inbox("coder"), b"") == 0x10
        async with raw(broker, inbox("coder")):
            assert await connection.publish(inbox("coder"), b"") == 0
        assert await connection.publish(inbox("coder"), b"", qos=0) == 0


ACL = """
pattern read agents/%u/inbox/#
pattern write agents/+/inbox/%u
pattern readwrite agents/%u/presence
"""


@in_loop
async def test_puback_says_that_we_may_not(make_broker: MakeBroker, tmp_path: Path) -> None:
    (tmp_path / "acl").write_text(ACL)
    (tmp_path / "passwords").write_text(password_line("coder", "secret"))
    broker = make_broker(
        "allow_anonymous false", f"password_file {tmp_path}/passwords", f"acl_file {tmp_path}/acl"
    )
    coder = replace(address(broker), username="coder", password="secret")
    async with await Connection.open(coder, client_id="tester") as connection:
        assert await connection.publish("agents/planner/inbox/boss", b"") == 0x87
        assert await connection.publish("agents/planner/inbox/coder", b"") == 0x10
        await connection.subscribe([("agents/coder/inbox/#", 1)])
        assert await connection.publish("agents/coder/inbox/coder", b"") == 0
    bus = bus_of(broker, "coder", username="coder", password="secret")
    with pytest.raises(NotAuthorized, match="planner") as error:
        await bus.send(to="planner", subject="", body="")
    assert error.value.message_id is not None


@in_loop
async def test_persistent_session_is_kept_and_the_other_is_not(broker: mosquitto.Broker) -> None:
    for persistent, kept in ((False, False), (True, True)):
        for time in range(2):
            async with await Connection.open(
                address(broker), client_id="tester", persistent=persistent
            ) as connection:
                assert connection.session_present is (kept and time == 1)


@in_loop
async def test_what_was_not_acknowledged_comes_again(broker: mosquitto.Broker) -> None:
    arrivals: list[Arrival] = []

    async def connect() -> Connection:
        arrivals.clear()
        return await Connection.open(
            address(broker), client_id="tester", persistent=True, on_arrival=arrivals.append
        )

    async with await connect() as connection:
        await connection.subscribe([("a", 1)])
        async with raw(broker) as (other, _):
            for payload in (b"one", b"two", b"three"):
                await other.publish("a", payload)
        await until(lambda: len(arrivals) == 3)
        connection.acknowledge([arrivals[1]])
        await connection.publish("elsewhere", b"")  # behind the PUBACK
    async with await connect():
        await until(lambda: [arrival.payload for arrival in arrivals] == [b"one", b"three"])


@in_loop
async def test_will_is_published_when_the_connection_drops_and_not_when_it_is_closed(
    broker: mosquitto.Broker,
) -> None:
    async with raw(broker, "presence/#") as (_, arrivals):
        for name in ("closed", "dropped"):
            connection = await Connection.open(
                address(broker), client_id=name, will=Will(f"presence/{name}", "offline")
            )
            if name == "closed":
                await connection.close()
            else:
                connection.drop()
                assert "no answer" in await connection.lost
                await connection.close()
        await until(lambda: bool(arrivals))
        assert [arrival.topic for arrival in arrivals] == ["presence/dropped"]


@in_loop
async def test_loss_ends_what_waits_for_an_answer(broker: mosquitto.Broker) -> None:
    async with await Connection.open(address(broker), client_id="tester") as connection:
        broker.pause()
        waiting = [connection.publish("a", b"b") for _ in range(30)]
        broker.kill()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(result) for result in results} == {BrokerUnreachable}
        assert await connection.lost
        with pytest.raises(BrokerUnreachable):
            await connection.publish("a", b"b")
        with pytest.raises(BrokerUnreachable):
            await connection.subscribe([("a", 1)])


@in_loop
async def test_many_publishes_are_on_their_way_at_once_and_each_gets_its_answer(
    broker: mosquitto.Broker,
) -> None:
    async with raw(broker, "some/#") as (connection, arrivals):
        codes = await asyncio.gather(
            *(connection.publish("some/body" if number % 2 else "nobody", b"") for number in range(2_000))
        )
        assert codes == [0 if number % 2 else 0x10 for number in range(2_000)]
        await until(lambda: len(arrivals) == 1_000)


def test_client_ids() -> None:
    assert client_id("coder", listener=True) == "swarmbus-coder"
    others = {client_id("coder") for _ in range(100)}
    assert len(others) == 100
    # No agent id has a dot: nobody's random name is somebody's session.
    assert all(one.startswith("swarmbus-coder.") for one in others)


@in_loop
async def test_attempts_that_fail_leave_no_socket_behind(broker: mosquitto.Broker) -> None:
    """A listener makes them for hours while its broker hangs."""
    async with old_broker(b"", broker) as (rude, levels):
        await refusal(rude)
        before = open_sockets()
        for _ in range(3):
            await refusal(rude)
        assert len(levels) == 4
        broker.pause()
        connecting = asyncio.create_task(Connection.open(address(broker), client_id="tester"))
        await asyncio.sleep(0.2)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await until(lambda: open_sockets() <= before)


def open_sockets() -> int:
    targets = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            targets.append(str(descriptor.readlink()))
    return sum(target.startswith("socket:") for target in targets)
