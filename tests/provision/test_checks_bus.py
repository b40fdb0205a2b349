"""Checks of broker, MQTT and listener, over canned facts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from swarmbus.errors import BrokerRefused, BrokerUnreachable, ConfigError
from swarmbus.provision.bus import Visit
from swarmbus.provision.canary import CanaryResult
from tests.provision.doctor_facts import LAYOUT, LOCK, NOW, PID, UNIT, Host, bad, presence

Break = Callable[[Host], None]
UNREACHABLE = Visit(error=BrokerUnreachable("cannot reach the broker at localhost:1883: refused"))


def _no_broker(host: Host) -> None:
    host.bus.seen = UNREACHABLE
    host.mosquitto.update(ActiveState="failed", Result="start-limit-hit")
    host.status.update(connected=False, last_error="refused")


def _private_broker(host: Host) -> None:
    host.bus.seen = UNREACHABLE
    host.without_systemd()
    host.system.put(str(LAYOUT.processes / "broker.json"), "{}")


def _hanging_broker(host: Host) -> None:
    host.bus.seen = Visit(error=BrokerUnreachable("connected, but no answer"))
    host.system.answers[1883] = b""


def _refused(host: Host) -> None:
    host.bus.seen = Visit(error=BrokerRefused("refused our credentials", reason_code=0x87))


def _refused_as_somebody(host: Host) -> None:
    host.set(username="coder")
    _refused(host)


def _no_password(host: Host) -> None:
    host.bus.seen = Visit(error=ConfigError("cannot read the password file"))


def _canary(failed: str, **changed: object) -> Break:
    def breaking(host: Host) -> None:
        host.bus.results["coder"] = CanaryResult("coder", {"connect": 1.0}, failed, "it did not come")  # type: ignore[arg-type]
        host.status.update(changed)

    return breaking


def _stopped(host: Host) -> None:
    _canary("listener")(host)
    host.system.put(f"/proc/{PID}/status", "State:\tT (stopped)\n")
    host.bus.silent.add("coder")


def _silent(host: Host) -> None:
    host.bus.silent.add("coder")


def _reader_holds_the_lock(host: Host) -> None:
    host.system.held[LOCK] = host.system.held[LOCK].replace(b"listener", b"staying")


def _presence(**changed: str) -> Break:
    def breaking(host: Host) -> None:
        host.bus.seen = Visit(protocol=5, presences={"coder": presence(**changed)})

    return breaking


def _no_presence(host: Host) -> None:
    host.bus.seen = Visit(protocol=5, presences={})


def _status(**changed: object) -> Break:
    return lambda host: host.status.update(changed)


def _installed(host: Host) -> None:
    host.installed = "f2"


@pytest.mark.parametrize(
    ("code", "breaking", "words"),
    [
        ("broker.running", _no_broker, "mosquitto.service is failed (start-limit-hit)"),
        ("broker.running", _private_broker, "the broker that swarmbus started has ended"),
        ("mqtt.connect", _hanging_broker, "connected, but no answer"),
        ("mqtt.connect", _refused, "without credentials: it wants some"),
        ("mqtt.connect", _refused_as_somebody, "as 'coder': wrong user name or password"),
        ("mqtt.connect", _no_password, "cannot read the password file"),
        ("mqtt.canary", _canary("broker"), "stopped at the hop 'broker'"),
        ("mqtt.canary", _canary("listener", heard=NOW - 300), "deaf since"),
        ("mqtt.canary", _canary("listener"), "has not stored it"),
        ("mqtt.canary", _stopped, f"pid {PID}, is stopped by a signal"),
        ("agent.listener-running", Host.without_listener, f"{UNIT} is active"),
        ("agent.listener-running", _reader_holds_the_lock, "no listener of coder runs"),
        ("agent.listener-connected", _status(connected=False, last_error="refused"), "refused"),
        ("agent.listener-connected", _status(broker="hub"), "serves hub:1883"),
        ("agent.listener-connected", _status(port=1884), "serves localhost:1884"),
        ("agent.control-socket", _silent, "does not answer on its control socket"),
        ("agent.presence", _no_presence, "to others it does not exist"),
        ("agent.presence", _presence(status="stale"), "says stale"),
        ("agent.presence", _presence(instance="i2", host="pi5"), "on pi5"),
        ("code.stale-daemon", _installed, "other code"),
        ("code.stale-daemon", _status(fingerprint="f0", version="0.9"), "still runs swarmbus 0.9"),
    ],
)
def test_what_is_amiss_is_told(code: str, breaking: Break, words: str) -> None:
    host = Host()
    assert host.ask(code).status == "ok"
    breaking(host)
    result = host.ask(code)
    assert (result.status, words in result.message) == ("fail", True), result.message


@pytest.mark.parametrize(
    ("breaking", "code"),
    [
        (_no_broker, "broker.start-limit"),
        (_hanging_broker, "mqtt.connect"),
        (_refused, "mqtt.connect"),
        (_stopped, "mqtt.canary"),
        (Host.without_listener, "agent.listener-running"),
        (_status(connected=False), "agent.listener-connected"),
        (_silent, "agent.control-socket"),
        (_no_presence, "agent.presence"),
        (_installed, "code.stale-daemon"),
    ],
)
def test_only_the_root_cause_is_told(breaking: Break, code: str) -> None:
    host = Host()
    breaking(host)
    report = host.doctor()
    assert bad(report) == [(code, "fail")]
    assert report.exit_status == 1
    assert {result.because for result in report.results} <= {None, code}


@pytest.mark.parametrize(
    ("code", "breaking", "reason"),
    [
        ("broker.running", lambda host: host.set(broker="hub.example"), "another machine's"),
        ("agent.listener-connected", _silent, "does not answer on its control socket"),
        ("code.stale-daemon", _silent, "does not answer on its control socket"),
        (
            "agent.presence",
            lambda host: setattr(host.bus, "seen", Visit(protocol=5, presences=None)),
            "does not let us read presence",
        ),
    ],
)
def test_what_cannot_be_seen_is_neither_good_nor_bad(code: str, breaking: Break, reason: str) -> None:
    host = Host()
    breaking(host)
    result = host.ask(code)
    assert (result.status, reason in result.message) == ("skip", True), result.message


def test_an_address_of_this_machine_by_another_name_is_the_same_broker() -> None:
    host = Host()
    host.status["broker"] = "127.0.0.1"
    assert host.ask("agent.listener-connected").status == "ok"


def test_canaries_fly_only_where_a_listener_lives_and_all_at_once() -> None:
    host = Host()
    host.settings |= dict.fromkeys(("planner", "writer"), host.settings["coder"])
    for name in ("planner", "writer"):
        host.bus.mailboxes[name] = host.bus.mailboxes["coder"]
    host.doctor()
    assert host.bus.flown == [["coder"]]


def test_a_stopped_listener_is_woken_and_not_killed() -> None:
    host = Host()
    _stopped(host)
    assert host.ask("mqtt.canary").fix == (f"kill -CONT {PID}",)


def test_hops_and_their_times_are_told() -> None:
    result = Host().ask("mqtt.canary")
    assert result.evidence == {
        f"{hop}_ms": 1.0 for hop in ("connect", "broker", "listener", "mailbox", "receipt")
    }
