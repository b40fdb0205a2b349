"""The existing tool, swarmbus-py 0.1.x and 0.2.0: what it has set up for this user. Reads only.

::

    found = recognise(system, layout)
    found.agents      # one for each unit that runs `swarmbus start`
    found.by_hand     # listeners that no unit runs
    found.problems    # what looks like one and was not understood
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from swarmbus.agent_id import check_agent_id
from swarmbus.errors import InvalidAgentId, StorageError
from swarmbus.provision.layout import Layout
from swarmbus.provision.listener_lock import lock_word
from swarmbus.provision.old_command import OldCommand, old_command
from swarmbus.provision.resources.json_text import NotEditableError, value_at
from swarmbus.provision.system import System
from swarmbus.provision.unit_file import (
    NotUnderstoodError,
    Setting,
    effective,
    fill_in_specifiers,
    fill_in_variables,
    parse,
    parse_environment_file,
    split_words,
)

CLAUDE_KEY: Final = ("mcpServers", "swarmbus")
_UNIT: Final = re.compile(r"swarmbus-(.+)\.service")
_OURS: Final = b"# written by swarmbus "
_PREFIX: Final = "SWARMBUS_BROKER_"
_CREDENTIALS: Final = ("username", "password", "ca_cert", "client_cert", "client_key", "tls")
_SECRET: Final = re.compile(r"password", re.IGNORECASE)
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"

# Of the unit as the existing tool writes it: ours says each of them itself, or has no use for it.
_REPLACED: Final = frozenset(
    {"Type", "ExecStart", "Restart", "RestartSec", "StandardOutput", "StandardError", "NotifyAccess"}
)
_EMPTY_ORDER: Final = frozenset({"network.target", "network-online.target"})


@dataclass(frozen=True)
class OldUnitFile:
    """The unit itself, or a drop-in."""

    path: Path
    text: str = field(repr=False)

    @property
    def secret(self) -> bool:
        """Whether a password stands in it."""
        return _SECRET.search(self.text) is not None


@dataclass(frozen=True)
class OldAgent:
    """One agent that a unit of the existing tool runs.

    Attributes:
        credentials: ``username``, ``ca_cert``, ``client_cert``, ``client_key``, and ``tls`` as a boolean.
        drop_ins: Those whose content is taken over, and that must go.
        kept: Settings of unit and drop-ins that ours does not say, a pair of section and line each.
        torn: Whether its ExecStart= has lost its arguments, so that it never ran (see `unit_file.parse`).
        log: Where its output went; None if to the journal.
        search_path: Where it looks for the program of ``--invoke``; None if the unit does not say.
    """

    id: str
    unit: OldUnitFile
    command: OldCommand
    credentials: Mapping[str, str | bool]
    password: str | None = field(default=None, repr=False)
    outbox: str | None = None
    drop_ins: tuple[OldUnitFile, ...] = ()
    kept: tuple[tuple[str, str], ...] = ()
    torn: bool = False
    log: str | None = None
    search_path: str | None = None


@dataclass(frozen=True)
class ByHand:
    """A process of the existing tool that no unit runs.

    Attributes:
        what: ``start`` or ``mcp-server``.
    """

    pid: int
    what: str
    command: OldCommand


@dataclass(frozen=True)
class ClaudeEntry:
    """The member ``mcpServers.swarmbus`` of Claude Code's settings.json, which Claude Code does not read.

    Attributes:
        agent_id: Whose it is; None if it does not say.
        problem: Why the file cannot be edited; None if it can.
    """

    path: Path
    agent_id: str | None = None
    secret: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class OldInstallation:
    """What was found.

    Attributes:
        problems: By the path of a unit that could not be understood: why not.
    """

    agents: tuple[OldAgent, ...] = ()
    by_hand: tuple[ByHand, ...] = ()
    claude: ClaudeEntry | None = None
    problems: Mapping[Path, str] = field(default_factory=dict)


def recognise(system: System, layout: Layout) -> OldInstallation:
    """Look for it in the user's units, in Claude Code's settings, and among the processes."""
    agents: list[OldAgent] = []
    problems: dict[Path, str] = {}
    for name in system.list(layout.units):
        if (match := _UNIT.fullmatch(name)) is None:
            continue
        path = layout.units / name
        try:
            agent = _agent(system, layout, path, match[1])
        except (NotUnderstoodError, InvalidAgentId, StorageError) as error:
            problems[path] = str(error)
            continue
        agents += [agent] if agent else []
    return OldInstallation(tuple(agents), _by_hand(system, layout), _claude(system, layout), problems)


def _agent(system: System, layout: Layout, path: Path, named: str) -> OldAgent | None:
    """The agent of one unit; None if the unit is ours, or nothing that runs a listener."""
    data = system.read(path)
    if data is None or data.startswith(_OURS):
        return None
    unit = OldUnitFile(path, data.decode(errors="replace"))
    drop_ins = _drop_ins(system, path)
    settings = [setting for file in (unit, *drop_ins) for setting in parse(file.text)]
    started = effective(settings, "Service", "ExecStart")
    if not any("swarmbus" in setting.value for setting in started):
        return None
    seen = system.stat(path)
    if seen is not None and seen.kind != "file":
        raise NotUnderstoodError("is a symbolic link: put the file itself in its place first")
    if len(started) != 1:
        raise NotUnderstoodError(f"has {len(started)} times ExecStart=")
    specifiers = _specifiers(system, path.name)
    environment = _environment(system, settings, specifiers)
    command = _command(started[0], specifiers, environment)
    if command is None or command.what != "start":
        return None
    agent_id = check_agent_id(command.agent_id or environment.get("SWARMBUS_AGENT_ID") or named)
    if agent_id != named:
        raise NotUnderstoodError(
            f"runs the agent {agent_id!r}: give the unit that name first, swarmbus-{agent_id}.service"
        )
    values: dict[str, str | bool] = {}
    for key in _CREDENTIALS:
        value = command.options.get(key) or environment.get(f"{_PREFIX}{key.upper()}")
        if value:
            values[key] = _boolean(value) if key == "tls" else value
    password = values.pop("password", None)
    variable = f"SWARMBUS_OUTBOX_{agent_id.upper().replace('-', '_')}"
    outbox = environment.get(variable) or environment.get("SWARMBUS_OUTBOX")
    taken = tuple(file for file in drop_ins if _has_what_is_replaced(file))
    understood = {*_variables(agent_id), variable, "SWARMBUS_OUTBOX"}
    kept = [pair for file in (unit, *taken) for pair in _rest(file, understood, layout.home)]
    log = next((s.value for s in settings if s.name == "StandardOutput" and ":" in s.value), None)
    return OldAgent(
        id=agent_id,
        unit=unit,
        command=command,
        credentials=values,
        password=str(password) if password else None,
        outbox=outbox,
        drop_ins=taken,
        kept=tuple(kept),
        torn=started[0].torn,
        log=fill_in_specifiers(log, specifiers).partition(":")[2] if log else None,
        search_path=environment.get("PATH"),
    )


def _drop_ins(system: System, unit: Path) -> list[OldUnitFile]:
    folder = unit.with_name(f"{unit.name}.d")
    found = []
    for name in system.list(folder):
        data = system.read(folder / name) if name.endswith(".conf") else None
        if data is not None:
            found.append(OldUnitFile(folder / name, data.decode(errors="replace")))
    return found


def _specifiers(system: System, unit: str) -> dict[str, str]:
    """The ones of systemd.unit(5) that say something about user and unit."""
    user, stem = system.user, unit.removesuffix(".service")
    return {
        "%": "%",
        "h": str(user.home),
        "u": user.name,
        "U": str(user.uid),
        "H": system.hostname,
        "n": unit,
        "N": stem,
        "p": stem,
        "t": f"/run/user/{user.uid}",
    }


def _environment(system: System, settings: list[Setting], specifiers: Mapping[str, str]) -> dict[str, str]:
    """What the daemon has got in its environment; files win, as in systemd.exec(5)."""
    environment: dict[str, str] = {"HOME": specifiers["h"], "USER": specifiers["u"]}
    for setting in effective(settings, "Service", "Environment"):
        for word in split_words(setting.value):
            name, _, value = fill_in_specifiers(word, specifiers).partition("=")
            environment[name] = value
    for setting in effective(settings, "Service", "EnvironmentFile"):
        path = Path(fill_in_specifiers(setting.value.lstrip("-"), specifiers))
        data = system.read(path)
        environment |= dict(parse_environment_file((data or b"").decode(errors="replace")))
    return environment


def _command(
    started: Setting, specifiers: Mapping[str, str], environment: Mapping[str, str]
) -> OldCommand | None:
    prefix = re.match(r"[@:+!|-]*", started.value)
    signs = prefix[0] if prefix else ""
    words = [fill_in_specifiers(word, specifiers) for word in split_words(started.value[len(signs) :])]
    if "@" in signs:
        del words[1:2]
    if ":" not in signs:
        words = fill_in_variables(words, environment)
    return old_command(words)


def _variables(agent_id: str) -> set[str]:
    return {"SWARMBUS_AGENT_ID", *(f"{_PREFIX}{name.upper()}" for name in _CREDENTIALS)}


def _has_what_is_replaced(file: OldUnitFile) -> bool:
    return file.secret or any(
        setting.section == "Service"
        and (setting.name in _REPLACED or (setting.name == "Environment" and "SWARMBUS_" in setting.value))
        for setting in parse(file.text)
    )


def _rest(file: OldUnitFile, understood: set[str], home: Path) -> list[tuple[str, str]]:
    """The lines that say something which ours does not."""
    kept: list[tuple[str, str]] = []
    for setting in parse(file.text):
        value = setting.value
        match setting.section, setting.name:
            case ("Unit", "Description" | "Documentation") | ("Install", _):
                continue
            case ("Unit", "After" | "Wants" | "Requires"):
                value = " ".join(word for word in value.split() if word not in _EMPTY_ORDER)
            case ("Service", "Environment"):
                value = " ".join(_environment_words(value, understood, home))
            case ("Service", name) if name in _REPLACED:
                continue
        if value:
            kept.append((setting.section, f"{setting.name}={value}"))
    return kept


def _environment_words(value: str, understood: set[str], home: Path) -> list[str]:
    words = []
    for word in split_words(value):
        name, _, text = word.partition("=")
        usual = name == "PATH" and text.replace("%h", str(home)) == f"{home}/.local/bin:{_PATH}"
        if name not in understood and not usual:
            words.append('"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"')
    return words


def _by_hand(system: System, layout: Layout) -> tuple[ByHand, ...]:
    """Processes of this user that run the existing tool and belong to no unit of its."""
    found = []
    for name in system.list(Path("/proc")):
        process = system.process(int(name)) if name.isdigit() else None
        if process is None or process.uid != system.user.uid:
            continue
        try:
            command = old_command(process.argv)
        except NotUnderstoodError:
            continue
        if command is None or (command.what != "mcp-server" and _in_unit(system, process.pid)):
            continue
        if command.agent_id is not None and _is_ours(system, layout, command.agent_id, process.pid):
            continue
        found.append(ByHand(process.pid, command.what, command))
    return tuple(found)


def _is_ours(system: System, layout: Layout, agent_id: str, pid: int) -> bool:
    """The old one knows no lock."""
    word = lock_word(system, layout, agent_id)
    return word is not None and word[0] == pid


def _in_unit(system: System, pid: int) -> bool:
    try:
        groups = system.read(Path(f"/proc/{pid}/cgroup")) or b""
    except StorageError:
        return False
    return re.search(rb"/swarmbus-[^/]+\.service", groups) is not None


def unread_by_mcp(system: System, path: Path) -> int:
    """How many messages in the file of the MCP server of 0.2.0 its agent has not acknowledged.

    0 also where the file is none that can be read without opening it as a database.
    """
    try:
        data = system.read(path)
        if not data:
            return 0
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(data)
            count = "SELECT count(*) FROM inbox_messages WHERE acknowledged_at IS NULL"
            return int(database.execute(count).fetchone()[0])
    except (sqlite3.Error, StorageError):
        return 0


def _claude(system: System, layout: Layout) -> ClaudeEntry | None:
    path = layout.home / ".claude/settings.json"
    data = system.read(path)
    if data is None or b"swarmbus" not in data:
        return None
    try:
        present, entry = value_at(data.decode(), CLAUDE_KEY)
    except (NotEditableError, UnicodeDecodeError) as error:
        return ClaudeEntry(path, problem=str(error))
    if not present:
        return None
    words = entry.get("args", []) if isinstance(entry, dict) else []
    words = [str(word) for word in words] if isinstance(words, list) else []
    at = words.index("--agent-id") + 1 if "--agent-id" in words else len(words)
    secret = _SECRET.search(json.dumps(entry)) is not None
    return ClaudeEntry(path, words[at] if at < len(words) else None, secret)


def _boolean(value: str) -> bool:
    return value.lower() in ("1", "true", "t", "yes", "y", "on")
