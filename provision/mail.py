"""Mail: what agents of this user have on the disk that is theirs alone. It stays, or goes for good.

Of the files in an agent's folder only those go that swarmbus makes; an inbox file is the user's in any case.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from swarmbus.agent_id import check_agent_id
from swarmbus.errors import InvalidAgentId
from swarmbus.provision.layout import Layout
from swarmbus.provision.system import System

_OF_AN_AGENT = re.compile(
    r"mailbox\.db(-wal|-shm|-journal)?|mailbox\.db\.schema-\d+|listener\.(lock|wanted|log)|control\.sock"
)
_OF_A_WAKE = re.compile(r"(order|result)\.json|alive")
_BELOW = {"mcp": re.compile(r"\d+\.[0-9a-f]+\.holds"), "wake": _OF_A_WAKE, "wake-canary": _OF_A_WAKE}
"""Folders in an agent's, and what swarmbus makes in them."""
_OF_THE_BROKER = re.compile(r"mosquitto\.db(\.\w+)?")
_CURSOR = re.compile(r"([a-z0-9_-]{1,64})--[A-Za-z0-9_-]{1,64}\.cursor")


@dataclass(frozen=True, slots=True)
class Mail:
    """Files of one agent, or of the user's own broker.

    Attributes:
        whose: "planner", or "the broker".
        lock: Whoever holds its lock uses the files; None where there is none.
        cursors: How far readers of the inbox file have come.
    """

    whose: str
    folder: Path
    files: tuple[Path, ...]
    lock: Path | None = None
    cursors: tuple[Path, ...] = ()


def find_mail(system: System, layout: Layout, agents: Collection[str] | None) -> tuple[Mail, ...]:
    """What is there.

    Args:
        agents: Of these; None means of all of this user, and of his own broker.
    """
    names = [name for name in system.list(layout.state) if _is_agent(name)]
    found = []
    for name in names if agents is None else [name for name in names if name in agents]:
        folder = layout.agent_dir(name)
        below = [path for part, ours in _BELOW.items() for path in _files(system, folder / part, ours)]
        files = (*_files(system, folder, _OF_AN_AGENT), *below)
        if files or not system.list(folder):  # one that was emptied by a run that was killed
            lock = folder / "listener.lock"
            found.append(Mail(name, folder, files, lock, _cursors(system, layout, name)))
    if agents is None and (files := _files(system, layout.broker_state, _OF_THE_BROKER)):
        found.append(Mail("the broker", layout.broker_state, files))
    return tuple(found)


def delete_mail(system: System, mail: Mail) -> str | None:
    """Delete it for good; why not, if somebody uses it."""
    if mail.lock is not None and system.lock_holder(mail.lock) is not None:
        return f"{mail.folder} stays: something of {mail.whose} still runs"
    for path in (*mail.files, *mail.cursors):
        system.remove(path)
    above = [folder for path in mail.cursors[:1] for folder in (path.parent, path.parent.parent)]
    for folder in (*(mail.folder / part for part in _BELOW), mail.folder, *above):
        system.remove_dir(folder)  # unless there is something in it that is not ours
    return None


def _files(system: System, folder: Path, ours: re.Pattern[str]) -> tuple[Path, ...]:
    return tuple(folder / name for name in system.list(folder) if ours.fullmatch(name))


def _cursors(system: System, layout: Layout, agent: str) -> tuple[Path, ...]:
    folder = layout.home / ".swarmbus/cursors"
    matches = [(_CURSOR.fullmatch(name), folder / name) for name in system.list(folder)]
    return tuple(path for match, path in matches if match is not None and match[1] == agent)


def _is_agent(name: str) -> bool:
    try:
        check_agent_id(name)
    except InvalidAgentId:
        return False
    return True
