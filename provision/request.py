"""Request: what the operator said this time, by flags or in a document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from swarmbus.agent_id import check_agent_id
from swarmbus.errors import UsageError


@dataclass(frozen=True)
class AgentSpec:
    """One agent of this host; None means that nothing was said.

    Attributes:
        inbox: Inbox file; after merging never None.
        invoke: Command line of the wake command, its first word an absolute path once it is merged.
    """

    id: str
    inbox: str | None = None
    outbox: str | None = None
    invoke: str | None = None


@dataclass(frozen=True)
class Request:
    """What was said this time, by flags or in a document; None means that nothing was.

    Attributes:
        whole: Whether ``agents`` are all that there are to be: those that are not among them go.
        take: Paths or ids of which ours is to win in a conflict.
    """

    agents: tuple[AgentSpec, ...] = ()
    broker: str | None = None
    port: int | None = None
    scope: str | None = None
    host_types: tuple[str, ...] | None = None
    skip_broker: bool | None = None
    whole: bool = False
    take: frozenset[str] = frozenset()


def request_from_flags(flags: Mapping[str, Any]) -> Request:
    """A request out of command line options; None and absent mean not given.

    Args:
        flags: ``agent_id`` (one or several), ``inbox``, ``outbox``, ``invoke``, ``broker``, ``port``,
            ``scope``, ``host_type`` (several), ``skip_broker``, ``take`` (several).

    Raises:
        UsageError: If one file or command is given for several agents.
    """
    ids = _several(flags.get("agent_id"))
    given = {name: flags.get(name) for name in ("inbox", "outbox", "invoke")}
    own = {name: str(value) for name, value in given.items() if value is not None}
    for name, value in own.items():
        if len(ids) > 1 and "{agent_id}" not in value:
            raise UsageError(
                f"--{name} {value!r} is one, and there are {len(ids)} agents",
                hint="write {agent_id} in it, or call init once for each agent",
            )
    agents = [
        AgentSpec(
            check_agent_id(agent), **{key: text.replace("{agent_id}", agent) for key, text in own.items()}
        )
        for agent in ids
    ]
    if own and not agents:
        agents = [AgentSpec("", **own)]  # of the one agent that there is, or is going to be
    return Request(
        agents=tuple(agents),
        broker=flags.get("broker"),
        port=flags.get("port"),
        scope=flags.get("scope"),
        host_types=tuple(_several(flags.get("host_type"))) or None,
        skip_broker=flags.get("skip_broker"),
        take=frozenset(_several(flags.get("take"))),
    )


def request_from_document(document: Mapping[str, Any]) -> Request:
    """A request out of a TOML or JSON document::

        broker = "localhost"
        [[agents]]
        id = "planner"
        invoke = "/home/pi/bin/wake"

    Agents that it does not name go, if it names any.

    Raises:
        UsageError: If a key is unknown or a value is of the wrong type.
    """
    known = {"agents", "broker", "port", "scope", "host_types", "skip_broker"}
    _refuse_unknown(document, known, "the spec")
    agents = document.get("agents", [])
    if not isinstance(agents, list) or not all(isinstance(agent, Mapping) for agent in agents):
        raise UsageError("agents in the spec is not a list of tables", hint="write [[agents]]")
    for agent in agents:
        _refuse_unknown(agent, {item.name for item in fields(AgentSpec)}, "an agent of the spec")
        if not all(isinstance(value, str) for value in agent.values()) or "id" not in agent:
            raise UsageError("an agent of the spec needs an id, and its values are texts")
        check_agent_id(agent["id"])
    ids = [agent["id"] for agent in agents]
    if twice := next((one for one in ids if ids.count(one) > 1), None):
        raise UsageError(f"agent {twice!r} is in the spec twice", hint="write one table for each agent")
    if not agents and "agents" in document:
        raise UsageError(
            "the spec has a list of agents, and none in it",
            hint="leave agents out to keep those that there are; swarmbus uninstall --all takes them away",
        )
    kinds: dict[str, type] = {
        "broker": str,
        "port": int,
        "scope": str,
        "host_types": list,
        "skip_broker": bool,
    }
    for name, kind in kinds.items():
        if name in document and type(document[name]) is not kind:  # a bool is an int, and no port
            raise UsageError(f"{name} in the spec is {document[name]!r}, which is no {kind.__name__}")
    host_types = document.get("host_types")
    return Request(
        agents=tuple(AgentSpec(**agent) for agent in agents),
        broker=document.get("broker"),
        port=document.get("port"),
        scope=document.get("scope"),
        host_types=None if host_types is None else tuple(host_types),
        skip_broker=document.get("skip_broker"),
        whole="agents" in document,
    )


def _several(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _names(kind: type) -> list[str]:
    return [item.name for item in fields(kind)]


def _refuse_unknown(document: Mapping[str, Any], known: set[str], where: str) -> None:
    for name in document:
        if name not in known:
            import difflib  # noqa: PLC0415  # only on the way to an error

            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"
            raise UsageError(f"{where} has an unknown key {name!r}", hint=hint)
