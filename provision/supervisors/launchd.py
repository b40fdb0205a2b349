"""Agents of launchd, on macOS. Rendered and tested as far as can be without a Mac."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from swarmbus.provision.render import render
from swarmbus.provision.request import AgentSpec
from swarmbus.provision.resources.directory import Directory
from swarmbus.provision.resources.file import File
from swarmbus.provision.resources.launchd_agent import LaunchdAgent
from swarmbus.provision.spec import InstallSpec
from swarmbus.provision.supervisors.base import Daemon, Supervisor

BROKER_LABEL = "swarmbus.broker"
# Homebrew's programs are in the one on Apple's processors and in the other on Intel's.
_PATH = "/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def agent_label(agent_id: str) -> str:
    """What launchd calls an agent's listener; an agent id has no dot."""
    return f"swarmbus.agent.{agent_id}"


class Launchd(Supervisor):
    """Property lists in ~/Library/LaunchAgents: from login to logout."""

    name: ClassVar[str] = "launchd"

    def agent(self, agent: AgentSpec, *, after: Sequence[str]) -> Daemon:
        """The listener. launchd knows no order; it waits for its broker by itself."""
        path = f"{self.layout.home}/.local/bin:{_PATH}"
        return self._daemon(
            f"agent:{agent.id}",
            agent_label(agent.id),
            self.listener_argv(agent.id),
            (("PATH", path), *self.layout.environment),
            self.layout.agent_dir(agent.id) / "listener.log",
        )

    def broker(self, argv: Sequence[str], environment: Sequence[tuple[str, str]], port: int) -> Daemon:
        """mosquitto, of Homebrew or whoever."""
        log = self.layout.broker_state / "mosquitto.log"
        return self._daemon("broker", BROKER_LABEL, tuple(argv), tuple(environment), log)

    def _daemon(
        self,
        group: str,
        label: str,
        argv: tuple[str, ...],
        environment: tuple[tuple[str, str], ...],
        log: Path,
    ) -> Daemon:
        text = render(
            "launchd/swarmbus.plist.j2", label=label, argv=argv, environment=environment, log=str(log)
        )
        path = self.layout.launch_agents / f"{label}.plist"
        file = File(group=group, path=path, content=text, notify=(f"launchd:restart:{label}",))
        return Daemon((file,), (LaunchdAgent(group=group, path=path),))

    def agent_restart(self, agent_id: str) -> str:
        """By launchd."""
        return f"launchd:restart:{agent_label(agent_id)}"

    @property
    def broker_restart(self) -> str:
        """By launchd."""
        return f"launchd:restart:{BROKER_LABEL}"

    @property
    def broker_name(self) -> str:
        """The label."""
        return BROKER_LABEL

    def common(self, agents: Sequence[AgentSpec]) -> Daemon:
        """The folder of the property lists."""
        return Daemon((Directory(group="host", path=self.layout.launch_agents),), ())

    def notes(self, spec: InstallSpec, *, private_broker: bool) -> tuple[str, ...]:
        """That a logout ends them, and that nobody has seen it work."""
        what = "the broker and the listeners" if private_broker else "the listeners"
        return (
            f"{what} run from login to logout, as launchd has it for a user's agents",
            "macOS: what is written here was tested in parts, and never on a Mac",
        )
