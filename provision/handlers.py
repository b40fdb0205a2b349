"""Handlers: what has to happen once after something changed. Each is named by a word that can be kept.

``user:daemon-reload`` · ``user:restart:swarmbus-planner.service`` · ``system:restart:mosquitto.service`` ·
``process:restart:broker``
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from swarmbus.provision.resources.base import Scope
from swarmbus.provision.resources.process import Process, restart
from swarmbus.provision.resources.unit import SYSTEMCTL, Manager, UnitSeen, show_units, start_unit, systemctl
from swarmbus.provision.root import RootCommand
from swarmbus.provision.system import System

USER_RELOAD = "user:daemon-reload"


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
    def rank(self) -> int:
        """Handlers of a lower rank run first: units are read, then the broker, then who connects to it."""
        if self._what == "daemon-reload":
            return 0
        return 1 if self._name in ("mosquitto.service", "swarmbus-broker.service", "broker") else 2

    @property
    def title(self) -> str:
        """For a human."""
        return (
            "have systemd read the units again" if self._what == "daemon-reload" else f"restart {self._name}"
        )

    def is_active(self, system: System) -> bool:
        """Whether what it restarts is running."""
        if self._what == "daemon-reload":
            return True
        if self._who == "process":
            return self._process.running(system) is not None
        return self._unit(system).running

    def run(self, system: System) -> None:
        """Do it.

        Raises:
            CannotRun: If what is restarted does not come up again.
        """
        if self._who == "process":
            restart(system, self.processes, self._name)
        elif self._what == "daemon-reload":
            systemctl(system, self._manager, "daemon-reload").check("reading the units again")
        elif self._unit(system).load not in ("not-found", "masked"):
            systemctl(system, self._manager, "reset-failed", self._name)
            start_unit(system, self._manager, self._name, "restart")

    def run_back(self, system: System, *, was_active: bool) -> None:
        """After everything was undone: have running again what was running, with what it then reads."""
        if self._what == "daemon-reload" or was_active:
            self.run(system)
        elif self._who == "process":
            self._process.stop(system)
        elif self._unit(system).running:
            systemctl(system, self._manager, "stop", self._name, timeout=120).check(f"stopping {self._name}")

    def commands(self) -> list[RootCommand]:
        """What root would run."""
        words = () if self._what == "daemon-reload" else (self._name,)
        return [RootCommand((SYSTEMCTL, self._what, *words))] if self.scope == "root" else []

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

    def _unit(self, system: System) -> UnitSeen:
        return show_units(system, self._manager, [self._name]).get(self._name, UnitSeen())
