"""An agent as others see it."""

from __future__ import annotations

from collections.abc import Iterator

from swarmbus.provision.checks.commands import repair_by_restart, restart_listener
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts


@check(
    "agent.presence",
    "others see it online",
    after=("mqtt.connect", "agent.listener-running", "agent.listener-connected", "mqtt.canary"),
)
def presence(facts: Facts, agent: str) -> Iterator[Finding]:
    """The retained message, against the instance that the daemon says it is."""
    presences = facts.visit(facts.broker_of(agent)).presences
    if presences is None:
        raise CouldNotLook("the broker does not let us read presence")
    seen = presences.get(agent)
    mine = facts.status(agent).get("instance")
    fix, repair = restart_listener(facts, agent), repair_by_restart(facts, agent)
    if seen is None:
        message = "the broker has no presence of it: to others it does not exist"
        yield Finding(Status.FAIL, message, {"presence": ""}, fix, repair=repair)
        return
    evidence = {"status": seen.status, "host": seen.host, "instance": seen.instance, "running": mine}
    if seen.instance != mine:
        where = f"on {seen.host}" if seen.host else "of the existing tool"
        message = f"its presence is another listener's, {where}: two share its id, or one left it behind"
        yield Finding(Status.FAIL, message, evidence, fix, repair=repair)
    elif seen.status != "online":
        message = f"its presence says {seen.status}, although its listener is connected"
        yield Finding(Status.FAIL, message, evidence, fix, repair=repair)
