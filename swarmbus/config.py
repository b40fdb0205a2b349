"""Settings: flag > environment > ``[agents.<id>]`` in config.toml > its top level > default.

The file, in ``~/.config/swarmbus/config.toml``::

    broker = "localhost"
    port = 1883
    agent_id = "planner"          # used where no --agent-id is given

    [agents.planner]
    inbox = "~/sync/planner-inbox.md"
    invoke = "/home/pi/bin/wake planner"
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from swarmbus import paths
from swarmbus.agent_id import check_agent_id
from swarmbus.errors import ConfigError, InvalidAgentId, UsageError


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting with its value in force; the defaults are written here and nowhere else.

    Attributes:
        agent_id: Whose commands these are; None until one is named.
        broker: Host name or address of the broker.
        tls: None means TLS exactly when a certificate setting is there.
        password_file: File (0600) that holds the password as its first line.
        inbox: Inbox file; None means ``~/sync/<id>-inbox.md``.
        outbox: File that sent messages are appended to; ``{agent_id}`` is filled in; None means no file.
        invoke: Command run for each message; None means none.
        inbox_max_bytes: Size at which inbox and outbox files rotate; 0 means never.
        inbox_keep: How many rotated files stay.
        invoke_timeout: Seconds a command may take.
        invoke_memory: MiB of memory that a command may use with all it starts; 0 means no limit.
        invoke_tasks: How many processes and threads these may be; 0 means no limit.
        invoke_attempts: How often a failing command is tried before the message is a dead letter.
        wake: What may have the command run: ``high``, ``all`` or ``none``; ``each`` has it run for every
            message, governed by nothing.
        wake_from: Agents whose messages may, separated by commas; None means everybody's.
        wake_quiet: Part of the day in which nothing may, such as ``22:00-07:00``.
        wake_cooldown: Seconds between two runs.
        wake_daily: Runs in a day; 0 means no limit.
        wake_hops: The last hop of a conversation of agents that may.
        wake_pair_hourly: Runs in an hour for messages of one sender; 0 means no limit.
        presence_interval: Seconds between renewals of presence.
        spool_days: Days after which an undelivered message is given up as expired.
        sources: For each setting that is not the default: ``flag``, ``environment`` or ``config.toml``.
    """

    agent_id: str | None = None
    broker: str = "localhost"
    port: int = 1883
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: str | None = None
    ca_cert: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    tls: bool | None = None
    inbox: str | None = None
    outbox: str | None = None
    invoke: str | None = None
    persistent: bool = True
    inbox_max_bytes: int = 50 * 1024 * 1024
    inbox_keep: int = 5
    invoke_timeout: float = 600.0
    invoke_memory: int = 2048
    invoke_tasks: int = 512
    invoke_attempts: int = 5
    wake: str = "high"
    wake_from: str | None = None
    wake_quiet: str | None = None
    wake_cooldown: int = 5
    wake_daily: int = 100
    wake_hops: int = 8
    wake_pair_hourly: int = 20
    presence_interval: float = 60.0
    spool_days: float = 7.0
    sources: Mapping[str, str] = field(default_factory=dict)

    def require_agent_id(self) -> str:
        """The agent id.

        Raises:
            UsageError: If none was named anywhere.
        """
        if self.agent_id is None:
            raise UsageError(
                "no agent id was given",
                hint="use --agent-id, or SWARMBUS_AGENT_ID, or agent_id in config.toml",
            )
        return self.agent_id

    @property
    def inbox_path(self) -> Path:
        """The inbox file, with ``~`` and the default filled in."""
        agent_id = self.require_agent_id()
        return paths.default_inbox(agent_id) if self.inbox is None else _expand(self.inbox, agent_id)

    @property
    def outbox_path(self) -> Path | None:
        """The outbox file with ``~`` and ``{agent_id}`` filled in; None where nothing is kept."""
        return _expand(self.outbox, self.require_agent_id()) if self.outbox else None


_NAMES = {spec.name: spec for spec in fields(Settings) if spec.name != "sources"}

# Prefix `SWARMBUS_BROKER_` for what belongs to the connection, as the existing tool has it.
_CONNECTION = ("username", "password", "password_file", "ca_cert", "client_cert", "client_key", "tls")
_ENVIRONMENT = {
    name: f"SWARMBUS_BROKER_{name.upper()}" if name in _CONNECTION else f"SWARMBUS_{name.upper()}"
    for name in _NAMES
} | {"wake": "SWARMBUS_WAKE_POLICY"}  # the existing tool's wake scripts have it


def load_settings(flags: Mapping[str, object] | None = None) -> Settings:
    """Gather the settings in force.

    Args:
        flags: Settings given on the command line; a value of None means not given.

    Raises:
        ConfigError: If a value is of the wrong type, config.toml cannot be read, or it has an unknown key.
        InvalidAgentId: If the agent id is none.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    if unknown := given.keys() - _NAMES.keys():
        raise TypeError(f"not settings: {sorted(unknown)}")
    path = paths.config_path()
    top, agents, text = _read_config(path)
    agent_id = _first(given.get("agent_id"), os.environ.get("SWARMBUS_AGENT_ID"), top.get("agent_id"))
    if agent_id is not None:
        agent_id = check_agent_id(str(agent_id))
    own = agents.get(agent_id, {}) if agent_id is not None else {}
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name in _NAMES:
        if name in given:
            values[name], sources[name] = _typed(name, given[name], f"--{name.replace('_', '-')}"), "flag"
        elif (found := _from_environment(name, agent_id)) is not None:
            variable, said = found
            values[name], sources[name] = _typed(name, said, variable), "environment"
        elif name in own or name in top:
            table, key = (own, ("agents", str(agent_id), name)) if name in own else (top, (name,))
            values[name], sources[name] = _typed(name, table[name], path, text, key), "config.toml"
    if agent_id is not None:
        values["agent_id"] = agent_id
    return Settings(**values, sources=sources)


def _from_environment(name: str, agent_id: str | None) -> tuple[str, str] | None:
    variables = [_ENVIRONMENT[name]]
    if name == "outbox" and agent_id is not None:
        variables.insert(0, f"SWARMBUS_OUTBOX_{agent_id.upper().replace('-', '_')}")
    for variable in variables:
        if text := os.environ.get(variable):
            return variable, text
    return None


def _read_config(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]], str]:
    """The top level, the ``[agents.<id>]`` tables, and the text; all empty where there is no file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}, {}, ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"cannot read {path}: {reason}") from error
    import tomllib  # noqa: PLC0415  # a host without a config.toml does not pay for the parser

    try:
        top = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}", hint="mend that line, or move the file away") from error
    agents = top.pop("agents", {})
    if not isinstance(agents, dict) or not all(isinstance(table, dict) for table in agents.values()):
        raise ConfigError(
            f"{path}: 'agents' holds something other than tables", hint="write [agents.planner]"
        )
    _refuse_unknown(path, text, top, _NAMES, ())
    for agent_id, table in agents.items():
        try:
            check_agent_id(agent_id)
        except InvalidAgentId as error:
            raise ConfigError(f"{path}: [agents.{agent_id}]: {error.message}", hint=error.hint) from error
        _refuse_unknown(path, text, table, _NAMES.keys() - {"agent_id"}, ("agents", agent_id))
    return top, agents, text


def _refuse_unknown(
    path: Path, text: str, table: Mapping[str, object], known: Iterable[str], name: tuple[str, ...]
) -> None:
    for key in table:
        if key in known:
            continue
        from difflib import get_close_matches  # noqa: PLC0415  # only on the way to an error

        close = get_close_matches(key, known, n=1)
        line = _line_of(text, (*name, key))
        where = f"[{'.'.join(name)}] " if name else ""
        raise ConfigError(
            f"{path}{f':{line}' if line else ''}: {where}unknown setting {key!r}",
            hint=f"did you mean {close[0]!r}?" if close else "docs/configuration.md lists the settings",
        )


def _line_of(text: str, key: tuple[str, ...]) -> int | None:
    """The line of a key of a TOML file, which tomllib does not tell; None inside an inline table."""
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip()
        if words.startswith("["):
            there = table = _parts(words.strip("[ ").partition("]")[0])
        else:
            there = (*table, *_parts(words.partition("=")[0]))
        if there[: len(key)] == key:
            return number
    return None


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip(" \t\"'") for part in dotted.split("."))


def _typed(name: str, value: object, where: str | Path, text: str = "", key: tuple[str, ...] = ()) -> object:
    """The value as what it has to be.

    Args:
        where: What it was given by: a flag, a variable, or the file with this ``text`` and ``key`` in it.
    """
    kind = name if name in ("port", "wake") else str(_NAMES[name].type).removesuffix(" | None")
    parse = _PARSERS[kind]
    try:
        return parse(value)
    except (ValueError, TypeError) as error:
        shown = "the value" if name == "password" else repr(value)
        hint = "mend it, or leave it out for the default"
        if isinstance(where, Path):
            line = _line_of(text, key)
            where = f"{where}{f':{line}' if line else ''}: {name}"
            hint = "mend that line, or remove it for the default"
        raise ConfigError(f"{where}: {shown} is not {_KINDS[kind]}", hint=hint) from error


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError
    return value


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str) or (number := int(value)) < 0:
        raise ValueError
    return number


def _port(value: object) -> int:
    if not 0 < (number := _integer(value)) < 65_536:
        raise ValueError
    return number


def _wake(value: object) -> str:
    word = "high" if value == "priority-high" else value  # so the existing tool has it
    if word not in ("high", "all", "each", "none"):
        raise ValueError
    return str(word)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    match str(value).lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off":
            return False
        case _:
            raise ValueError


_PARSERS: dict[str, Callable[[object], object]] = {
    "str": _text,
    "int": _integer,
    "port": _port,
    "wake": _wake,
    "float": _number,
    "bool": _boolean,
}
_KINDS = {
    "str": "text",
    "int": "a whole number of 0 or more",
    "port": "a TCP port (1 to 65535)",
    "wake": "one of high, all, each, none",
    "float": "a number above 0",
    "bool": "yes or no (true, false)",
}


def _first(*values: object) -> object:
    return next((value for value in values if value), None)


def _expand(text: str, agent_id: str) -> Path:
    return Path(text.replace("{agent_id}", agent_id)).expanduser()
