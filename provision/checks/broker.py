"""The broker, where it is this machine's own."""

from __future__ import annotations

from collections.abc import Iterator

from swarmbus.provision.checks.commands import restart_broker
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts


@check(
    "broker.running",
    "the broker of this machine runs",
    scope="broker",
    consequence_of=(
        "broker.config-duplicate",
        "broker.config-invalid",
        "broker.files-unreadable",
        "broker.installed",
        "broker.listener-address",
        "broker.no-loopback-listener",
        "broker.start-limit",
        "broker.unit-masked",
    ),
    timeout=25.0,
)
def running(facts: Facts, broker: str) -> Iterator[Finding]:
    """By the connection that `mqtt.connect` reports on; systemd is only asked why."""
    settings = facts.settings_at(broker)
    if not facts.is_here(settings.broker):
        raise CouldNotLook("it is another machine's")
    visit = facts.visit(broker)
    if visit.error is None or visit.error.code != "broker-unreachable" or facts.accepts(broker):
        return
    agent = facts.agents_at(broker)[0]
    way, why, evidence = _supervisor(facts)
    yield Finding(
        Status.FAIL,
        f"nothing listens on port {settings.port} of this machine{why}",
        {"host": settings.broker, "port": settings.port, "kept running by": way, **evidence},
        restart_broker(facts, agent),
        repair=("broker",),
    )


def _supervisor(facts: Facts) -> tuple[str, str, dict[str, str]]:
    """What should keep it running, and what that says of it."""
    try:
        way = facts.broker_supervision()
    except CouldNotLook as error:
        return "unknown", "", {"systemd": str(error)}
    match way:
        case "process":
            pid = facts.broker_process()
            why = f": the broker that swarmbus started runs, pid {pid}, and does not listen there"
            return "swarmbus", why if pid else ": the broker that swarmbus started has ended", {}
        case "none":
            return "nobody we know", ", and no broker that we know of is set up here", {}
        case name:
            try:
                unit = facts.mosquitto_unit() if name == "mosquitto.service" else facts.units()[name]
            except CouldNotLook as error:
                return name, "", {"systemd": str(error)}
            state = {key: unit[key] for key in ("ActiveState", "Result")}
            return name, f": {name} is {unit['ActiveState']} ({unit['Result']})", state
