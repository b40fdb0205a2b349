"""Checks of this machine's broker, over canned facts: well, amiss, and not to be seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swarmbus.errors import BrokerUnreachable
from swarmbus.provision.bus import Visit
from swarmbus.provision.mosquitto import OUR_FILE
from swarmbus.provision.system import Result
from swarmbus.provision.tls_look import CertificateSeen
from tests.provision.doctor_facts import BROKER_PID, LAYOUT, LOG, NOW, Host, bad

Break = Callable[[Host], None]
DAY = 86_400.0
FIGHT = "Client swarmbus-coder already connected, closing old connection."
JOURNAL = "journalctl --no-pager --output=short-unix --lines=300 --unit=mosquitto.service"


def _says(*lines: str) -> Break:
    return lambda host: host.mosquitto_says(*lines)


def _without(option: str) -> Break:
    return lambda host: host.mosquitto_without(option)


def _both(*breaks: Break) -> Break:
    def breaking(host: Host) -> None:
        for one in breaks:
            one(host)

    return breaking


def _rights(path: str, uid: int, mode: int) -> Break:
    def breaking(host: Host) -> None:
        entry = host.system.files[Path(path)]
        entry.uid, entry.mode = uid, mode

    return breaking


def _put(path: str, text: str = "", uid: int = 110) -> Break:
    return lambda host: host.system.put(path, text, 0o600, uid)


def _gone(path: str) -> Break:
    return lambda host: host.system.files.__delitem__(Path(path))


def _unit(**changed: str) -> Break:
    return lambda host: host.mosquitto.update(changed)


def _down(**changed: str) -> Break:
    """The unit is, and nobody answers."""

    def breaking(host: Host) -> None:
        host.bus.seen = Visit(error=BrokerUnreachable("refused"))
        host.mosquitto.update(ActiveState="failed", SubState="failed", MainPID="0", **changed)
        host.status.update(connected=False, last_error="refused")

    return breaking


def _version(version: str) -> Break:
    text = f"Package: mosquitto\nStatus: install ok installed\nVersion: {version}\n"
    return lambda host: host.system.put("/var/lib/dpkg/status", text)


def _init_chose(host: Host) -> None:
    spec = {"schema": "swarmbus.spec/1", "agents": [{"id": "coder"}], "chosen": {"broker": "system"}}
    host.system.put(str(LAYOUT.provision / "spec.json"), json.dumps(spec))


def _purged(host: Host) -> None:
    _init_chose(host)
    host.system.put("/var/lib/dpkg/status", "")


def _sockets(*places: str, uid: int = 0) -> Break:
    lines = [f" 0: {place}:075B 00000000:0000 0A 0:0 00:0 0 {uid} 0 1" for place in places]
    return lambda host: host.system.put("/proc/net/tcp", "\n".join(["  sl", *lines]))


def _open(*places: str) -> Break:
    def breaking(host: Host) -> None:
        host.set()
        _sockets(*places)(host)

    return breaking


def _log(*lines: str) -> Break:
    return lambda host: host.answers.update({f"tail -c 65536 {LOG}": Result((), 0, "\n".join(lines))})


def _journal(*lines: str) -> Break:
    text = "\n".join(f"{int(NOW)}.5 pi4 mosquitto[7]: {int(NOW)}: {line}" for line in lines)
    return lambda host: host.answers.update({JOURNAL: Result((), 0, text)})


def _tls(**seen: Any) -> Break:
    return lambda host: setattr(host.bus, "tls", CertificateSeen(**seen))


def _half_written(host: Host) -> None:
    host.system.put("/var/lib/mosquitto/mosquitto.db.new", "x")
    host.system.files[Path("/var/lib/mosquitto/mosquitto.db.new")].modified = NOW - 300


def _not_saved(host: Host) -> None:
    _without("autosave_on_changes")(host)
    _says("autosave_interval 30")(host)


def _touched(host: Host) -> None:
    host.system.files[OUR_FILE].modified = NOW - 60


FAR = "listener 1883 100.101.102.103"


@pytest.mark.parametrize(
    ("code", "breaking", "status", "words"),
    [
        ("broker.installed", _purged, "fail", "is not installed any more"),
        ("broker.version-known-bad", _version("2.0.11-1.2+deb12u1"), "fail", "lacks security updates"),
        ("broker.version-known-bad", _version("1.5.7-1+deb10u1"), "warn", "serves every machine"),
        ("broker.unit-masked", _unit(LoadState="masked"), "fail", "is masked"),
        (
            "broker.unit-disabled",
            _unit(UnitFileState="disabled"),
            "warn",
            "after a reboot there is no broker",
        ),
        ("broker.start-limit", _down(Result="start-limit-hit"), "fail", "does not try any more"),
        ("broker.start-limit", _down(Result="exit-code", NRestarts="5"), "fail", "does not try any more"),
        ("broker.config-invalid", _down(ExecMainStatus="3"), "fail", "its configuration is wrong"),
        ("broker.files-unreadable", _down(ExecMainStatus="13"), "fail", "cannot read its password or access"),
        (
            "broker.config-duplicate",
            _says("persistence_location /srv/"),
            "fail",
            "refuses to start with both",
        ),
        ("broker.config-duplicate", _says("log_dest file /tmp/log"), "fail", "log_dest file stands in"),
        ("broker.config-stale", _touched, "warn", "was changed after the broker had started"),
        ("broker.conf-ignored", _put("/etc/mosquitto/conf.d/x.conf.bak"), "info", "x.conf.bak"),
        ("broker.conf-d-unread", _without("include_dir"), "fail", "does not include /etc/mosquitto/conf.d"),
        ("broker.per-listener-settings", _says("per_listener_settings true"), "warn", "70-other.conf:1"),
        ("broker.persistence-off", _without("persistence"), "fail", "persistence is off"),
        ("broker.persistence-off", _says("persistence false"), "fail", "persistence is off"),
        (
            "broker.autosave-window",
            _says("autosave_on_changes false", "autosave_interval 1800"),
            "warn",
            "1800 s",
        ),
        (
            "broker.autosave-window",
            _says("autosave_on_changes false", "autosave_interval 0"),
            "warn",
            "all since",
        ),
        ("broker.session-expiry", _says("persistent_client_expiration 12h"), "warn", "12h (0.5 days)"),
        ("broker.queue-limit", _says("max_queued_messages 100"), "warn", "queues 100 messages"),
        (
            "broker.queue-limit",
            _both(_version("2.0.21-1"), _says("max_queued_messages 0")),
            "warn",
            "none, in this version",
        ),
        ("broker.size-limit", _says("message_size_limit 1000"), "warn", "message_size_limit is 1000 bytes"),
        ("broker.size-limit", _says("max_packet_size 2000"), "warn", "max_packet_size is 2000 bytes"),
        (
            "broker.no-loopback-listener",
            _both(_without("bind_interface"), _without("listener"), _says(FAR)),
            "fail",
            "no listener serves localhost:1883, which agents here use; there is 1883 on 100.101.102.103",
        ),
        (
            "broker.local-only",
            lambda host: host.set(broker="192.168.1.5"),
            "fail",
            "serves this machine only",
        ),
        ("broker.listener-address", _says("listener 1883 10.9.9.9"), "fail", "10.9.9.9, which is no address"),
        ("broker.listener-address", _says("listener 1884", "bind_interface wlan9"), "fail", "wlan9"),
        ("broker.boot-order", _says(FAR), "fail", "does not wait at boot until that address is there"),
        ("broker.boot-order", _says("listener 1883 192.168.1.5"), "fail", "does not wait at boot"),
        ("broker.exposed", _open("00000000"), "fail", "every machine that can reach this one"),
        ("broker.exposed", _open("67666564"), "warn", "every machine of the tailnet"),
        ("broker.anonymous", _says("allow_anonymous true"), "info", "may send as any agent"),
        (
            "broker.cafile-no-listener",
            _both(_without("listener"), _says("cafile /etc/ssl/ca.crt")),
            "fail",
            "this version listens for everybody",
        ),
        ("broker.websockets", _says("listener 1883 127.0.0.1", "protocol websockets"), "fail", "WebSockets"),
        (
            "broker.persistence-perms",
            _rights("/var/lib/mosquitto", 0, 0o755),
            "fail",
            "not writable for mosq",
        ),
        ("broker.persistence-perms", _says("persistence_location /srv/x/"), "fail", "there is no /srv/x"),
        ("broker.persistence-stalled", _half_written, "fail", "half-written 300 s ago"),
        ("broker.persistence-stalled", _not_saved, "fail", "and should be every 30 s"),
        (
            "broker.pwfile-perms",
            _rights("/etc/mosquitto/passwd", 110, 0o644),
            "fail",
            "others than the broker",
        ),
        ("broker.pwfile-perms", _rights("/etc/mosquitto/passwd", 0, 0o600), "fail", "mosquitto cannot read"),
        ("broker.pwfile-perms", _gone("/etc/mosquitto/passwd"), "fail", "there is no /etc/mosquitto/passwd"),
        ("broker.aclfile-perms", _rights("/etc/mosquitto/acl", 110, 0o640), "warn", "others than the broker"),
        (
            "broker.pw-plaintext",
            _put("/etc/mosquitto/passwd", "coder:hunter2\n"),
            "fail",
            "1 lines that are no",
        ),
        (
            "broker.acl-nobody",
            _put("/etc/mosquitto/acl", "topic read agents/+/presence\n"),
            "warn",
            "anonymous",
        ),
        (
            "broker.log-unreachable",
            lambda host: host.answers.pop(f"tail -c 65536 {LOG}") and None,
            "info",
            f"the broker's log, {LOG}, is hidden",
        ),
        ("broker.foreign", _sockets("0100007F", uid=1001), "fail", "belongs to user 1001"),
        ("broker.clientid-fight", _log(*[f"{int(NOW) - 9}: {FIGHT}"] * 3), "fail", "3 times in five minutes"),
        ("broker.sys-missing", lambda host: host.other(sys={}), "info", "shows us nothing"),
        (
            "broker.queue-drops",
            lambda host: host.sys(load__publish__dropped__15min="2.5"),
            "fail",
            "2.5 a minute",
        ),
        (
            "broker.queue-drops",
            lambda host: host.sys(publish__messages__dropped="9"),
            "info",
            "9 messages since",
        ),
        (
            "broker.orphan-sessions",
            _both(
                _without("persistent_client_expiration"), lambda host: host.sys(clients__disconnected="30")
            ),
            "warn",
            "30 sessions without a client, and knows 1 agents",
        ),
        ("broker.connection-limit", _says("max_connections 3"), "warn", "max_connections is 3"),
        ("broker.tls-absent", _tls(problem="no-tls", words="WRONG_VERSION_NUMBER"), "fail", "speaks none"),
        ("broker.tls-expiry", _tls(problem="expired"), "fail", "has expired"),
        ("broker.tls-expiry", _tls(expires=NOW + 5 * DAY), "fail", "valid for 5 more days"),
        ("broker.tls-expiry", _tls(expires=NOW + 15 * DAY), "warn", "valid for 15 more days"),
        ("broker.tls-name", _tls(problem="other-name"), "fail", "is not for 'localhost'"),
        (
            "broker.tls-untrusted",
            _tls(problem="untrusted", words="self-signed"),
            "fail",
            "this system vouches for",
        ),
    ],
)
def test_what_is_amiss_is_told(code: str, breaking: Break, status: str, words: str) -> None:
    host = Host()
    assert host.ask(code).status == "ok"
    breaking(host)
    result = host.ask(code)
    assert (result.status, words in result.message) == (status, True), result.message


def test_a_key_that_everybody_can_read_is_told() -> None:
    host = Host()
    host.mosquitto_says("keyfile /etc/mosquitto/key.pem")
    assert "there is no /etc/mosquitto/key.pem" in host.ask("broker.keyfile-perms").message
    host.system.put("/etc/mosquitto/key.pem", "", 0o644, 0)
    result = host.ask("broker.keyfile-perms")
    assert (result.status, result.fix) == ("fail", ("sudo chmod o= /etc/mosquitto/key.pem",))


LOCAL = (
    *("config-duplicate", "config-stale", "conf-ignored", "conf-d-unread", "per-listener-settings"),
    *("persistence-off", "autosave-window", "session-expiry", "queue-limit", "size-limit", "local-only"),
    *("no-loopback-listener", "listener-address", "boot-order", "anonymous", "cafile-no-listener"),
    *("websockets", "persistence-perms", "persistence-stalled", "pwfile-perms", "aclfile-perms"),
    *("keyfile-perms", "pw-plaintext", "acl-nobody", "log-unreachable", "foreign", "clientid-fight"),
    *("exposed", "unit-disabled", "start-limit", "config-invalid", "files-unreadable", "connection-limit"),
    *("version-known-bad", "orphan-sessions"),
)


@pytest.mark.parametrize("name", LOCAL)
def test_of_another_machines_broker_nothing_is_said_that_only_its_own_doctor_sees(name: str) -> None:
    host = Host()
    host.set(broker="hub")
    result = host.ask(f"broker.{name}")
    assert (result.status, "another machine's" in result.message) == ("skip", True), result.message


CONFIGURED = [
    name for name in LOCAL if name not in ("exposed", "unit-disabled", "start-limit", "config-stale")
]


@pytest.mark.parametrize("name", [*CONFIGURED[:16], "pwfile-perms", "acl-nobody"])
def test_of_a_configuration_that_is_hidden_nothing_is_said(name: str) -> None:
    host = Host()
    host.system.hidden.add(OUR_FILE)
    result = host.ask(f"broker.{name}")
    if name != "conf-ignored":  # for which the names are enough
        assert (result.status, "is not readable for us" in result.message) == ("skip", True), result.message


@pytest.mark.parametrize(
    ("code", "breaking", "reason"),
    [
        (
            "broker.pw-plaintext",
            lambda host: host.system.hidden.add(Path("/etc/mosquitto/passwd")),
            "Permission",
        ),
        ("broker.acl-nobody", lambda host: host.system.hidden.add(Path("/etc/mosquitto/acl")), "Permission"),
        ("broker.clientid-fight", lambda host: host.answers.pop(f"tail -c 65536 {LOG}") and None, "tail"),
        ("broker.config-stale", _unit(MainPID="0"), "the broker does not run"),
        ("broker.queue-drops", lambda host: host.other(sys={}), "how many messages"),
        ("broker.orphan-sessions", lambda host: host.sys(clients__disconnected=None), "how many sessions"),
        ("broker.sys-missing", lambda host: host.other(presences=None), "does not let us read"),
        ("broker.tls-expiry", lambda host: host.set(), "ask for no TLS"),
        ("broker.tls-expiry", lambda host: setattr(host.bus, "tls", None), "no connection"),
        ("broker.foreign", lambda host: host.system.put("/proc/net/tcp", "  sl\n"), "shows nobody"),
        ("broker.unit-masked", Host.without_systemd, "systemd does not run here"),
    ],
)
def test_what_cannot_be_seen_is_neither_good_nor_bad(code: str, breaking: Break, reason: str) -> None:
    host = Host()
    breaking(host)
    result = host.ask(code)
    assert (result.status, reason in result.message) == ("skip", True), result.message


@pytest.mark.parametrize(
    ("breaking", "code"),
    [
        (_down(Result="start-limit-hit"), "broker.start-limit"),
        (_down(ExecMainStatus="3", Result="exit-code", NRestarts="5"), "broker.config-invalid"),
        (_down(ExecMainStatus="13"), "broker.files-unreadable"),
        (_both(_says("pid_file /run/x"), _down(ExecMainStatus="3")), "broker.config-duplicate"),
        (
            _both(_rights("/etc/mosquitto/passwd", 0, 0o600), _down(ExecMainStatus="13")),
            "broker.pwfile-perms",
        ),
        (
            _both(_without("persistence"), lambda host: host.status.update(connections=2)),
            "broker.persistence-off",
        ),
        (_tls(problem="other-name"), "broker.tls-name"),
    ],
)
def test_only_the_root_cause_is_told(breaking: Break, code: str) -> None:
    host = Host()
    breaking(host)
    assert [told for told, _ in bad(host.doctor())] == [code]


def test_the_line_that_mosquitto_names_is_left_out_by_the_fix() -> None:
    host = Host()
    host.mosquitto_says("nonsense true")
    _down(ExecMainStatus="3")(host)
    _journal(
        "Error: Unknown configuration variable 'nonsense'.",
        "Error found at /etc/mosquitto/conf.d/70-other.conf:1.",
        "Error found at /etc/mosquitto/mosquitto.conf:8.",
    )(host)
    result = host.ask("broker.config-invalid")
    assert "70-other.conf:1: Unknown configuration variable 'nonsense'." in result.message
    assert result.fix[0].startswith("sudo sed -i '1s/^/#/' /etc/mosquitto/conf.d/70-other.conf && ")


@pytest.mark.parametrize(
    "waits",
    [
        _unit(Restart="always", StartLimitIntervalUSec="0"),
        _unit(After="tailscale-online.target basic.target"),
        lambda host: host.system.put("/proc/sys/net/ipv4/ip_nonlocal_bind", "1\n"),
    ],
)
def test_a_broker_that_waits_for_its_address_comes_up(waits: Break) -> None:
    host = Host()
    host.mosquitto_says(FAR)
    assert host.ask("broker.boot-order").status == "fail"
    waits(host)
    assert host.ask("broker.boot-order").status == "ok"


def test_what_a_password_file_holds_stands_nowhere_in_the_report() -> None:
    host = Host()
    _put("/etc/mosquitto/passwd", "coder:hunter2\n")(host)
    assert "hunter2" not in str([result.as_json() for result in host.doctor().results])


def test_a_few_old_takeovers_are_no_fight() -> None:
    host = Host()
    _log(*[f"{int(NOW) - 900}: {FIGHT}"] * 5, *[f"{int(NOW) - 5}: {FIGHT}"] * 2)(host)
    assert host.ask("broker.clientid-fight").status == "ok"


def test_a_broker_that_was_switched_off_has_not_been_given_up() -> None:
    host = Host()
    host.mosquitto.update(ActiveState="inactive", SubState="dead", NRestarts="0")
    assert host.ask("broker.start-limit").status == "ok"


def test_the_process_of_a_private_broker_is_the_one_of_its_record() -> None:
    host = Host()
    host.without_systemd()
    ticks = host.system.processes[BROKER_PID].start_ticks
    host.system.put(str(LAYOUT.processes / "broker.json"), "{}")
    host.system.put(str(LAYOUT.processes / "broker.pid"), f"boot-1\n{BROKER_PID} (m) {'0 ' * 19}{ticks}\n")
    host.system.put(str(LAYOUT.broker_config), "listener 1883\nbind_interface lo\npersistence true\n")
    facts = host.facts()
    assert facts.broker_pid() == BROKER_PID
    assert facts.local_broker().main_config == LAYOUT.broker_config
