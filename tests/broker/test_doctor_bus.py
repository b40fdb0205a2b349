"""The doctor on real brokers and listeners: faults of the bus, of certificates, of agents' files and code.

Each is told by its own code alone.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from swarmbus import control, topics
from swarmbus.broker import Broker as Address
from swarmbus.config import load_settings
from swarmbus.connection import Connection
from swarmbus.envelope import new_message
from swarmbus.paths import agent_dir, config_path
from swarmbus.provision.doctor import Report, Result, run_doctor
from swarmbus.provision.local_system import LocalSystem
from tests.broker.test_doctor import _type as type_
from tests.broker.test_doctor import _wait as wait
from tests.broker.test_doctor import command_on_the_path  # noqa: F401  # for its fixture
from tests.conftest import MakeBroker
from tests.lab.listener import Listener
from tests.lab.mosquitto import Broker

# paho (2.2.0) leaves it to the garbage collector to close the socket of a handshake that failed.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")


@pytest.fixture(autouse=True)
def sockets_closed() -> Iterator[None]:
    """So that no test of another file is told of them."""
    yield
    gc.collect()


@pytest.fixture
def listener(broker: Broker, home: Path) -> Iterator[Listener]:
    with Listener("coder", broker) as listener:
        yield listener


def _doctor(broker: Broker, *agents: str, **more: object) -> Report:
    agents = agents or ("coder",)
    settings = load_settings({"agent_id": agents[0], "broker": broker.host, "port": broker.port, **more})
    return run_doctor(LocalSystem(), settings, agent_ids=agents)


def _bad(report: Report) -> list[str]:
    """Codes of what is amiss."""
    return [one.check.code for one in report.results if one.status in ("warn", "fail", "crash")]


def _of(report: Report, code: str) -> Result:
    return max(
        (one for one in report.results if one.check.code == code),
        key=lambda one: one.status in ("warn", "fail"),
    )


def _publish(broker: Broker, topic: str, payload: str, *, times: int = 1, retain: bool = True) -> None:
    async def publish() -> None:
        address = Address(broker.host, broker.port)
        async with await Connection.open(address, client_id="test") as connection:
            for _ in range(times):
                await connection.publish(topic, payload, retain=retain)

    asyncio.run(publish())


def _presence(agent: str, **more: object) -> str:
    given = {
        "ts": datetime.now(UTC).isoformat(),
        "interval": 60.0,
        "host": "pi9",
        "instance": "i9",
        "wire": 1,
    }
    return json.dumps({"agent": agent, "status": "online", **given, **more})


def _in(**ahead: float) -> str:
    return (datetime.now(UTC) + timedelta(**ahead)).isoformat()


@pytest.mark.parametrize(
    ("topic", "payload", "code"),
    [
        ("agents/writer/presence", lambda: _presence("writer", ts=_in(hours=-1)), "mqtt.ghost"),
        ("agents/writer/presence", lambda: _presence("writer", ts=_in(minutes=10)), "host.clock-skew"),
        ("agents/writer/presence", lambda: _presence("writer", wire=9, since=_in(days=-2)), "code.wire-skew"),
        (
            "agents/coder/inbox",
            lambda: new_message(sender="writer", to="coder", subject="s", body="b").to_wire(),
            "mqtt.retained-inbox",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_what_the_broker_keeps_is_told_until_it_is_cleared(
    broker: Broker, listener: Listener, topic: str, payload: Callable[[], str], code: str
) -> None:
    assert _bad(_doctor(broker)) == []
    _publish(broker, topic, payload())
    assert _bad(_doctor(broker)) == [code]
    _publish(broker, topic, "")
    # To an inbox, clearing it is a message too: an empty one.
    left = ["agent.quarantine"] if code == "mqtt.retained-inbox" else []
    wait(lambda: _bad(_doctor(broker)) == left)


def test_an_id_that_is_online_elsewhere_is_not_to_be_started_here(broker: Broker, listener: Listener) -> None:
    listener.kill()
    _publish(broker, topics.presence("coder"), _presence("coder"))
    report = _doctor(broker)
    assert _bad(report) == ["agent.id-elsewhere"]
    assert _of(report, "agent.listener-running").because == "agent.id-elsewhere"


def test_an_access_list_that_forbids_to_write_to_others_is_told(
    make_broker: MakeBroker, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords, rules = tmp_path / "passwords", tmp_path / "rules"
    passwords.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(passwords), "coder", "x"], check=True, capture_output=True)
    own = ["readwrite agents/coder/#", "readwrite swarmbus/marker/#", "read agents/#", "read $SYS/#"]
    rules.write_text("".join(["user coder\n", *(f"topic {rule}\n" for rule in own)]))
    broker = make_broker("allow_anonymous false", f"password_file {passwords}", f"acl_file {rules}")
    monkeypatch.setenv("SWARMBUS_BROKER_USERNAME", "coder")
    monkeypatch.setenv("SWARMBUS_BROKER_PASSWORD", "x")
    with Listener("coder", broker):
        report = _doctor(broker)
        assert _bad(report) == ["mqtt.acl-publish"]
        assert _of(report, "mqtt.acl-publish").evidence["reason_codes"] == "0x87, 0x87"
        rules.write_text(f"{rules.read_text()}topic write agents/+/inbox/coder\n")
        broker.reload()
        wait(lambda: _bad(_doctor(broker)) == [])


def test_a_queue_that_overflows_is_told_by_the_broker(make_broker: MakeBroker, home: Path) -> None:
    broker = make_broker("max_queued_messages 3", "sys_interval 1")
    with Listener("coder", broker):
        with Listener("writer", broker):
            pass  # its session stays, and nobody takes what comes for it
        _publish(broker, "agents/writer/inbox", "x", times=50, retain=False)
        wait(lambda: _bad(_doctor(broker)) == ["broker.queue-drops"])
        assert float(_of(_doctor(broker), "broker.queue-drops").evidence["a_minute"]) > 0


def test_without_sys_topics_what_the_broker_drops_is_unknown(make_broker: MakeBroker, home: Path) -> None:
    broker = make_broker("sys_interval 0")
    with Listener("coder", broker):
        report = _doctor(broker)
    assert _of(report, "broker.sys-missing").status == "info"
    assert _of(report, "broker.queue-drops").status == "skip"


def test_a_bridge_without_its_connection_is_told(make_broker: MakeBroker, home: Path) -> None:
    bridge = ["connection hub", "address 127.0.0.1:1", "topic agents/# both 1"]
    broker = make_broker(*bridge)
    with Listener("coder", broker):
        report = _doctor(broker)
        assert _bad(report) == ["mqtt.bridge-down"]


def test_an_open_broker_that_others_reach_is_told(make_broker: MakeBroker, home: Path) -> None:
    broker = make_broker("listener {port} 0.0.0.0")
    with Listener("coder", broker):
        report = _doctor(broker)
        assert _bad(report) == ["broker.exposed"]
        assert _of(report, "broker.exposed").evidence == {"addresses": "0.0.0.0"}


def test_a_session_that_the_broker_forgot_is_told_until_the_listener_starts_anew(
    broker: Broker, listener: Listener
) -> None:
    assert _bad(_doctor(broker)) == []
    broker.restart()
    wait(lambda: control.request("coder", {"op": "status"})["connections"] == 2)
    wait(lambda: control.request("coder", {"op": "status"})["connected"])
    report = _doctor(broker)
    assert _of(report, "mqtt.session-lost").status == "info"
    type_(_of(report, "mqtt.session-lost").fix[0], listener)
    assert _of(_doctor(broker), "mqtt.session-lost").status == "ok"


class Authority:
    """Certificates for a broker, made by openssl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        ca = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
        self._openssl(
            "req", "-x509", *self._key("ca"), "-out", "ca.pem", "-subj", "/CN=ca", "-days", "30", *ca
        )

    def config(self, name: str, *dates: str) -> list[str]:
        """A certificate for that name, and the lines of a listener that has it."""
        self._openssl("req", *self._key("broker"), "-out", "request", "-subj", f"/CN={name}")
        (self.folder / "names").write_text(f"subjectAltName=IP:{name}\nextendedKeyUsage=serverAuth\n")
        (self.folder / "index").write_text("")
        (self.folder / "index.attr").write_text("unique_subject = no\n")
        (self.folder / "ca.conf").write_text(
            "[ca]\ndefault_ca = own\n[own]\ndatabase = index\nnew_certs_dir = .\npolicy = any\n"
            "default_md = sha256\nrand_serial = yes\n[any]\ncommonName = supplied\n"
        )
        signed = ["-cert", "ca.pem", "-keyfile", "ca.key", "-extfile", "names", "-batch", "-notext"]
        self._openssl("ca", "-config", "ca.conf", "-in", "request", "-out", "broker.pem", *signed, *dates)
        files = {"cafile": "ca.pem", "certfile": "broker.pem", "keyfile": "broker.key"}
        return [f"{option} {self.folder / file}" for option, file in files.items()]

    def _key(self, name: str) -> list[str]:
        return ["-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key"]

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)


def _date(days: float) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).strftime("%Y%m%d%H%M%SZ")


@pytest.mark.parametrize(
    ("name", "days", "code", "words"),
    [
        ("127.0.0.1", (-9, -2), "broker.tls-expiry", "has expired"),
        ("127.0.0.1", (-9, 10), "broker.tls-expiry", "more days"),
        ("127.0.0.1", (2, 20), "broker.tls-expiry", "is not valid yet"),
        ("127.0.0.2", (-9, 25), "broker.tls-name", "is not for '127.0.0.1'"),
        ("127.0.0.1", (-9, 25), "", ""),
    ],
)
def test_a_certificate_is_told_by_what_is_wrong_with_it(
    make_broker: MakeBroker,
    tmp_path: Path,
    home: Path,
    name: str,
    days: tuple[int, int],
    code: str,
    words: str,
) -> None:
    authority = Authority(tmp_path / "ca")
    dates = ["-startdate", _date(days[0]), "-enddate", _date(days[1])]
    broker = make_broker("listener {port} 127.0.0.1", *authority.config(name, *dates))
    report = _doctor(broker, ca_cert=str(authority.folder / "ca.pem"))
    told = [one for one in _bad(report) if one != "agent.listener-running"]
    assert told == ([code] if code else [])
    if code:
        assert words in _of(report, code).message


def test_a_certificate_of_a_stranger_and_a_broker_without_tls_are_told_apart(
    make_broker: MakeBroker, broker: Broker, tmp_path: Path, home: Path
) -> None:
    one, other = Authority(tmp_path / "one"), Authority(tmp_path / "other")
    config = one.config("127.0.0.1", "-startdate", _date(-1), "-enddate", _date(25))
    secured = make_broker("listener {port} 127.0.0.1", *config)
    ca = str(other.folder / "ca.pem")
    for where, code in ((secured, "broker.tls-untrusted"), (broker, "broker.tls-absent")):
        told = _bad(_doctor(where, ca_cert=ca))
        assert [word for word in told if word != "agent.listener-running"] == [code]


def test_a_state_folder_that_others_look_into_is_told_until_its_mode_is_right(
    broker: Broker, listener: Listener
) -> None:
    agent_dir("coder").chmod(0o755)
    report = _doctor(broker)
    assert _bad(report) == ["agent.state-perms"]
    type_(_of(report, "agent.state-perms").fix[0])
    assert _bad(_doctor(broker)) == []


def test_secrets_that_others_can_read_are_told_until_their_modes_are_right(
    broker: Broker, listener: Listener, home: Path
) -> None:
    secret = home / "secret"
    secret.write_text("x\n")
    config_path().parent.mkdir(parents=True)
    for path, text, code in (
        (secret, "x\n", "own.secret-perms"),
        (config_path(), 'password = "x"\n', "own.config-secret"),
    ):
        path.write_text(text)
        path.chmod(0o644)
        report = _doctor(broker, password_file=str(secret))
        assert _bad(report) == [code]
        type_(_of(report, code).fix[0])
        assert _bad(_doctor(broker, password_file=str(secret))) == []


def test_two_agents_with_one_inbox_file_are_told(broker: Broker, home: Path) -> None:
    with ExitStack() as stack:
        for agent in ("coder", "writer"):
            stack.enter_context(Listener(agent, broker, f"--inbox={home}/inbox.md"))
        assert _bad(_doctor(broker, "coder", "writer")) == ["agent.inbox-shared"]


def test_a_second_swarmbus_on_the_path_is_told(
    broker: Broker, listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "swarmbus"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{tmp_path}")
    report = _doctor(broker)
    assert _bad(report) == ["code.two-installs"]
    other.unlink()
    assert _bad(_doctor(broker)) == []


def test_a_listener_whose_python_was_replaced_is_told_until_it_is_restarted(
    broker: Broker, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    real = Path(sys.executable).resolve()
    shutil.copy(real, python)
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    with Listener("coder", broker, python=str(python)) as listener:
        assert "code.deleted-mappings" not in _bad(_doctor(broker))
        python.unlink()
        shutil.copy(real, python)
        report = _doctor(broker)
        assert "code.deleted-mappings" in _bad(report)
        assert str(python) in _of(report, "code.deleted-mappings").message
        type_(_of(report, "code.deleted-mappings").fix[0], listener)
        assert "code.deleted-mappings" not in _bad(_doctor(broker))


@pytest.fixture
def own_broker(make_broker: MakeBroker, home: Path) -> Callable[..., Broker]:
    """A broker that is recorded as a background process of ours, with more lines in its configuration."""

    def make(*lines: str) -> Broker:
        kept = {"persistence": "true", "autosave_interval": "30", "listener": "{port} 127.0.0.1"}
        given = {line.split()[0] for line in lines}
        kept_lines = [f"{option} {value}" for option, value in kept.items() if option not in given]
        folder = home / "database"
        folder.mkdir()
        where = [] if "persistence_location" in given else [f"persistence_location {folder}/"]
        broker = make_broker(*kept_lines, *where, *lines)
        config = config_path().parent / "broker.conf"
        config.parent.mkdir(parents=True)
        config.symlink_to(broker.folder / "mosquitto.conf")
        records = home / ".local/state/swarmbus/.provision/processes"
        records.mkdir(parents=True, mode=0o700)
        (records / "broker.json").write_text(json.dumps({"argv": ["mosquitto"], "port": broker.port}))
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        (records / "broker.pid").write_text(boot + Path(f"/proc/{broker.pid}/stat").read_text())
        return broker

    return make


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([], None),
        (["persistence false"], "broker.persistence-off"),
        (["autosave_interval 1800"], "broker.autosave-window"),
        (["persistent_client_expiration 1h"], "broker.session-expiry"),
        (["max_queued_messages 10"], "broker.queue-limit"),
        (["message_size_limit 20000"], "broker.size-limit"),
        (["max_connections 2", "sys_interval 1"], "broker.connection-limit"),
    ],
)
def test_a_setting_of_the_broker_is_told_by_its_own_code(
    own_broker: Callable[..., Broker], lines: list[str], code: str | None
) -> None:
    broker = own_broker(*lines)
    with Listener("coder", broker):
        wait(lambda: _bad(_doctor(broker)) == ([code] if code else []))


def test_a_configuration_that_changed_since_the_brokers_start_is_told(
    own_broker: Callable[..., Broker],
) -> None:
    broker = own_broker()
    with Listener("coder", broker):
        later = time.time() + 5
        os.utime(broker.folder / "mosquitto.conf", (later, later))
        assert _bad(_doctor(broker)) == ["broker.config-stale"]


def test_a_half_written_database_is_told_until_it_is_gone(
    own_broker: Callable[..., Broker], home: Path
) -> None:
    broker = own_broker()
    with Listener("coder", broker):
        half = home / "database/mosquitto.db.new"
        half.write_text("x")
        os.utime(half, (time.time() - 300, time.time() - 300))
        assert _bad(_doctor(broker)) == ["broker.persistence-stalled"]
        half.unlink()
        assert _bad(_doctor(broker)) == []


def test_two_clients_with_one_id_are_told_by_the_brokers_log(own_broker: Callable[..., Broker]) -> None:
    broker = own_broker()
    records = config_path().parents[2] / ".local/state/swarmbus/.provision/processes"

    with Listener("coder", broker):
        for _ in range(4):
            _take_over(broker)
        (records / "broker.log").write_text(broker.log)
        assert "broker.clientid-fight" in _bad(_doctor(broker))


def _take_over(broker: Broker) -> None:
    async def connect() -> None:
        address = Address(broker.host, broker.port)
        async with await Connection.open(address, client_id="swarmbus-coder"):
            pass

    asyncio.run(connect())
    wait(lambda: control.request("coder", {"op": "status"})["connected"])
