"""Spec: what the operator asked for, now and before."""

from __future__ import annotations

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
from swarmbus.provision.request import AgentSpec, Request
from swarmbus.provision.system import System

SCHEMA = "swarmbus.spec/1"
DEFAULT_BROKER = "localhost"
DEFAULT_PORT = 1883
_RESERVED_ON_HOSTS = "broker"  # its unit would be that of the private broker


@dataclass(frozen=True)
class InstallSpec:
    """The whole of it.

    Attributes:
        broker: Host name or address; ``localhost`` means a broker on this machine.
        scope: ``user``: units of the user's own systemd; ``system``: of the system's, run as the user.
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
        names = [item.name for item in fields(cls)]
        values = {name: document[name] for name in names if name in document}
        values["agents"] = tuple(AgentSpec(**agent) for agent in document["agents"])
        values["host_types"] = tuple(document.get("host_types", ()))
        return cls(**values)


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
    asked_broker = DEFAULT_BROKER if request.broker == "local" else request.broker
    broker = asked_broker or _text(top.get("broker")) or _kept(kept, config, "broker") or DEFAULT_BROKER
    port = request.port or _number(top.get("port")) or _kept(kept, config, "port") or DEFAULT_PORT
    if not 0 < port < 65536:
        raise UsageError(f"{port} is no TCP port", hint="1 to 65535; mosquitto's own is 1883")
    scope = request.scope or (kept.scope if kept else "user")
    if scope not in ("user", "system"):
        raise UsageError(f"scope {scope!r} is not known", hint="use --scope user or --scope system")
    if scope == "system" and system.user.uid == 0 and system.root_access() == "root":
        raise UsageError(
            "agents of the system do not run as root",
            hint="give them an account of their own: swarmbus --user swarmbus init --scope system",
        )
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
    named = {agent.id for agent in request.agents}
    known = (
        {agent.id: agent for agent in kept.agents if agent.id in named or not request.whole} if kept else {}
    )
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
