"""The user's systemd: whether it runs at all, runs without a login, and knows the agents' units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from swarmbus.provision.checks.commands import end, init, repair_by_restart
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts
from swarmbus.provision.supervisors.units import AgentUnit, agent_unit

_LINGER = Path("/var/lib/systemd/linger")  # logind's own record: one empty file a user
_SHOWN = ("LoadState", "ActiveState", "SubState", "UnitFileState", "Result", "ExecMainStatus")


@check("systemd.absent", "systemd runs here", scope="host")
def absent(facts: Facts, _: str) -> Iterator[Finding]:
    """By sd_booted(3)."""
    if facts.has_systemd():
        return
    ways = {agent: facts.supervision(agent) for agent in facts.agents}
    recorded = [agent for agent, way in ways.items() if way == "processes"]
    if recorded:
        how = f"background processes, which end with a reboot, run {', '.join(recorded)}"
    else:
        how = "a listener runs only where somebody starts it"
    yield Finding(Status.INFO, f"systemd does not run here; {how}", ways)


@check("systemd.linger", "units run without a login", scope="host")
def linger(facts: Facts, _: str) -> Iterator[Finding]:
    """By logind's own record."""
    _need_units(facts)
    user = facts.system.user.name
    if facts.stat(_LINGER / user) is None:
        yield Finding(
            Status.FAIL,
            f"the units of {user} stop at logout and do not start at boot: linger is off",
            {"file": str(_LINGER / user)},
            # Without polkit, or by its rules, logind may refuse a user what concerns only himself.
            (f"loginctl enable-linger {user} || sudo loginctl enable-linger {user}",),
            repair=(f"linger:{user}",),
        )


@check("systemd.user-bus", "the user's systemd answers", scope="host", consequence_of=("systemd.linger",))
def user_bus(facts: Facts, _: str) -> Iterator[Finding]:
    """By the sockets in the run-time folder, and whether anybody answers there."""
    _need_units(facts)
    user = facts.system.user
    runtime = facts.system.environ.get("XDG_RUNTIME_DIR")
    fix = (f"sudo systemctl start user@{user.uid}.service",)
    if not runtime:
        message = f"there is no /run/user/{user.uid} of {user.name}: the user's systemd does not run"
        yield Finding(Status.FAIL, message, {"XDG_RUNTIME_DIR": ""}, fix)
    elif not any(facts.stat(Path(runtime) / name) for name in ("systemd/private", "bus")):
        message = f"nothing listens in {runtime}: the user's systemd does not run"
        yield Finding(Status.FAIL, message, {"XDG_RUNTIME_DIR": runtime}, fix)
    elif (refused := _refused(facts)) is not None:
        # Debian 13's leaves its sockets behind when it ends.
        message = f"nobody answers in {runtime}: the user's systemd does not run"
        yield Finding(Status.FAIL, message, {"XDG_RUNTIME_DIR": runtime, "systemctl": refused}, fix)


def _refused(facts: Facts) -> str | None:
    """What systemctl says when nobody listens; None if it says anything else, or nothing in time."""
    try:
        facts.units()
    except CouldNotLook as problem:
        return str(problem) if "Failed to connect" in str(problem) else None
    return None


@check("systemd.unit-missing", "the agent has a unit", after=("systemd.user-bus",))
def unit_missing(facts: Facts, agent: str) -> Iterator[Finding]:
    """By LoadState."""
    unit = facts.unit(agent)
    if unit["LoadState"] != "not-found":
        return
    way = facts.supervision(agent)
    if way == "processes":
        return
    if way == "none" and facts.listener(agent) is not None:
        message = f"its listener runs, but nothing starts it after a reboot: {agent_unit(agent)} is not there"
        yield Finding(Status.INFO, message, _evidence(unit), (init(agent),))
        return
    message = f"there is no {agent_unit(agent)}"
    yield Finding(Status.FAIL, message, _evidence(unit), (init(agent),), repair=(f"agent:{agent}",))


@check("systemd.unit-masked", "its unit is not masked", after=("systemd.user-bus", "systemd.unit-missing"))
def unit_masked(facts: Facts, agent: str) -> Iterator[Finding]:
    """By LoadState."""
    unit, ours = _loaded(facts, agent)
    if unit["LoadState"] == "masked":
        fix = (ours.command("unmask"), init(agent))
        message = f"{ours.name} is masked: systemd refuses to start it"
        yield Finding(Status.FAIL, message, _evidence(unit), fix)


@check(
    "systemd.unit-disabled",
    "its unit starts at boot",
    after=("systemd.unit-missing", "systemd.unit-masked"),
)
def unit_disabled(facts: Facts, agent: str) -> Iterator[Finding]:
    """By UnitFileState."""
    unit, ours = _loaded(facts, agent)
    if unit["UnitFileState"] not in ("enabled", "static", "alias", "linked", "generated"):
        message = f"{ours.name} is {unit['UnitFileState'] or 'not enabled'}: it does not start at boot"
        fix, repair = (ours.command("enable"),), (f"unit:{ours.manager}:{ours.name}",)
        yield Finding(Status.WARN, message, _evidence(unit), fix, repair=repair)


@check(
    "systemd.unit-failed",
    "its unit stays up",
    after=("systemd.unit-missing", "systemd.unit-masked"),
    consequence_of=(
        "agent.mailbox",
        "agent.inbox-writable",
        "host.disk-space",
        "host.fs-readonly",
        "python.interpreter-missing",
        "python.venv-version",
        "systemd.exec-missing",
        "systemd.sandbox-denied",
        "systemd.unit-syntax",
    ),
)
def unit_failed(facts: Facts, agent: str) -> Iterator[Finding]:
    """By ActiveState, SubState and Result."""
    unit, ours = _loaded(facts, agent)
    again = unit["SubState"] == "auto-restart"
    if unit["ActiveState"] == "failed" or again:
        how = "fails again and again" if again else "has failed"
        message = f"{ours.name} {how}: {unit['Result']}, exit status {unit['ExecMainStatus']}"
        start = f"{ours.command('reset-failed')} && {ours.command('start')}"
        repair: tuple[str, ...] = (f"unit:{ours.manager}:{ours.name}",)
        if unit["Result"] == "exit-code" and unit["ExecMainStatus"] == "3":
            message = f"{ours.name} has failed: another listener of {agent} runs on this host"
            other = facts.listener(agent)
            if other is not None:
                message += f", pid {other.pid}"
                start = f"{end(other)} && {start}"
            repair = ()
        fix = (
            start,
            f"{ours.journal} --no-pager",
        )
        yield Finding(Status.FAIL, message, _evidence(unit), fix, repair=repair)


@check(
    "systemd.reload-pending",
    "systemd has read its unit as it is now",
    after=("systemd.unit-missing", "systemd.unit-masked"),
)
def reload_pending(facts: Facts, agent: str) -> Iterator[Finding]:
    """By NeedDaemonReload."""
    unit, ours = _loaded(facts, agent)
    if unit["NeedDaemonReload"] == "yes":
        reload, restart = f"{ours.systemctl} daemon-reload", ours.command("restart")
        message = f"{ours.name} or a drop-in was changed, and systemd still has the old one"
        again = (f"{ours.manager}:daemon-reload", *repair_by_restart(facts, agent))
        fix = (f"{reload} && {restart}",)
        yield Finding(Status.FAIL, message, {"NeedDaemonReload": "yes"}, fix, repair=again)


def _need_units(facts: Facts) -> None:
    """Go on only where something needs the user's systemd: a unit of his, or a wake command."""
    if not facts.has_systemd():
        raise CouldNotLook("systemd does not run here")
    ways = {agent: facts.supervision(agent) for agent in facts.agents}
    if "systemd-user" in ways.values():
        return
    if of_system := [agent for agent, way in ways.items() if way == "systemd-system"]:
        if any(facts.settings[agent].invoke for agent in of_system):
            return
        raise CouldNotLook(f"the system's systemd runs {' and '.join(of_system)}, not the user's")
    raise CouldNotLook(f"{' and '.join(facts.agents)} {'has' if len(facts.agents) == 1 else 'have'} no unit")


def _loaded(facts: Facts, agent: str) -> tuple[Mapping[str, str], AgentUnit]:
    unit = facts.unit(agent)
    if unit["LoadState"] == "not-found":
        raise CouldNotLook(f"{agent} has no unit")
    return unit, facts.unit_of(agent)


def _evidence(unit: Mapping[str, str]) -> dict[str, str]:
    return {name: unit[name] for name in _SHOWN if unit.get(name)}
