"""Spec: what the operator asked for, now and before."""

from __future__ import annotations

import difflib
import json
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from swarmbus.agent_id import agent_id_from_host_name, check_agent_id
from swarmbus.errors import UsageError
from swarmbus.provision.layout import Layout
from swarmbus.provision.system import System

SCHEMA = "swarmbus.spec/1"
DEFAULT_BROKER = "localhost"
DEFAULT_PORT = 1883
_RESERVED_ON_HOSTS = "broker"  # its unit would be that of the private broker


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
        take: Paths or ids of which ours is to win in a conflict.
    """

    agents: tuple[AgentSpec, ...] = ()
    broker: str | None = None
    port: int | None = None
    scope: str | None = None
    host_types: tuple[str, ...] | None = None
    skip_broker: bool | None = None
    take: frozenset[str] = frozenset()


@dataclass(frozen=True)
class InstallSpec:
    """The whole of it.

    Attributes:
        broker: Host name or address; ``localhost`` means a broker on this machine.
        scope: ``user``: units of the user's own systemd.
        host_types: Agent hosts to set up; ``none`` for none.
        chosen: What was decided once and is kept to: ``broker`` and ``program`` (see `broker_choice`),
            ``supervisor``.
    """

    agents: tuple[AgentSpec, ...]
    broker: str = DEFAULT_BROKER
    port: int = DEFAULT_PORT
    scope: str = "user"
    host_types: tuple[str, ...] = ()
    skip_broker: bool = False
    chosen: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As it is kept."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> InstallSpec:
        """As it was kept.

        Raises:
            UsageError: If it is of another schema.
        """
        if document.get("schema") != SCHEMA:
            raise UsageError(f"not a kept spec of this version: {document.get('schema')!r}")
        values = {name: document[name] for name in _names(cls) if name in document}
        values["agents"] = tuple(AgentSpec(**agent) for agent in document["agents"])
        values["host_types"] = tuple(document.get("host_types", ()))
        return cls(**values)


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

    Raises:
        UsageError: If a key is unknown or a value is of the wrong type.
    """
    known = {"agents", "broker", "port", "scope", "host_types", "skip_broker"}
    _refuse_unknown(document, known, "the spec")
    agents = document.get("agents", [])
    if not isinstance(agents, list) or not all(isinstance(agent, Mapping) for agent in agents):
        raise UsageError("agents in the spec is not a list of tables", hint="write [[agents]]")
    for agent in agents:
        _refuse_unknown(agent, set(_names(AgentSpec)), "an agent of the spec")
        if not all(isinstance(value, str) for value in agent.values()) or "id" not in agent:
            raise UsageError("an agent of the spec needs an id, and its values are texts")
        check_agent_id(agent["id"])
    kinds: dict[str, type] = {
        "broker": str,
        "port": int,
        "scope": str,
        "host_types": list,
        "skip_broker": bool,
    }
    for name, kind in kinds.items():
        if name in document and not isinstance(document[name], kind):
            raise UsageError(f"{name} in the spec is {document[name]!r}, which is no {kind.__name__}")
    host_types = document.get("host_types")
    return Request(
        agents=tuple(AgentSpec(**agent) for agent in agents),
        broker=document.get("broker"),
        port=document.get("port"),
        scope=document.get("scope"),
        host_types=None if host_types is None else tuple(host_types),
        skip_broker=document.get("skip_broker"),
    )


def merge(
    request: Request, kept: InstallSpec | None, config: Mapping[str, Any] | None, system: System
) -> InstallSpec:
    """The spec in force.

    What config.toml can say is taken from it, for it is the user's to edit; a kept spec's word counts
    where there is no such file. What is asked for now wins over both.

    Args:
        config: Content of config.toml; None where there is none that can be read.

    Raises:
        UsageError: If a wake command does not exist, or what is asked for does not fit together.
        InvalidAgentId: If an id is none.
    """
    top: Mapping[str, Any] = config if config is not None else {}
    broker = request.broker or _text(top.get("broker")) or _kept(kept, config, "broker") or DEFAULT_BROKER
    port = request.port or _number(top.get("port")) or _kept(kept, config, "port") or DEFAULT_PORT
    if not 0 < port < 65536:
        raise UsageError(f"{port} is no TCP port", hint="1 to 65535; mosquitto's own is 1883")
    scope = request.scope or (kept.scope if kept else "user")
    if scope != "user":
        raise UsageError(f"scope {scope!r} is not known", hint="use --scope user")
    host_types = request.host_types if request.host_types is not None else (kept.host_types if kept else ())
    if unknown := [name for name in host_types if name != "none"]:
        raise UsageError(f"agent host {unknown[0]!r} is not known", hint="use --host-type none")
    skip = request.skip_broker if request.skip_broker is not None else bool(kept and kept.skip_broker)
    return InstallSpec(
        agents=_agents(request, kept, config, system),
        broker=broker,
        port=port,
        scope=scope,
        host_types=tuple(name for name in host_types if name != "none"),
        skip_broker=skip,
        chosen=dict(kept.chosen) if kept else {},
    )


def _agents(
    request: Request, kept: InstallSpec | None, config: Mapping[str, Any] | None, system: System
) -> tuple[AgentSpec, ...]:
    known = {agent.id: agent for agent in kept.agents} if kept else {}
    asked = {agent.id: agent for agent in request.agents}
    if nameless := asked.pop("", None):
        if len(known) > 1:
            raise UsageError(
                "there are several agents on this host", hint=f"say which: --agent-id {next(iter(known))}"
            )
        name = next(iter(known), None) or _text((config or {}).get("agent_id"))
        name = name or agent_id_from_host_name(system.hostname)
        asked[name] = AgentSpec(name, nameless.inbox, nameless.outbox, nameless.invoke)
    if not known and not asked:
        name = _text((config or {}).get("agent_id")) or agent_id_from_host_name(system.hostname)
        asked[name] = AgentSpec(name)
    tables = (config or {}).get("agents", {})
    merged = []
    for name in dict.fromkeys([*known, *asked]):
        if check_agent_id(name) == _RESERVED_ON_HOSTS:
            raise UsageError(
                f"agent id {name!r} cannot be set up: its unit would be the broker's",
                hint="choose another id",
            )
        said = asked.get(name, AgentSpec(name))
        table = tables.get(name, {}) if isinstance(tables, Mapping) else {}
        before = known.get(name, AgentSpec(name)) if config is None else AgentSpec(name)
        values = {
            key: getattr(said, key) or _text(table.get(key)) or getattr(before, key)
            for key in ("inbox", "outbox", "invoke")
        }
        values["inbox"] = values["inbox"] or f"~/sync/{name}-inbox.md"
        if said.invoke:
            values["invoke"] = absolute_command(said.invoke, system)
        merged.append(AgentSpec(name, **values))
    return tuple(merged)


def absolute_command(command: str, system: System) -> str:
    """The command line with its first word as an absolute path: the unit's PATH is not the caller's.

    Raises:
        UsageError: If it cannot be parsed, or there is no such program.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--invoke {command!r}: {error}", hint="check the quotes") from error
    if not words:
        raise UsageError("--invoke is empty", hint="leave it out, or name a program")
    program = words[0]
    if program.startswith("~/"):
        program = str(system.user.home / program[2:])
    found = system.which(program)
    if found is None:
        raise UsageError(
            f"--invoke {command!r}: there is no program {words[0]!r}", hint="give its absolute path"
        )
    return command if words[0] == str(found) else shlex.join([str(found), *words[1:]])


def load_kept(system: System, folder: Path) -> InstallSpec | None:
    """The spec of earlier runs; None before the first, or when it cannot be read."""
    data = system.read(folder / "spec.json")
    if data is None:
        return None
    try:
        return InstallSpec.from_json(json.loads(data))
    except (ValueError, KeyError, TypeError, UsageError):
        return None  # of another release, or damaged: config.toml and the flags have nearly all of it


def keep(spec: InstallSpec, system: System, folder: Path) -> None:
    """Keep it for the next run, if it is another one."""
    text = json.dumps(spec.as_json(), indent=1, ensure_ascii=False) + "\n"
    path = folder / "spec.json"
    if system.read(path) != text.encode():
        system.write_file(path, text.encode(), mode=0o600)


def forget(system: System, folder: Path) -> None:
    """Keep none."""
    system.remove(folder / "spec.json")


def read_config(system: System, layout: Layout) -> Mapping[str, Any] | None:
    """config.toml; None if there is none, or it cannot be parsed (which the plan then says)."""
    data = system.read(layout.config)
    if data is None:
        return None
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return None


def _kept(kept: InstallSpec | None, config: Mapping[str, Any] | None, name: str) -> Any:
    return getattr(kept, name) if kept is not None and config is None else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _several(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _names(kind: type) -> list[str]:
    return [item.name for item in fields(kind)]


def _refuse_unknown(document: Mapping[str, Any], known: set[str], where: str) -> None:
    for name in document:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"
            raise UsageError(f"{where} has an unknown key {name!r}", hint=hint)
