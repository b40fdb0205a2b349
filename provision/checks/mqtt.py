"""MQTT from the agent's side: whether the broker lets us in, and a message comes through."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from swarmbus.errors import BrokerRefused, ConfigError, SwarmbusError
from swarmbus.provision.bus import Visit
from swarmbus.provision.canary import CanaryResult
from swarmbus.provision.checks.commands import repair_by_restart, restart_listener
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import Facts

_DEAF_AFTER = 60.0
"""Seconds without the daemon's own marker, which it sends every 20; at 40 it has dropped the connection."""


@check(
    "mqtt.connect",
    "the broker lets us in",
    scope="broker",
    after=("broker.running",),
    consequence_of=(
        "broker.local-only",
        "broker.tls-absent",
        "broker.tls-expiry",
        "broker.tls-name",
        "broker.tls-untrusted",
        "broker.websockets",
        "mqtt.name",
    ),
    timeout=25.0,
)
def connect(facts: Facts, broker: str) -> Iterator[Finding]:
    """One connection, and the reason code of its CONNACK."""
    visit = facts.visit(broker)
    if visit.error is None:
        version = "5" if visit.protocol == 5 else "3.1.1"
        message = f"MQTT {version}, connected in {visit.milliseconds:.0f} ms"
        yield Finding(Status.OK, message, {"protocol": version, "connect_ms": visit.milliseconds})
        return
    yield Finding(Status.FAIL, _refusal(facts, broker, visit.error), _evidence(visit))


def _refusal(facts: Facts, broker: str, error: SwarmbusError) -> str:
    if isinstance(error, BrokerRefused) and error.reason_code in (0x86, 0x87):
        user = facts.settings_at(broker).username
        who = f"as {user!r}: wrong user name or password" if user else "without credentials: it wants some"
        return f"{error.message} {who}; set username and password_file in {facts.layout.config}"
    if isinstance(error, ConfigError):
        return error.message
    return f"{error.message}{f'; {error.hint}' if error.hint else ''}"


def _evidence(visit: Visit) -> dict[str, object]:
    error = visit.error
    evidence: dict[str, object] = {"error": error.code if error else "", "after_ms": visit.milliseconds}
    if isinstance(error, BrokerRefused) and error.reason_code is not None:
        evidence["reason_code"] = f"0x{error.reason_code:02x}"
    return evidence


@check(
    "mqtt.canary",
    "a message comes through",
    after=("mqtt.connect", "agent.listener-running", "agent.listener-connected"),
    consequence_of=("mqtt.acl-publish",),
    timeout=25.0,
)
def canary(facts: Facts, agent: str) -> Iterator[Finding]:
    """One message to itself."""
    result = facts.canary(agent)
    evidence: dict[str, object] = {f"{hop}_ms": took for hop, took in result.hops.items()}
    if result.ok:
        yield Finding(Status.OK, f"stored and confirmed in {result.total:.0f} ms", evidence)
        return
    message = f"stopped at the hop '{result.failed}': {result.reason}{_why(facts, agent, result)}"
    fix = _fix(facts, agent, result)
    repair = repair_by_restart(facts, agent) if fix else ()
    yield Finding(Status.FAIL, message, {"failed": result.failed, **evidence}, fix, repair=repair)


def _why(facts: Facts, agent: str, result: CanaryResult) -> str:
    """What else is known about a daemon that did not answer."""
    listener = facts.listener(agent)
    if result.failed != "listener" or listener is None:
        return ""
    if listener.is_stopped:
        return f"; its listener, pid {listener.pid}, is stopped by a signal"
    answer = facts.answer(agent)
    if answer is None:
        return f"; its listener, pid {listener.pid}, does not answer on its control socket either"
    heard = answer.get("heard")
    if isinstance(heard, int | float) and facts.now() - heard > _DEAF_AFTER:
        since = datetime.fromtimestamp(heard).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        return f"; its listener is deaf since {since}, when it last heard itself"
    return f"; its listener, pid {listener.pid}, is connected, and has not stored it: see its log"


def _fix(facts: Facts, agent: str, result: CanaryResult) -> tuple[str, ...]:
    listener = facts.listener(agent)
    if result.failed not in ("listener", "mailbox", "receipt") or listener is None:
        return ()
    if listener.is_stopped:
        return (f"kill -CONT {listener.pid}",)
    return restart_listener(facts, agent)
