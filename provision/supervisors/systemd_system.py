"""Units of the system's systemd that run as the user: in order at boot, in a full sandbox, no linger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from swarmbus.provision import mosquitto
from swarmbus.provision.request import AgentSpec
from swarmbus.provision.resources.base import Resource
from swarmbus.provision.resources.directory import Directory
from swarmbus.provision.resources.unit import SYSTEM_UNITS, Manager
from swarmbus.provision.supervisors.base import Daemon
from swarmbus.provision.supervisors.systemd import Systemd
from swarmbus.provision.supervisors.units import AgentUnit, agent_unit
from swarmbus.provision.system import User

_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108  # what PrivateTmp= hides


@dataclass(frozen=True, slots=True)
class _Account:
    """What the templates say of the account, and of what the listener may see and write.

    Attributes:
        writable: Folders; empty for a unit that writes nothing.
        needed: Paths that have to be mounted before the unit is started.
        private_tmp: Whether /tmp can be one of the unit's own.
    """

    user: User
    home: Path
    writable: tuple[Path, ...] = ()
    needed: tuple[Path, ...] = ()
    private_tmp: bool = True


class SystemdSystem(Systemd):
    """Units in /etc/systemd/system. Only a wake command still wants the user's own systemd, and so linger."""

    name: ClassVar[str] = "systemd-system"
    manager: ClassVar[Manager] = "system"

    @property
    def folder(self) -> Path:
        """The administrator's."""
        return SYSTEM_UNITS

    @property
    def failed_unit(self) -> str:
        """One for each user: it runs as he, and what it runs is in his home."""
        return f"swarmbus-failed-{self.host.user.uid}"

    def agent(self, agent: AgentSpec, *, after: Sequence[str]) -> Daemon:
        """A unit that runs the listener as the user, and has it write only where it must."""
        unit = AgentUnit(agent_unit(agent.id), self.manager)
        mail = self._mail_folders(agent)
        state = self.layout.agent_dir(agent.id)
        seen = (Path(self.host.python), self.layout.config, state, *mail)
        account = _Account(
            user=self.host.user,
            home=self.layout.home,
            writable=tuple(dict.fromkeys((state, *mail))),
            needed=tuple(dict.fromkeys((Path(self.host.python).parent, state))),
            private_tmp=not any(path.is_relative_to(folder) for path in seen for folder in _TEMPORARY),
        )
        group = f"agent:{agent.id}"
        text = self.agent_text(unit, agent, after, system=account)
        daemon = self.daemon(group, unit.name, text, self.agent_restart(agent.id))
        # A folder that is not there cannot be made writable, and the listener could not make it.
        missing = [folder for folder in mail if not self.layout.home.is_relative_to(folder)]
        folders: list[Resource] = [Directory(group=group, path=folder) for folder in missing]
        return Daemon((*folders, *daemon.files), daemon.running)

    @property
    def after_system_broker(self) -> tuple[str, ...]:
        """The one manager has both."""
        return (mosquitto.UNIT,)

    def common(self, agents: Sequence[AgentSpec]) -> Daemon:
        """The rescue; and linger if there is a wake command, which is run by the user's own systemd."""
        wakes = any(agent.invoke is not None for agent in agents)
        linger = (self.linger(required=True),) if wakes else ()
        return Daemon(self.rescue(system=_Account(self.host.user, self.layout.home)), linger)

    def _mail_folders(self, agent: AgentSpec) -> tuple[Path, ...]:
        """Where the inbox and the outbox are written, rotated and made anew."""
        files = (self.layout.file(name, agent.id) for name in (agent.inbox, agent.outbox) if name)
        return tuple(dict.fromkeys(path.parent for path in files))
