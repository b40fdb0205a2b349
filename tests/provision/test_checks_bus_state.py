"""Checks of the bus, agents' state, our own records, Tailscale and agent hosts, over canned facts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swarmbus.errors import BrokerUnreachable
from swarmbus.provision.bus import Visit
from swarmbus.provision.checks import CHECKS, Status
from swarmbus.provision.doctor import run_checks
from swarmbus.provision.mosquitto import OUR_FILE
from swarmbus.provision.system import Result
from tests.provision import (
    test_checks_agent,
    test_checks_broker,
    test_checks_bus,
    test_checks_host,
    test_checks_systemd,
    test_checks_unit,
    test_checks_wakes,
)
from tests.provision.doctor_facts import INBOX, LAYOUT, PID, TAILSCALE, Host, bad, presence

Break = Callable[[Host], None]
STATE = "/home/pi/.local/state/swarmbus"
UNREACHABLE = Visit(error=BrokerUnreachable("cannot reach the broker"))


def _other(**changed: Any) -> Break:
    return lambda host: host.other(**changed)


def _status(**changed: Any) -> Break:
    return lambda host: host.status.update(changed)


def _put(path: str, text: str = "", mode: int = 0o644, uid: int = 1000) -> Break:
    return lambda host: host.system.put(path, text, mode, uid)


def _mode(path: str, mode: int) -> Break:
    return lambda host: setattr(host.system.files[Path(path)], "mode", mode)


def _gone(path: Path) -> Break:
    return lambda host: host.system.files.__delitem__(path)


def _no_name(host: Host) -> None:
    host.set(broker="hubb")
    host.bus.seen = UNREACHABLE
    host.answers["getent ahosts hubb"] = Result((), 2)


def _clear(host: Host) -> None:
    host.set(broker="hub", username="coder", password="x")


def _elsewhere(host: Host) -> None:
    host.without_listener()
    host.other(presences={"coder": presence(host="pi9", instance="i9")})


def _shared_inbox(host: Host) -> None:
    host.settings["writer"] = host.settings["coder"]
    host.bus.mailboxes["writer"] = host.bus.mailboxes["coder"]


def _lag(host: Host) -> None:
    host.status["handlers"][0]["lag"] = 150


def _large(path: str, size: int) -> Break:
    return lambda host: host.system.put(path, "x" * size)


def _descriptors(host: Host) -> None:
    for number in range(900):
        host.system.put(f"/proc/{PID}/fd/{number}")


def _upgrade(text: str) -> Break:
    return _put(f"{STATE}/.provision/upgrade.json", text)


def _secret(name: str) -> Break:
    def breaking(host: Host) -> None:
        host.set(tls=True, **{name: "~/secret"})
        host.system.put("/home/pi/secret", "x", 0o644)

    return breaking


def _old_unit(host: Host) -> None:
    text = "[Service]\nExecStart=/usr/bin/swarmbus start --agent-id writer\n"
    host.system.put(str(LAYOUT.units / "swarmbus-writer.service"), text)


def _claude(host: Host, mode: int = 0o600, **env: str) -> None:
    entry = {"mcpServers": {"swarmbus": {"command": "swarmbus", "args": ["--agent-id", "coder"], "env": env}}}
    host.system.put("/home/pi/.claude/settings.json", json.dumps(entry), mode)


def _claude_secret(host: Host) -> None:
    _claude(host, 0o644, SWARMBUS_BROKER_PASSWORD="x")


def _tailscale(*, used: bool = True, **changed: Any) -> Break:
    def breaking(host: Host) -> None:
        text = json.dumps({**TAILSCALE, **changed})
        host.answers["/usr/bin/tailscale status --json"] = Result((), 0, text)
        if used:
            host.set(broker="hub.tail1.ts.net", tls=True)

    return breaking


def _funnel(host: Host) -> None:
    said = {"TCP": {"443": {"TCPForward": "127.0.0.1:1883"}}, "AllowFunnel": {"pi4.tail1.ts.net:443": True}}
    host.answers["/usr/bin/tailscale serve status --json"] = Result((), 0, json.dumps(said))


HUB = TAILSCALE["Peer"]["k"]  # type: ignore[index]

TABLE: list[tuple[str, Break, str, str]] = [
    ("mqtt.name", _no_name, "fail", "hubb, which the settings name as broker, has no address"),
    ("mqtt.roundtrip", _other(round_trip=1500.0), "warn", "takes 1.5 s"),
    ("mqtt.roundtrip", _other(round_trip=4000.0), "fail", "takes 4.0 s"),
    ("mqtt.acl-publish", _other(writes=(0x87, 0x87)), "fail", "forbids us to write"),
    ("mqtt.session-lost", _status(connections=2, session_present=False), "info", "had forgotten its session"),
    (
        "mqtt.ghost",
        _other(
            presences={"w": presence(agent="w", status="stale", host="pi9", ts="2027-01-01T00:00:00+00:00")}
        ),
        "warn",
        "w was online at 2027-01-01T00:00:00+00:00, and has said nothing since",
    ),
    (
        "mqtt.retained-inbox",
        _other(retained=("agents/coder/inbox",)),
        "warn",
        "a message on agents/coder/inbox",
    ),
    (
        "mqtt.bridge-down",
        _other(sys={"$SYS/broker/connection/hub/state": "0"}),
        "fail",
        "the bridge hub has no",
    ),
    ("mqtt.old-protocol", _other(protocol=4), "info", "MQTT 3.1.1"),
    ("mqtt.password-in-clear", _clear, "warn", "the password of coder goes to hub without TLS"),
    ("agent.state-perms", _mode(f"{STATE}/coder", 0o755), "fail", "(mode 0755)"),
    (
        "agent.state-filesystem",
        _put("/proc/self/mounts", "/dev/a / ext4 rw 0 0\nnas:/h /home nfs4 rw 0 0\n"),
        "warn",
        "is on /home (nfs4)",
    ),
    ("agent.state-filesystem", _put("/proc/self/mounts", "t / tmpfs rw 0 0\n"), "info", "in memory"),
    ("agent.inbox-size", _large(INBOX, 101 << 20), "warn", "has 101 MiB: it should have rotated at 50 MiB"),
    (
        "agent.mailbox-size",
        _large(f"{STATE}/coder/mailbox.db-wal", 65 << 20),
        "warn",
        "mailbox.db-wal has 65 MiB",
    ),
    ("agent.lag", _lag, "warn", "invoke is 150 messages behind"),
    (
        "agent.settings-stale",
        _status(invoke="/bin/old"),
        "warn",
        "has invoke = /bin/old, the settings say none",
    ),
    ("agent.inbox-shared", _shared_inbox, "warn", f"coder and writer write to one inbox file, {INBOX}"),
    ("agent.id-elsewhere", _elsewhere, "fail", "coder is online on pi9, and set up here too"),
    ("agent.memory", _put(f"/proc/{PID}/status", "VmRSS:\t  400000 kB\n"), "warn", "has grown to 390 MiB"),
    ("agent.fd-limit", _descriptors, "warn", "has 900 of 1024 open files"),
    ("own.manifest", _put(f"{STATE}/.provision/manifest.json", "{"), "fail", "is damaged"),
    ("own.manifest", _put(f"{STATE}/.provision/manifest.json", '{"schema": "x/9"}'), "fail", "newer than"),
    ("own.unfinished", _put(f"{STATE}/.provision/journal.jsonl"), "fail", "was killed in the middle"),
    (
        "own.upgrade-unfinished",
        _upgrade('{"stage": "installing", "kept": {"folder": "/k"}}'),
        "fail",
        "'installing'",
    ),
    ("own.upgrade-unfinished", _upgrade("{"), "fail", "is damaged"),
    ("own.conflict", _put(f"{OUR_FILE}.swarmbus-new"), "warn", "50-swarmbus.conf was changed by hand, and"),
    ("own.missing", _gone(OUR_FILE), "warn", f"{OUR_FILE}, which init has made, is gone"),
    ("own.drift", _put(str(OUR_FILE), "listener 1883\n"), "info", f"{OUR_FILE} was changed by hand"),
    ("own.secret-perms", _secret("password_file"), "fail", "others can read /home/pi/secret (mode 0644)"),
    ("own.secret-perms", _secret("client_key"), "fail", "others can read /home/pi/secret (mode 0644)"),
    ("own.config-secret", _put(str(LAYOUT.config), 'password = "x"\n'), "fail", "holds a password"),
    ("own.foreign-owner", _put(f"{STATE}/coder/control.sock", uid=0), "fail", "belongs to user 0, not to pi"),
    ("own.old-tool", _old_unit, "warn", "still has units for writer"),
    ("plugin.cc-location", _claude, "fail", "reads MCP servers in ~/.claude.json only"),
    ("plugin.cc-secret", _claude_secret, "fail", "holds the broker's password"),
    ("tailscale.state", _tailscale(BackendState="NeedsLogin"), "fail", "tailscale is NeedsLogin"),
    ("tailscale.state", _tailscale(used=False, BackendState="Stopped"), "info", "tailscale is Stopped"),
    ("tailscale.health", _tailscale(Health=["no DERP"]), "warn", "tailscale says: no DERP"),
    (
        "tailscale.key-expiry",
        _tailscale(Self={"KeyExpiry": "2027-01-18T00:00:00+00:00"}),
        "warn",
        "in 3 days",
    ),
    ("tailscale.key-expiry", _tailscale(Self={"Expired": True}), "fail", "has expired"),
    (
        "tailscale.ip-mismatch",
        lambda host: host.mosquitto_says("listener 1883 100.64.0.9"),
        "fail",
        "listens on 100.64.0.9, this machine is 100.101.102.103",
    ),
    (
        "tailscale.peer-offline",
        _tailscale(Peer={"k": {**HUB, "Online": False, "LastSeen": "2027-01-14T00:00:00Z"}}),
        "fail",
        "hub, the broker's machine, is offline since 2027-01-14T00:00:00Z",
    ),
    (
        "tailscale.peer-offline",
        _tailscale(Peer={"k": {**HUB, "Active": True}}),
        "info",
        "goes over the relay fra",
    ),
    ("tailscale.funnel", _funnel, "fail", "publishes pi4.tail1.ts.net:443"),
]


@pytest.mark.parametrize(("code", "breaking", "status", "words"), TABLE)
def test_what_is_amiss_is_told(code: str, breaking: Break, status: str, words: str) -> None:
    host = Host()
    assert host.ask(code).status == "ok"
    breaking(host)
    check = next(check for check in CHECKS if check.code == code)
    results = run_checks([check], host.facts()).results
    result = max(results, key=lambda one: list(Status).index(one.status))
    assert (result.status, words in result.message) == (status, True), result.message


def _no_tailscale(host: Host) -> None:
    host.system.installed = {}


@pytest.mark.parametrize(
    ("code", "breaking", "reason"),
    [
        *[
            (f"tailscale.{name}", _no_tailscale, "tailscale is not installed here")
            for name in ("state", "health", "key-expiry", "ip-mismatch", "peer-offline", "funnel")
        ],
        (
            "tailscale.state",
            lambda host: host.answers.update(
                {"/usr/bin/tailscale status --json": Result((), 1, "", "no daemon")}
            ),
            "no daemon",
        ),
        ("plugin.cc-location", _gone(Path("/home/pi/.claude/settings.json")), "has no settings here"),
        ("plugin.cc-location", _put("/home/pi/.claude/settings.json", '{"swarmbus'), "settings.json"),
        ("mqtt.roundtrip", _other(round_trip=None), "does not bring our own messages back"),
        ("mqtt.acl-publish", _other(protocol=4), "no reason codes"),
        ("mqtt.acl-publish", _other(writes=()), "did not answer"),
        ("mqtt.ghost", _other(presences=None), "does not let us read presence"),
        ("mqtt.bridge-down", lambda host: setattr(host.bus, "seen", UNREACHABLE), "no connection"),
        ("mqtt.session-lost", lambda host: host.status.pop("connections") and None, "older release"),
        ("agent.id-elsewhere", _other(presences=None), "does not let us read presence"),
        ("agent.memory", _put(f"/proc/{PID}/status", "State: S\n"), "does not tell its memory"),
        ("agent.fd-limit", _gone(Path(f"/proc/{PID}/fd/0")), "hidden from us"),
        ("agent.lag", lambda host: host.bus.silent.add("coder"), "does not answer"),
        ("agent.settings-stale", lambda host: host.bus.silent.add("coder"), "does not answer"),
        ("agent.state-perms", _gone(Path(f"{STATE}/coder")), "there is no"),
        ("agent.state-filesystem", _gone(Path("/proc/self/mounts")), "there is no /proc/self/mounts"),
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
        (_no_name, "mqtt.name"),
        (_elsewhere, "agent.id-elsewhere"),
        (_put(f"{STATE}/.provision/manifest.json", "{"), "own.manifest"),
        (_claude, "plugin.cc-location"),
    ],
)
def test_only_the_root_cause_is_told(breaking: Break, code: str) -> None:
    host = Host()
    breaking(host)
    assert [told for told, _ in bad(host.doctor())] == [code]


def test_a_run_that_is_under_way_was_not_killed() -> None:
    host = Host()
    host.system.put(f"{STATE}/.provision/journal.jsonl")
    host.system.held[LAYOUT.provision / "lock"] = b"77\n"
    assert host.ask("own.unfinished").status == "skip"


def test_root_may_everything() -> None:
    host = Host()
    host.system.user = type(host.system.user)("root", 0, 0, Path("/root"))
    assert host.ask("own.foreign-owner").status == "skip"


def test_a_tailnet_a_name_of_one_and_tls_keep_a_password() -> None:
    for settings in (
        {"broker": "100.64.0.9"},
        {"broker": "hub.tail1.ts.net"},
        {"broker": "hub", "tls": True},
    ):
        host = Host()
        host.set(username="coder", password="x", **settings)
        assert host.ask("mqtt.password-in-clear").status == "ok", settings


def test_a_listener_that_was_started_by_hand_may_have_settings_of_its_own() -> None:
    host = Host()
    host.without_systemd()
    host.status["invoke"] = "/bin/other"
    assert host.ask("agent.settings-stale").status == "skip"


def test_what_the_shell_of_whoever_calls_the_doctor_says_is_not_the_daemons() -> None:
    host = Host()
    host.set(tls=True, outbox="/tmp/mine.md", sources={"outbox": "environment"})
    host.status["outbox"] = None
    assert host.ask("agent.settings-stale").status == "ok"
    host.set(tls=True, outbox="/tmp/mine.md", sources={"outbox": "config.toml"})
    assert host.ask("agent.settings-stale").status == "warn"


def test_a_ghost_of_this_host_is_for_its_own_checks() -> None:
    host = Host()
    host.other(presences={"coder": presence(status="stale")})
    assert host.ask("mqtt.ghost").status == "ok"


def test_every_check_is_seen_red_over_canned_facts() -> None:
    tables = (
        test_checks_agent, test_checks_broker, test_checks_bus, test_checks_host, test_checks_systemd,
        test_checks_unit,
    )  # fmt: skip
    seen = {row[0] for row in TABLE}
    for module in tables:
        for mark in getattr(module.test_what_is_amiss_is_told, "pytestmark", ()):
            seen |= {row[0] for row in mark.args[1]}
    for mark in getattr(test_checks_wakes.test_what_holds_wakes_back_is_told, "pytestmark", ()):
        seen |= {row[0] for row in mark.args[1]}
    # in tests of their own
    alone = {"broker.keyfile-perms", "own.health-overdue"}
    assert {check.code for check in CHECKS} - seen - alone == set()
