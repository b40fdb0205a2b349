"""Background processes, where there is no systemd: a container, WSL 1, another init."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import ClassVar

from swarmbus.provision.request import AgentSpec
from swarmbus.provision.resources.directory import Directory
from swarmbus.provision.resources.process import Process
from swarmbus.provision.spec import InstallSpec
from swarmbus.provision.supervisors.base import Daemon, Supervisor

BROKER = "broker"


def agent_process(agent_id: str) -> str:
    """Name of an agent's process record; an agent id has no dot, so none is the broker's."""
    return f"agent.{agent_id}"


class Processes(Supervisor):
    """Started by us, recorded, and gone at the next boot."""

    name: ClassVar[str] = "processes"

    def agent(self, agent: AgentSpec, *, after: Sequence[str]) -> Daemon:
        """The listener, detached."""
        process = Process(
            group=f"agent:{agent.id}",
            name=agent_process(agent.id),
            argv=self.listener_argv(agent.id),
            env=self.layout.environment,
            folder=self.layout.processes,
        )
        return Daemon((), (process,))

    def broker(self, argv: Sequence[str], environment: Sequence[tuple[str, str]], port: int) -> Daemon:
        """mosquitto, detached."""
        process = Process(
            group="broker",
            name=BROKER,
            argv=tuple(argv),
            env=tuple(environment),
            folder=self.layout.processes,
            port=port,
        )
        return Daemon((), (process,))

    def agent_restart(self, agent_id: str) -> str:
        """By its record."""
        return f"process:restart:{agent_process(agent_id)}"

    @property
    def broker_restart(self) -> str:
        """By its record."""
        return f"process:restart:{BROKER}"

    @property
    def broker_name(self) -> str:
        """Of the record."""
        return BROKER

    def common(self, agents: Sequence[AgentSpec]) -> Daemon:
        """The folder of the records, and the rescue, to be called by hand."""
        records = Directory(group="host", path=self.layout.processes, mode=0o700)
        return Daemon((records, *self.rescue_script()), ())

    def notes(self, spec: InstallSpec, *, private_broker: bool) -> tuple[str, ...]:
        """That nothing restarts them, and what would."""
        what = "the broker and the listeners" if private_broker else "the listeners"
        again = shlex.join([self.host.python, "-I", "-m", "swarmbus", "init", "--yes"])
        return (
            f"systemd does not run here: {what} are background processes, and do not survive a reboot",
            f"to have them back after a reboot, add this line to your crontab: @reboot {again}",
        )
