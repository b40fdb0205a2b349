"""Units of agents: what they are called, and whose systemd has them.

::

    unit = find_unit(system, layout, "planner")
    unit.restart(system)
    print(unit.command("restart"))  # for a human to type
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from swarmbus.errors import StorageError
from swarmbus.provision.command import Command, run_commands
from swarmbus.provision.layout import Layout
from swarmbus.provision.resources.unit import SYSTEM_UNITS, Manager, start_commands, systemctl_command
from swarmbus.provision.root import RootStep
from swarmbus.provision.system import System

BROKER_UNIT: Final = "swarmbus-broker.service"
_AGENT_UNIT: Final = re.compile(r"swarmbus-([a-z0-9_-]+)\.service")  # no template: those have an @


def agent_unit(agent_id: str) -> str:
    """Name of an agent's unit."""
    return f"swarmbus-{agent_id}.service"


@dataclass(frozen=True, slots=True)
class AgentUnit:
    """The unit of one agent's listener daemon.

    Attributes:
        manager: ``user``: the user's own systemd; ``system``: process 1.
    """

    name: str
    manager: Manager = "user"

    def command(self, *words: str) -> str:
        """The call that does something to it, for a human to type: ``command("restart")``."""
        return f"{self.systemctl} {shlex.join([*words, self.name])}"

    @property
    def systemctl(self) -> str:
        """The call of its systemd, for a human to type."""
        return "systemctl --user" if self.manager == "user" else "sudo systemctl"

    @property
    def journal(self) -> str:
        """The call that prints what it said, for a human to type."""
        read = "journalctl --user-unit" if self.manager == "user" else "sudo journalctl --unit"
        return f"{read} {self.name} -n 20"

    def restart(self, system: System) -> None:
        """Have it end and start again; returns before it has done either.

        Raises:
            RootStepsNeeded: If that needs root, and root is not to be had.
            CannotRun: If it failed.
        """
        self._manage(system, f"restart {self.name}", start_commands(self.manager, self.name))

    def stop(self, system: System) -> None:
        """Have it end, and wait for that.

        Raises:
            RootStepsNeeded, CannotRun: As `restart`.
        """
        stop = systemctl_command(self.manager, "stop", self.name)
        reset = systemctl_command(self.manager, "reset-failed", self.name, may_fail=True)
        self._manage(system, f"stop {self.name}", [stop, reset])

    def _manage(self, system: System, title: str, commands: Sequence[Command]) -> None:
        if self.manager == "system":
            step = RootStep(f"unit:{self.manager}:{self.name}", title, tuple(commands))
            system.run_as_root([step], lambda _: None)
        else:
            run_commands(system, commands, title)


def find_unit(system: System, layout: Layout, agent_id: str) -> AgentUnit | None:
    """The agent's unit, by its file; None if this user has none for it."""
    name = agent_unit(agent_id)
    if system.stat(layout.units / name) is not None:
        return AgentUnit(name)
    if _runs_as(system, SYSTEM_UNITS / name):
        return AgentUnit(name, "system")
    return None


def agents_with_units(system: System, layout: Layout) -> list[str]:
    """Ids of the agents of this user that have a unit."""
    own = [(layout.units, name) for name in system.list(layout.units)]
    everybodys = [(SYSTEM_UNITS, name) for name in system.list(SYSTEM_UNITS)]
    found = {
        match[1]: None
        for folder, name in (*own, *everybodys)
        if name != BROKER_UNIT
        and (match := _AGENT_UNIT.fullmatch(name))
        and (folder == layout.units or _runs_as(system, folder / name))
    }
    return list(found)


def agents_of_others(system: System) -> frozenset[str]:
    """Ids that agents of other users have among the system's units."""
    found = {match[1] for name in system.list(SYSTEM_UNITS) if (match := _AGENT_UNIT.fullmatch(name))}
    return frozenset(one for one in found if not _runs_as(system, SYSTEM_UNITS / agent_unit(one)))


def _runs_as(system: System, path: Path) -> bool:
    """Whether a unit of the system runs as this user: each user has agents of his own."""
    try:
        text = (system.read(path) or b"").decode(errors="replace")
    except StorageError:
        return False
    return f"User={system.user.name}" in text.splitlines()
