"""Supervisor: what keeps a daemon running on this kind of host."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from swarmbus.provision.host import Host
from swarmbus.provision.layout import Layout
from swarmbus.provision.render import plain
from swarmbus.provision.request import AgentSpec
from swarmbus.provision.resources.base import Resource
from swarmbus.provision.resources.directory import Directory
from swarmbus.provision.resources.file import File
from swarmbus.provision.spec import InstallSpec


@dataclass(frozen=True)
class Daemon:
    """What one daemon comes to.

    Attributes:
        files: Resources that are written first.
        running: Resources that start it.
    """

    files: tuple[Resource, ...]
    running: tuple[Resource, ...]


@dataclass(frozen=True)
class Supervisor(ABC):
    """One way of keeping daemons running."""

    name: ClassVar[str]

    host: Host
    layout: Layout

    @abstractmethod
    def agent(self, agent: AgentSpec, *, after: Sequence[str]) -> Daemon:
        """The listener daemon of one agent.

        Args:
            after: Names of daemons of ours that should be up before it.
        """

    @abstractmethod
    def broker(self, argv: Sequence[str], environment: Sequence[tuple[str, str]], port: int) -> Daemon:
        """A private broker."""

    @abstractmethod
    def agent_restart(self, agent_id: str) -> str:
        """The handler that restarts an agent's listener."""

    @property
    @abstractmethod
    def broker_restart(self) -> str:
        """The handler that restarts the private broker."""

    @property
    @abstractmethod
    def broker_name(self) -> str:
        """For ``after``."""

    @property
    def after_system_broker(self) -> tuple[str, ...]:
        """The ``after`` of agents whose broker is Debian's mosquitto, which we do not keep running."""
        return ()

    @abstractmethod
    def common(self, agents: Sequence[AgentSpec]) -> Daemon:
        """What the daemons of all agents need once."""

    @abstractmethod
    def notes(self, spec: InstallSpec, *, private_broker: bool) -> tuple[str, ...]:
        """What the operator has to know about this way."""

    def rescue_script(self) -> tuple[Resource, ...]:
        """For the day on which ``swarmbus`` does not start: outside of what may be gone then."""
        path = self.layout.rescue
        content = plain("rescue/swarmbus-rescue.sh")
        return (
            Directory(group="host", path=path.parent),
            File(group="host", path=path, content=content, mode=0o755),
        )

    def listener_argv(self, agent_id: str) -> tuple[str, ...]:
        """The listener's command line; ``-I`` keeps the caller's environment and folder out of imports."""
        return (self.host.python, "-I", "-m", "swarmbus", "start", "--agent-id", agent_id)
