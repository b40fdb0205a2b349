"""Units of systemd: what is alike in those of the user and those of the system."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from swarmbus.provision.render import render
from swarmbus.provision.request import AgentSpec
from swarmbus.provision.resources.base import Resource
from swarmbus.provision.resources.file import File
from swarmbus.provision.resources.linger import Linger
from swarmbus.provision.resources.unit import Manager, Unit
from swarmbus.provision.spec import InstallSpec
from swarmbus.provision.supervisors.base import Daemon, Supervisor
from swarmbus.provision.supervisors.unit_judge import judge_unit
from swarmbus.provision.supervisors.units import BROKER_UNIT, AgentUnit, agent_unit

_KNOWS_RESTART_STEPS = 254  # an older one complains about RestartSteps= (its NEWS)


class Systemd(Supervisor):
    """A unit of type notify for each daemon, and one that is started when it has failed for good."""

    manager: ClassVar[Manager]

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Where the units are."""

    @property
    @abstractmethod
    def failed_unit(self) -> str:
        """The template unit that says what is wrong: its name without ``@.service``."""

    def agent(self, agent: AgentSpec, *, after: Sequence[str]) -> Daemon:
        """A unit that runs the listener in a sandbox."""
        unit = AgentUnit(agent_unit(agent.id), self.manager)
        text = self.agent_text(unit, agent, after)
        return self.daemon(f"agent:{agent.id}", unit.name, text, self.agent_restart(agent.id))

    def agent_text(self, unit: AgentUnit, agent: AgentSpec, after: Sequence[str], **more: object) -> str:
        """Content of an agent's unit.

        Args:
            more: What only one of the two kinds says.
        """
        return render(
            "systemd/swarmbus-agent.service.j2",
            edit=f"{unit.systemctl} edit {unit.name}",
            agent_id=agent.id,
            argv=self.listener_argv(agent.id),
            after=tuple(after),
            failed=self.failed_unit,
            environment=self.environment,
            steps=(self.host.systemd or 0) >= _KNOWS_RESTART_STEPS,
            **{"system": None, **more},
        )

    @property
    def environment(self) -> tuple[str, ...]:
        """Assignments that say where this user's installation is, where that is not the usual place."""
        return tuple(f"{name}={value}" for name, value in self.layout.environment)

    def broker(self, argv: Sequence[str], environment: Sequence[tuple[str, str]], port: int) -> Daemon:
        """A unit of type notify: Debian builds mosquitto with it."""
        text = render(
            "systemd/swarmbus-broker.service.j2",
            user=self.host.user.name,
            argv=tuple(argv),
            environment=tuple(f"{name}={value}" for name, value in environment),
        )
        return self.daemon("broker", BROKER_UNIT, text, self.broker_restart, comes_later=argv[0])

    def daemon(
        self, group: str, unit: str, text: str, restart: str, *, comes_later: str | None = None
    ) -> Daemon:
        """A unit file, and that it is enabled and runs."""
        file = self.unit_file(group, unit, text, (self.reload, restart), comes_later=comes_later)
        running = Unit(group=group, name=unit, manager=self.manager, settle=(self.reload,))
        return Daemon((file,), (running,))

    def unit_file(
        self, group: str, unit: str, text: str, notify: tuple[str, ...], *, comes_later: str | None = None
    ) -> File:
        """A file in the folder of units, judged before it is written."""
        return File(
            group=group,
            path=self.folder / unit,
            content=text,
            root=self.manager == "system",
            judge=judge_unit(unit, self.manager, comes_later),
            notify=notify,
        )

    def agent_restart(self, agent_id: str) -> str:
        """By systemd."""
        return f"{self.manager}:restart:{agent_unit(agent_id)}"

    @property
    def reload(self) -> str:
        """The handler that has systemd read its units again."""
        return f"{self.manager}:daemon-reload"

    @property
    def broker_restart(self) -> str:
        """By systemd."""
        return f"{self.manager}:restart:{BROKER_UNIT}"

    @property
    def broker_name(self) -> str:
        """The unit."""
        return BROKER_UNIT

    def rescue(self, **more: object) -> tuple[Resource, ...]:
        """The script for the day on which ``swarmbus`` does not start, and the unit that calls it.

        Args:
            more: What only one of the two kinds says.
        """
        unit = f"{self.failed_unit}@.service"
        text = render(
            "systemd/swarmbus-failed@.service.j2",
            rescue=self.layout.rescue,
            environment=self.environment,
            **{"system": None, **more},
        )
        return (*self.rescue_script(), self.unit_file("host", unit, text, (self.reload,)))

    def linger(self, *, required: bool) -> Linger:
        """Linger for this user."""
        user = self.host.user
        return Linger(group="linger", user=user.name, uid=user.uid, required=required)

    def notes(self, spec: InstallSpec, *, private_broker: bool) -> tuple[str, ...]:
        """None: it is the ordinary case."""
        return ()
