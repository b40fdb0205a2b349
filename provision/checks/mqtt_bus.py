"""The bus as an agent finds it: what the broker grants, and what it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from swarmbus.config import Settings
from swarmbus.provision.checks.commands import clear_retained, restart_listener
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts
from swarmbus.provision.sources.sockets import address
from swarmbus.provision.sources.tailscale import TAILNET

_NOT_AUTHORIZED: Final = 0x87
_SLOW: Final = 1000.0
_TOO_SLOW: Final = 3000.0
_GETENT_NOT_FOUND: Final = 2  # getent(1)
_SHOWN: Final = 5


@check(
    "mqtt.name", "the broker's name has an address", scope="broker", after=("broker.running",), timeout=25.0
)
def name(facts: Facts, broker: str) -> Iterator[Finding]:
    """Asked for only where there is no connection."""
    host = facts.settings_at(broker).broker
    visit = facts.visit(broker)
    if visit.error is None or visit.error.code != "broker-unreachable" or address(host) is not None:
        return
    asked = facts.system.run(["getent", "ahosts", host], timeout=5.0)
    if asked.status == _GETENT_NOT_FOUND:
        message = (
            f"{host}, which the settings name as broker, has no address: no such name, or no name server"
        )
        yield Finding(
            Status.FAIL, message, {"name": host, "getent": asked.status}, (f"getent ahosts {host}",)
        )


@check("mqtt.roundtrip", "a message is back in no time", scope="broker", after=("mqtt.connect",))
def roundtrip(facts: Facts, broker: str) -> Iterator[Finding]:
    """A message of ours to ourselves, without acknowledgement or disk."""
    took = facts.visit(broker).round_trip
    if took is None:
        raise CouldNotLook("the broker does not bring our own messages back")
    if took > _SLOW:
        status = Status.FAIL if took > _TOO_SLOW else Status.WARN
        message = (
            f"a message to the broker and back takes {took / 1000:.1f} s: network or broker is overloaded"
        )
        yield Finding(status, message, {"round_trip_ms": took})


@check("mqtt.acl-publish", "we may write to other agents", scope="broker", after=("mqtt.connect",))
def acl_publish(facts: Facts, broker: str) -> Iterator[Finding]:
    """Reason codes of MQTT 5 for an inbox that nobody has."""
    visit = facts.visit(broker)
    if visit.protocol != 5:
        raise CouldNotLook("MQTT 3.1.1 has no reason codes: what is forbidden looks like success")
    if not visit.writes:
        raise CouldNotLook("the broker did not answer")
    if all(code == _NOT_AUTHORIZED for code in visit.writes):
        user = facts.settings_at(broker).username
        message = f"the broker forbids {user or 'us'} to write to anybody's inbox"
        codes = ", ".join(f"0x{code:02x}" for code in visit.writes)
        yield Finding(Status.FAIL, message, {"reason_codes": codes, "user": user})


@check(
    "mqtt.session-lost",
    "the broker still had its session",
    after=("agent.listener-running", "agent.listener-connected"),
    consequence_of=("broker.persistence-off", "broker.clientid-fight", "broker.foreign"),
)
def session_lost(facts: Facts, agent: str) -> Iterator[Finding]:
    """Session-present of CONNACK, from the second connection of the daemon on."""
    status = facts.status(agent)
    if "connections" not in status:
        raise CouldNotLook("its listener is of an older release, and does not count its connections")
    if status.get("persistent") and status["connections"] > 1 and status.get("session_present") is False:
        since = status.get("connected_since")
        when = datetime.fromtimestamp(since).astimezone().strftime("%H:%M:%S") if since else "last"
        message = (
            f"when it came back at {when}, the broker had forgotten its session, and what was queued in it"
        )
        evidence = {"connections": status["connections"], "session_present": False}
        # What was lost is lost, and nothing is left to mend.
        yield Finding(Status.INFO, message, evidence, restart_listener(facts, agent))


@check("mqtt.ghost", "whoever is shown as online is there", scope="broker", after=("mqtt.connect",))
def ghost(facts: Facts, broker: str) -> Iterator[Finding]:
    """Presence that says online, and was not renewed for three times its interval."""
    presences = facts.visit(broker).presences
    if presences is None:
        raise CouldNotLook("the broker does not let us read presence")
    ghosts = [one for one in presences.values() if one.status == "stale" and one.agent not in facts.agents]
    for one in ghosts[:_SHOWN]:
        message = f"{one.agent} was online at {one.ts}, and has said nothing since: no will was sent for it"
        fix = clear_retained(facts, broker, f"agents/{one.agent}/presence")
        yield Finding(Status.WARN, message, {"host": one.host, "ts": one.ts}, fix, one.agent)


@check("mqtt.retained-inbox", "no message is delivered for ever", scope="broker", after=("mqtt.connect",))
def retained_inbox(facts: Facts, broker: str) -> Iterator[Finding]:
    """Messages that the broker keeps on the inbox of an agent of this host."""
    for topic in facts.visit(broker).retained[:_SHOWN]:
        message = (
            f"the broker keeps a message on {topic}, and delivers it again at every start of its listener"
        )
        yield Finding(Status.WARN, message, {"topic": topic}, clear_retained(facts, broker, topic), topic)


@check(
    "mqtt.bridge-down", "the broker's bridges have their connection", scope="broker", after=("mqtt.connect",)
)
def bridge_down(facts: Facts, broker: str) -> Iterator[Finding]:
    """$SYS/broker/connection/NAME/state."""
    for bridge, up in facts.sys_topics(broker).bridges().items():
        if not up:
            message = (
                f"the bridge {bridge} has no connection: agents beyond it are out of reach, and look online"
            )
            yield Finding(Status.FAIL, message, {"state": 0}, (), bridge)


@check("mqtt.old-protocol", "the broker speaks MQTT 5", scope="broker", after=("mqtt.connect",))
def old_protocol(facts: Facts, broker: str) -> Iterator[Finding]:
    """The protocol that was agreed on."""
    if facts.visit(broker).protocol == 4:
        message = "MQTT 3.1.1: the broker cannot say that nobody listens, or that something is forbidden"
        yield Finding(Status.INFO, message, {"protocol": "3.1.1"})


@check("mqtt.password-in-clear", "no password crosses a network in clear", scope="broker")
def password_in_clear(facts: Facts, broker: str) -> Iterator[Finding]:
    """By the settings alone: a password, another machine, no TLS, no tailnet."""
    settings = facts.settings_at(broker)
    place = address(settings.broker)
    tailnet = settings.broker.endswith(".ts.net") or (place is not None and place in TAILNET)
    if not _has_password(settings) or _uses_tls(settings) or tailnet or facts.serves_here(broker):
        return
    message = f"the password of {settings.username} goes to {settings.broker} without TLS: others can read it"
    yield Finding(Status.WARN, message, {"username": settings.username, "tls": False})


def _has_password(settings: Settings) -> bool:
    return settings.username is not None and (settings.password or settings.password_file) is not None


def _uses_tls(settings: Settings) -> bool:
    given = any((settings.ca_cert, settings.client_cert, settings.client_key))
    return given if settings.tls is None else settings.tls
