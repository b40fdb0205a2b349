"""Handlers: what has to happen once after something changed. Each is named by a word that can be kept.

``user:daemon-reload`` · ``user:restart:swarmbus-planner.service`` · ``system:restart:mosquitto.service`` ·
``process:restart:broker`` · ``launchd:restart:swarmbus.agent.planner``
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from swarmbus.provision.command import Command, run_commands
from swarmbus.provision.resources.base import Scope
from swarmbus.provision.resources.launchd_agent import LaunchdAgent
from swarmbus.provision.resources.process import Process, restart
from swarmbus.provision.resources.unit import (
    Manager,
    UnitSeen,
    await_unit,
    show_units,
    start_commands,
    systemctl_command,
)
from swarmbus.provision.system import System

USER_RELOAD = "user:daemon-reload"
_BROKERS = ("mosquitto.service", "swarmbus-broker.service", "broker", "swarmbus.broker")


def is_handler(word: str) -> bool:
    """Whether it names a handler, and not a resource."""
    who, _, what = word.partition(":")
    return who in ("user", "system", "process") and what.partition(":")[0] in ("daemon-reload", "restart")


@dataclass(frozen=True, slots=True)
class Handler:
    """One of them.

    Args:
        id: As above.
        processes: Folder of the records of background processes.
    """

    id: str
    processes: Path

    @property
    def scope(self) -> Scope:
        """Whether it needs root."""
        return "root" if self._who == "system" else "user"

    @property
    def is_reload(self) -> bool:
        """Whether it only has systemd read its units again."""
        return self._what == "daemon-reload"

    @property
    def rank(self) -> int:
        """Handlers of a lower rank run first: units are read, then the broker, then who connects to it."""
        if self.is_reload:
            return 0
        return 1 if self._name in _BROKERS else 2

    @property
    def title(self) -> str:
        """For a human."""
        return "have systemd read the units again" if self.is_reload else f"restart {self._name}"

    def is_active(self, system: System) -> bool:
        """Whether what it restarts is running."""
        if self.is_reload:
            return True
        if self._who == "process":
            return self._process.running(system) is not None
        if self._who == "launchd":
            return bool(self._launchd_agent(system).read(system)["active"])
        return self._unit(system).running

    def run(self, system: System) -> None:
        """Do it, as the user.

        Raises:
            CannotRun: If what is restarted does not come up again.
        """
        if self._who == "process":
            restart(system, self.processes, self._name)
        elif self._who == "launchd":
            agent = self._launchd_agent(system)
            if system.stat(agent.path) is not None:
                agent.restart(system)
        elif self.is_reload or self._unit(system).load not in ("not-found", "masked"):
            run_commands(system, self.commands(), self.title)
            self.await_up(system)

    def commands(self) -> list[Command]:
        """What is run to do it; by root, if it is one of the system's."""
        if self.is_reload:
            return [systemctl_command(self._manager, "daemon-reload")]
        return start_commands(self._manager, self._name)

    def await_up(self, system: System) -> None:
        """Wait until what was restarted runs.

        Raises:
            CannotRun: If it does not.
        """
        if self._what != "daemon-reload" and self._who in ("user", "system"):
            await_unit(system, self._manager, self._name)

    def run_back(self, system: System, *, was_active: bool) -> None:
        """After everything was undone: have running again what was running, with what it then reads."""
        if self.is_reload or was_active:
            self.run(system)
        elif self._who == "process":
            self._process.stop(system)
        elif self._who == "launchd":
            self._launchd_agent(system).stop(system)
        elif self._unit(system).running:
            run_commands(system, self.commands_back(was_active=False), f"stopping {self._name}")

    def commands_back(self, *, was_active: bool) -> list[Command]:
        """What is run for `run_back`; by root, if it is one of the system's."""
        if self.is_reload or was_active:
            return self.commands()
        return [systemctl_command(self._manager, "stop", self._name, may_fail=True)]

    @property
    def _who(self) -> str:
        return self.id.split(":")[0]

    @property
    def _what(self) -> str:
        return self.id.split(":")[1]

    @property
    def _name(self) -> str:
        return self.id.split(":", 2)[2]

    @property
    def _manager(self) -> Manager:
        return "system" if self._who == "system" else "user"

    @property
    def _process(self) -> Process:
        return Process(group="", name=self._name, argv=(), folder=self.processes)

    def _launchd_agent(self, system: System) -> LaunchdAgent:
        folder = system.user.home / "Library/LaunchAgents"
        return LaunchdAgent(group="", path=folder / f"{self._name}.plist")

    def _unit(self, system: System) -> UnitSeen:
        return show_units(system, self._manager, [self._name]).get(self._name, UnitSeen())
