"""An agent's listener daemon: whether it runs, and has its broker."""

from __future__ import annotations

from collections.abc import Iterator

from swarmbus.provision.checks.commands import (
    repair_by_restart,
    repair_by_start,
    restart_listener,
    start_listener,
)
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import Facts
from swarmbus.provision.supervisors.units import agent_unit


@check(
    "agent.listener-running",
    "its listener runs",
    after=("systemd.unit-missing", "systemd.unit-masked", "systemd.unit-syntax", "systemd.unit-failed"),
    consequence_of=("agent.mailbox", "agent.inbox-writable", "agent.id-elsewhere", "systemd.exec-missing"),
)
def listener_running(facts: Facts, agent: str) -> Iterator[Finding]:
    """By the lock that a daemon holds, and its process."""
    listener = facts.listener(agent)
    if listener is not None:
        evidence = {"pid": listener.pid, "state": listener.state, "kept running by": facts.supervision(agent)}
        yield Finding(Status.OK, f"pid {listener.pid}", evidence)
        return
    way = facts.supervision(agent)
    if way in ("systemd-user", "systemd-system"):
        unit = facts.unit(agent)
        message = f"no listener of {agent} runs: {agent_unit(agent)} is {unit['ActiveState']}"
    elif way == "processes":
        message = f"no listener of {agent} runs: the process that swarmbus init started has ended"
    else:
        message = f"no listener of {agent} runs on this host"
    fix, repair = start_listener(facts, agent), repair_by_start(facts, agent)
    yield Finding(Status.FAIL, message, {"kept running by": way}, fix, repair=repair)


@check(
    "agent.listener-connected",
    "its listener is connected to the broker",
    after=("mqtt.connect", "agent.listener-running"),
)
def listener_connected(facts: Facts, agent: str) -> Iterator[Finding]:
    """By what it says of itself."""
    status = facts.status(agent)
    there, here = (status["broker"], status["port"]), facts.settings[agent]
    evidence = {name: status.get(name) for name in ("broker", "port", "connected", "last_error")}
    if there[1] != here.port or not _same_host(facts, there[0], here.broker):
        message = (
            f"its listener serves {there[0]}:{there[1]}, the settings here name {here.broker}:{here.port}"
        )
        repair = repair_by_restart(facts, agent)
        yield Finding(Status.FAIL, message, evidence, start_over(facts, agent), repair=repair)
    elif not status["connected"]:
        message = f"its listener has no connection: {status['last_error'] or 'it is still connecting'}"
        repair = repair_by_restart(facts, agent)
        yield Finding(Status.FAIL, message, evidence, restart_listener(facts, agent), repair=repair)


@check(
    "agent.control-socket",
    "its listener answers questions",
    after=("agent.listener-running", "mqtt.canary"),
)
def control_socket(facts: Facts, agent: str) -> Iterator[Finding]:
    """Whether the control socket answered."""
    listener = facts.listener(agent)
    if facts.answer(agent) is None:
        pid = f", pid {listener.pid}," if listener else ""
        message = f"its listener{pid} takes messages, but does not answer on its control socket"
        path = facts.layout.agent_dir(agent) / "control.sock"
        evidence = {"socket": str(path), "there": facts.stat(path) is not None}
        repair = repair_by_restart(facts, agent)
        yield Finding(Status.FAIL, message, evidence, restart_listener(facts, agent), repair=repair)


def start_over(facts: Facts, agent: str) -> tuple[str, ...]:
    """Only a daemon that takes its settings from where we do is mended by starting it again."""
    return () if facts.supervision(agent) == "none" else restart_listener(facts, agent)


def _same_host(facts: Facts, one: str, other: str) -> bool:
    return one == other or (facts.is_here(one) and facts.is_here(other))
