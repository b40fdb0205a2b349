"""The code that runs, against the code that is installed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from swarmbus.provision.checks.commands import init, repair_by_restart, restart_listener
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts
from swarmbus.version import WIRE

_PATIENCE: Final = 86_400.0
"""Seconds for which hosts that are upgraded one after the other may differ."""


@check("code.stale-daemon", "the listener runs the installed code", after=("agent.listener-running",))
def stale_daemon(facts: Facts, agent: str) -> Iterator[Finding]:
    """The fingerprint the daemon took when it started, against one taken now."""
    status = facts.status(agent)
    evidence = {
        "running": status.get("fingerprint"),
        "installed": facts.fingerprint(),
        "running version": status.get("version"),
        "installed version": facts.version,
    }
    if evidence["running"] == evidence["installed"]:
        return
    if evidence["running version"] != evidence["installed version"]:
        old, new = evidence["running version"], evidence["installed version"]
        message = f"its listener still runs swarmbus {old}; {new} is installed"
    else:
        message = f"its listener runs other code than what is installed, both called {facts.version}"
    fix, repair = restart_listener(facts, agent), repair_by_restart(facts, agent)
    yield Finding(Status.FAIL, message, evidence, fix, repair=repair)


@check(
    "code.deps-stale",
    "the listener runs the installed libraries",
    after=("agent.listener-running",),
    consequence_of=("code.stale-daemon", "code.deleted-mappings"),
)
def deps_stale(facts: Facts, agent: str) -> Iterator[Finding]:
    """When each library came to be on the disk, against the start of the daemon."""
    listener = facts.listener(agent)
    python = next(iter(listener.argv), None) if listener is not None else None
    environment = facts.pythons.environment(Path(python)) if python is not None else None
    if listener is None or environment is None or environment.packages is None:
        raise CouldNotLook("its listener is in no environment of its own")
    started = facts.processes.started(listener.pid)
    newer = {
        name: at for name, at in facts.pythons.installed(environment.packages).items() if at > started + 1.0
    }
    if newer:
        message = (
            f"{', '.join(newer)} came after its listener started, which still runs what was there before"
        )
        evidence = {"started": _time(started), **{name: _time(at) for name, at in newer.items()}}
        yield Finding(Status.WARN, message, evidence, restart_listener(facts, agent))


@check(
    "code.deleted-mappings",
    "what the listener runs is still on the disk",
    after=("agent.listener-running",),
    consequence_of=("code.stale-daemon",),
)
def deleted_mappings(facts: Facts, agent: str) -> Iterator[Finding]:
    """The kernel's list of what the daemon has mapped and can run."""
    listener = facts.listener(agent)
    if listener is None:
        raise CouldNotLook("no listener runs")
    gone = list(facts.processes.deleted_code(listener.pid))
    if gone:
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        message = f"its listener runs {gone[0]}{more}, which was replaced or removed since it started"
        yield Finding(
            Status.FAIL,
            message,
            {"pid": listener.pid, "deleted": gone[:5]},
            restart_listener(facts, agent),
        )


@check("code.two-installs", "there is one swarmbus", scope="host")
def two_installs(facts: Facts, _: str) -> Iterator[Finding]:
    """Each `swarmbus` along the PATH, links followed; and where the listeners' interpreters are."""
    found: dict[Path | None, Path] = {}
    for program in facts.files.programs("swarmbus", facts.system.environ.get("PATH", "")):
        found.setdefault(facts.files.real(program), program)
    if len(found) > 1:
        first, *others = found.values()
        message = f"there are {len(found)} swarmbus on the PATH: {first} hides {', '.join(map(str, others))}"
        yield Finding(Status.WARN, message, {"PATH": [str(one) for one in found.values()]})
    ours = _prefix(facts, facts.interpreter)
    for agent in facts.agents:
        try:
            program_of = facts.program_of(agent)
        except CouldNotLook:
            continue
        theirs = _prefix(facts, program_of) if program_of is not None else None
        if ours is not None and theirs is not None and theirs != ours:
            message = f"its listener is the swarmbus in {theirs}, this command the one in {ours}"
            fix = (init(agent),) if facts.supervision(agent) != "none" else ()
            yield Finding(Status.WARN, message, {"listener": str(theirs), "command": str(ours)}, fix, agent)


@check("code.path-shadow", "wake commands find this swarmbus")
def path_shadow(facts: Facts, agent: str) -> Iterator[Finding]:
    """The first `swarmbus` along the PATH of the listener, against the listener's own."""
    program = facts.program_of(agent)
    if program is None:
        raise CouldNotLook(f"there is no telling which program runs {agent}")
    along = facts.files.programs("swarmbus", facts.unit_path(agent))
    own = program.parent / "swarmbus"
    if (
        along
        and facts.files.followed(own) is not None
        and facts.files.real(along[0]) != facts.files.real(own)
    ):
        message = f"its wake command would find {along[0]}, its listener is {own}"
        yield Finding(Status.WARN, message, {"found": str(along[0]), "own": str(own)})


@check("code.wire-skew", "all agents speak this wire", scope="broker", after=("mqtt.connect",))
def wire_skew(facts: Facts, broker: str) -> Iterator[Finding]:
    """The wire number in presence; peers of the existing tool have none."""
    presences = facts.visit(broker).presences
    if presences is None:
        raise CouldNotLook("the broker does not let us read presence")
    for one in presences.values():
        if one.status != "online" or one.wire in (None, WIRE) or one.since is None:
            continue
        age = facts.now() - datetime.fromisoformat(one.since).timestamp()
        if age > _PATIENCE:
            message = (
                f"{one.agent} on {one.host} speaks wire {one.wire}, for {age / 3600:.0f} h now; we {WIRE}"
            )
            yield Finding(Status.WARN, message, {"wire": one.wire, "version": one.version}, subject=one.agent)


def _prefix(facts: Facts, python: Path) -> Path | None:
    """The environment of an interpreter, links of its folder followed; None outside of one."""
    environment = facts.pythons.environment(python)
    return facts.files.real(environment.prefix) if environment is not None else None


def _time(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
