"""Units of the user's own systemd: no root, and the wake command has the user's home and logins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from swarmbus.provision.request import AgentSpec
from swarmbus.provision.resources.directory import Directory
from swarmbus.provision.resources.unit import Manager
from swarmbus.provision.supervisors.base import Daemon
from swarmbus.provision.supervisors.systemd import Systemd


class SystemdUser(Systemd):
    """``systemctl --user``, and linger so that it runs from boot on."""

    name: ClassVar[str] = "systemd-user"
    manager: ClassVar[Manager] = "user"

    @property
    def folder(self) -> Path:
        """In the user's home."""
        return self.layout.units

    @property
    def failed_unit(self) -> str:
        """One for all agents."""
        return "swarmbus-failed"

    def common(self, agents: Sequence[AgentSpec]) -> Daemon:
        """The folder of the units, the rescue, and linger."""
        folder = Directory(group="host", path=self.folder)
        return Daemon((folder, *self.rescue()), (self.linger(required=self.host.can_become_root),))
