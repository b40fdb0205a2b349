"""Units of the user's own systemd: no root, and the wake command has the user's home and logins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from swarmbus.errors import CannotRun
from swarmbus.provision.handlers import USER_RELOAD
from swarmbus.provision.render import render, systemd_word
from swarmbus.provision.request import AgentSpec
from swarmbus.provision.resources.base import Resource
from swarmbus.provision.resources.file import File
from swarmbus.provision.resources.linger import Linger
from swarmbus.provision.resources.unit import Unit
from swarmbus.provision.spec import InstallSpec
from swarmbus.provision.supervisors.base import Daemon, Supervisor
from swarmbus.provision.system import System

BROKER_UNIT = "swarmbus-broker.service"


def agent_unit(agent_id: str) -> str:
    """Name of an agent's unit."""
    return f"swarmbus-{agent_id}.service"


class SystemdUser(Supervisor):
    """``systemctl --user``, and linger so that it runs from boot on."""

    name: ClassVar[str] = "systemd-user"

    def agent(self, agent: AgentSpec, *, after: Sequence[str]) -> Daemon:
        """A unit of type notify that runs the listener."""
        unit = agent_unit(agent.id)
        text = render(
            "systemd/swarmbus-agent.service.j2",
            unit=unit,
            agent_id=agent.id,
            argv=self.listener_argv(agent.id),
            after=tuple(after),
            environment=tuple(f"{name}={value}" for name, value in self.layout.environment),
        )
        return self._daemon(f"agent:{agent.id}", unit, text, self.agent_restart(agent.id))

    def broker(self, argv: Sequence[str], environment: Sequence[tuple[str, str]], port: int) -> Daemon:
        """A unit of type notify: Debian builds mosquitto with it."""
        text = render(
            "systemd/swarmbus-broker.service.j2",
            user=self.host.user.name,
            argv=tuple(argv),
            environment=tuple(f"{name}={value}" for name, value in environment),
        )
        return self._daemon("broker", BROKER_UNIT, text, self.broker_restart, comes_later=argv[0])

    def _daemon(
        self, group: str, unit: str, text: str, restart: str, *, comes_later: str | None = None
    ) -> Daemon:
        path = self.layout.units / unit
        file = File(
            group=group,
            path=path,
            content=text,
            judge=judge_unit(unit, comes_later),
            notify=(USER_RELOAD, restart),
        )
        return Daemon((file,), (Unit(group=group, name=unit, settle=(USER_RELOAD,)),))

    def agent_restart(self, agent_id: str) -> str:
        """By systemd."""
        return f"user:restart:{agent_unit(agent_id)}"

    @property
    def broker_restart(self) -> str:
        """By systemd."""
        return f"user:restart:{BROKER_UNIT}"

    @property
    def broker_name(self) -> str:
        """The unit."""
        return BROKER_UNIT

    def common(self) -> tuple[Resource, ...]:
        """Linger."""
        user = self.host.user
        required = self.host.can_become_root
        return (Linger(group="linger", user=user.name, uid=user.uid, required=required),)

    def notes(self, spec: InstallSpec, *, private_broker: bool) -> tuple[str, ...]:
        """None: it is the ordinary case."""
        return ()


class judge_unit:  # noqa: N801  # a function with one thing remembered
    """Has systemd-analyze judge a unit, where it is installed.

    Args:
        comes_later: A program that the unit starts and that need not be there before it is written.
    """

    def __init__(self, unit: str, comes_later: str | None = None) -> None:
        self._unit = unit
        self._comes_later = comes_later

    def __call__(self, system: System, content: str) -> None:
        """Raise `CannotRun` for the first thing that systemd would complain about."""
        analyze = system.which("systemd-analyze")
        if analyze is None:
            return
        with system.scratch() as scratch:
            if self._comes_later is not None and system.stat(Path(self._comes_later)) is None:
                content = content.replace(
                    f"ExecStart={systemd_word(self._comes_later)}", "ExecStart=/bin/true"
                )
            path = scratch / self._unit
            system.write_file(path, content.encode(), mode=0o600)
            command = [str(analyze), "--user", "verify", "--man=no", "--recursive-errors=yes", str(path)]
            judged = system.run(command, env={"XDG_RUNTIME_DIR": str(scratch)})
        # An unknown key is only printed: the exit status stays 0. Version 249 does not know the option.
        said = [line for line in judged.stderr.splitlines() if self._unit in line and _is_ours(line, path)]
        if said:
            raise CannotRun(f"systemd does not accept {self._unit}: {said[0].replace(str(path), self._unit)}")


def _is_ours(line: str, path: Path) -> bool:
    # Units that ours only names (After=) are looked up on this host, where they need not exist yet.
    return re.match(rf"{re.escape(str(path))}:|{re.escape(path.name)}: ", line) is not None
