"""Adopt: what the existing tool has set up, taken over without losing a message or a setting.

The plan is that of ``swarmbus init`` for the same agents, with what init does not do put into it: the
settings that only the old unit had, and what has to go. Everything in it is taken back like any other change.

Broker, client id and topics are the same, so what the broker has queued for the old daemon comes to ours.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from swarmbus.errors import Conflict, ListenerRunning, UsageError
from swarmbus.provision import mosquitto
from swarmbus.provision.adopted import Amendment
from swarmbus.provision.host import Inspector
from swarmbus.provision.journal import Journal
from swarmbus.provision.layout import Layout
from swarmbus.provision.old_command import OldCommand
from swarmbus.provision.old_tool import OldAgent, OldInstallation, recognise, unread_by_mcp
from swarmbus.provision.outcome import Prepared
from swarmbus.provision.prepare import prepare
from swarmbus.provision.request import AgentSpec, Request
from swarmbus.provision.spec import DEFAULT_PORT, load_kept, read_config
from swarmbus.provision.supervisors.units import agent_unit
from swarmbus.provision.system import System


@dataclass(frozen=True)
class Adoption:
    """What was found, and the plan.

    Attributes:
        prepared: For `swarmbus.provision.carry_out`; None if there is nothing to adopt.
    """

    found: OldInstallation
    prepared: Prepared | None
    notes: tuple[str, ...] = ()


def was_interrupted(system: System, layout: Layout) -> bool:
    """Whether a run was killed in the middle: it must be taken back before an old unit can be understood."""
    return Journal(system, layout.provision).interrupted() is not None


def prepare_adoption(
    system: System,
    agent_ids: Collection[str] = (),
    *,
    layout: Layout | None = None,
    inspector: Inspector | None = None,
) -> Adoption:
    """Look for the existing tool and plan; reads only.

    Args:
        agent_ids: Those to adopt; none means all.

    Raises:
        UsageError: If an agent was asked for that the existing tool does not run, or cannot be taken over.
        ListenerRunning: If a listener that somebody started by hand holds an agent's session.
        Conflict, RootStepsNeeded, StorageError: As `prepare`.
    """
    layout = layout or Layout.of_this_user()
    if was_interrupted(system, layout):
        raise Conflict(
            "an earlier run was killed in the middle", hint="swarmbus adopt --yes takes it back first"
        )
    found = recognise(system, layout)
    agents = [agent for agent in found.agents if not agent_ids or agent.id in agent_ids]
    _refuse_unknown(found, agents, agent_ids, layout)
    _refuse_by_hand(found, agents, agent_ids)
    told = (*_remarks(found, agents), *_unread(system, layout, agents))
    if not agents:
        return Adoption(found, None, told)
    usual = _usual_broker(system, layout, agents)
    configuration = mosquitto.load(system)
    request = Request(
        agents=tuple(_agent_spec(system, agent) for agent in agents),
        broker=usual[0],
        port=usual[1],
        skip_broker=True if _forgets_its_queue(configuration, usual[1]) else None,
        take=frozenset(str(agent.unit.path) for agent in agents),
    )
    amendment = Amendment(layout, tuple(agents), usual, found.claude, configuration, told)
    prepared = prepare(system, request, layout=layout, inspector=inspector, amend=amendment)
    if prepared.spec.scope != "user":
        raise UsageError(
            "the agents of this host are units of the system, and the existing tool's are the user's",
            hint="swarmbus init --scope user first, then adopt, then swarmbus init --scope system",
        )
    if prepared.spec.chosen.get("supervisor") != "systemd-user":
        raise UsageError(
            "systemd does not run on this host, so no unit of the existing tool does",
            hint="swarmbus init sets the agents up as background processes",
        )
    return Adoption(found, prepared, prepared.plan.notes)


def _refuse_unknown(
    found: OldInstallation, agents: Sequence[OldAgent], wanted: Collection[str], layout: Layout
) -> None:
    for agent_id in sorted(set(wanted) - {agent.id for agent in agents}):
        path = layout.units / agent_unit(agent_id)
        if path in found.problems:
            raise UsageError(f"{path} {found.problems[path]}", hint="mend it, then call this again")
        if agent_id not in {process.command.agent_id for process in found.by_hand}:
            known = ", ".join(agent.id for agent in found.agents) or "none"
            raise UsageError(f"no unit of the existing tool runs {agent_id!r}", hint=f"it runs here: {known}")


def _refuse_by_hand(found: OldInstallation, agents: Sequence[OldAgent], wanted: Collection[str]) -> None:
    """Two with one client id put each other off the broker, and each loses what the other acknowledges."""
    concerned = {agent.id for agent in agents} | set(wanted)
    for process in found.by_hand:
        agent_id = process.command.agent_id
        holds_session = process.what == "start" or process.command.options.get("persistent") == "1"
        if holds_session and agent_id in concerned:
            again = "swarmbus adopt" if agent_id in {a.id for a in agents} else _init_instead(process.command)
            raise ListenerRunning(
                f"the existing tool runs {agent_id!r} outside of its unit, pid {process.pid}",
                hint=f"end it, where it was started or with: kill {process.pid}; then: {again}",
                pid=process.pid,
            )


def _remarks(found: OldInstallation, agents: Sequence[OldAgent]) -> Iterator[str]:
    """What was found and is not taken over."""
    ids = {agent.id for agent in agents}
    for path, problem in found.problems.items():
        yield f"{path} is left as it is: {problem}"
    for process in found.by_hand:
        agent_id = process.command.agent_id
        if process.what == "start" and agent_id not in ids:
            yield (
                f"the existing tool runs {agent_id!r} by hand: end it (kill {process.pid}), "
                f"then: {_init_instead(process.command)}"
            )
        elif process.what == "mcp-server":
            yield f"an MCP server of the existing tool runs for {agent_id!r}, pid {process.pid}: it stays"
    if found.claude is not None and found.claude.problem is not None:
        yield f"{found.claude.path} is left as it is, for it cannot be parsed: {found.claude.problem}"


def _unread(system: System, layout: Layout, agents: Sequence[OldAgent]) -> Iterator[str]:
    """Messages that only the old MCP server can hand out; they are in no inbox file of ours."""
    for agent in agents:
        path = layout.state / f"{agent.id}.sqlite3"
        if count := unread_by_mcp(system, path):
            yield f"{agent.id} has not acknowledged {count} messages of its MCP server: they stay in {path}"


def _init_instead(command: OldCommand) -> str:
    """The call of init with the settings of a listener that was started by hand; passwords stay out of it."""
    words = ["swarmbus", "init"]
    for name in ("agent_id", "broker", "port", "inbox", "invoke"):
        if name in command.options:
            words += [f"--{name.replace('_', '-')}", command.options[name]]
    return shlex.join(words)


def _usual_broker(system: System, layout: Layout, agents: Sequence[OldAgent]) -> tuple[str, int]:
    """Broker and port for all agents of this host: as they are set already, or those of most units."""
    kept, config = load_kept(system, layout.provision), read_config(system, layout) or {}
    ((broker, port), _), *_ = Counter((one.command.broker, one.command.port) for one in agents).most_common(1)
    if isinstance(config.get("broker"), str):
        return config["broker"], int(config.get("port", DEFAULT_PORT))
    return (kept.broker, kept.port) if kept is not None else (broker, port)


def _agent_spec(system: System, agent: OldAgent) -> AgentSpec:
    inbox, invoke = agent.command.options.get("inbox"), agent.command.options.get("invoke")
    if inbox and not inbox.startswith(("/", "~")):
        inbox = str(system.user.home / inbox)  # where systemd starts a user's services
    if invoke:
        words = shlex.split(invoke)
        program = words[0].replace("~", str(system.user.home), 1) if words[0][:2] == "~/" else words[0]
        found = system.which(program, agent.search_path) or system.which(program)
        if found is None:
            raise UsageError(
                f"{agent.unit.path}: its --invoke names {words[0]!r}, and there is no such program",
                hint="mend the unit, or take --invoke out of it, then call this again",
            )
        invoke = invoke if words[0] == str(found) else shlex.join([str(found), *words[1:]])
    return AgentSpec(agent.id, inbox, agent.outbox, invoke)


def _forgets_its_queue(configuration: mosquitto.Configuration, port: int) -> bool:
    """Whether a restart of this host's mosquitto would cost what it has queued, and is not needed."""
    kept = configuration.value("persistence") in ("true", "1")
    reached = not configuration.listeners or configuration.serves_loopback(port)
    return bool(configuration.lines) and not kept and reached
