"""Adopted: what an agent of the existing tool needs beside what init gives it, and what has to go."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from swarmbus.provision import mosquitto
from swarmbus.provision.handlers import USER_RELOAD
from swarmbus.provision.layout import Layout
from swarmbus.provision.old_tool import CLAUDE_KEY, ClaudeEntry, OldAgent
from swarmbus.provision.plan import Wish
from swarmbus.provision.resources.absent_file import AbsentFile
from swarmbus.provision.resources.base import Resource
from swarmbus.provision.resources.directory import Directory
from swarmbus.provision.resources.file import File
from swarmbus.provision.resources.json_key import JsonKey
from swarmbus.provision.resources.toml_key import TomlKey
from swarmbus.provision.supervisors.units import agent_unit

_TAILSCALE_FILE: Final = mosquitto.CONF_D / "tailscale.conf"
_TAILSCALE_NET: Final = ipaddress.ip_network("100.64.0.0/10")
"""Of which Tailscale gives addresses (the range of carrier-grade NAT, RFC 6598)."""

_DROP_IN: Final = "adopted.conf"


@dataclass(frozen=True)
class Amendment:
    """What is put into the wish of init.

    Attributes:
        usual: Broker and port that config.toml says for all agents; one with another gets its own.
        configuration: Of this host's mosquitto, as it is.
        notes: Sentences for the operator.
    """

    layout: Layout
    agents: tuple[OldAgent, ...]
    usual: tuple[str, int]
    claude: ClaudeEntry | None
    configuration: mosquitto.Configuration
    notes: tuple[str, ...] = ()

    def __call__(self, wish: Wish) -> Wish:
        """Settings come before the units that need them, and what has to go goes right after those settings.

        So a run that is killed has either not touched an old unit, or written all that was in it.
        """
        first = next(
            (
                place
                for place, resource in enumerate(wish.resources)
                if isinstance(resource, File) and resource.path.parent == self.layout.units
            ),
            len(wish.resources),
        )
        hidden = {agent.unit.path for agent in self.agents if agent.unit.secret}
        resources = [
            replace(resource, secret=True)
            if isinstance(resource, File) and resource.path in hidden
            else resource
            for resource in wish.resources
        ]
        ours = [resource for agent in self.agents for resource in self._of(agent)]
        claude = list(self._claude())
        notes = (*wish.notes, *self.notes, *self._agent_notes(), *self._tailscale(wish))
        return Wish((*resources[:first], *ours, *resources[first:], *claude), notes)

    def _of(self, agent: OldAgent) -> Iterator[Resource]:
        # Not the agent's own group, whose whole wish is init's: a later init would take these away.
        group = f"adopted:{agent.id}"
        changed = (USER_RELOAD, f"user:restart:{agent_unit(agent.id)}")
        settings: dict[str, str | bool | int] = dict(agent.credentials)
        if agent.password is not None:
            path = self.layout.config.parent / f"{agent.id}.password"
            yield File(group=group, path=path, content=f"{agent.password}\n", mode=0o600, secret=True)
            settings["password_file"] = str(path)
        if not agent.command.persistent:
            settings["persistent"] = False
        if "invoke" in agent.command.options:
            settings["wake"] = "each"  # as it was; the wake scripts of the existing tool choose by themselves
        broker, port = self.usual
        if agent.command.broker != broker:
            settings["broker"] = agent.command.broker
        if agent.command.port != port:
            settings["port"] = agent.command.port
        for key, value in settings.items():
            table = ("agents", agent.id)
            yield TomlKey(
                group=group, path=self.layout.config, table=table, key=key, value=value, notify=changed[1:]
            )
        folder = agent.unit.path.with_name(f"{agent.unit.path.name}.d")
        if agent.kept:
            secret = agent.unit.secret or any(drop_in.secret for drop_in in agent.drop_ins)
            yield Directory(group=group, path=folder)
            yield File(
                group=group,
                path=folder / _DROP_IN,
                content=_drop_in(agent),
                mode=0o600,
                secret=secret,
                notify=changed,
            )
        for drop_in in agent.drop_ins:
            why = "what it says is in config.toml now"
            yield AbsentFile(group=group, path=drop_in.path, why=why, secret=drop_in.secret, notify=changed)

    def _claude(self) -> Iterator[Resource]:
        entry = self.claude
        if entry is None or entry.problem is not None:
            return
        if entry.agent_id is None or entry.agent_id in {agent.id for agent in self.agents}:
            yield JsonKey(
                group=f"adopted:{entry.agent_id or self.agents[0].id}",
                path=entry.path,
                names=CLAUDE_KEY,
                why="Claude Code does not read MCP servers from there",
                secret=entry.secret,
            )

    def _agent_notes(self) -> Iterator[str]:
        for agent in self.agents:
            unit = agent_unit(agent.id)
            if agent.torn:
                yield f"{unit} had lost the arguments of its ExecStart=, and never ran: they are taken over"
            if agent.log is not None:
                yield f"the log goes on in the journal (journalctl --user-unit {unit}), and {agent.log} stays"

    def _tailscale(self, wish: Wish) -> Iterator[str]:
        """What is wrong with the file with which the existing tool lets the tailnet in; it stays as it is."""
        listeners = self.configuration.listeners
        addresses = [one.address for one in listeners if one.address and _is_of_tailscale(one.address)]
        if not addresses or not any(line.path == _TAILSCALE_FILE for line in self.configuration.lines):
            return
        if not any(listener.covers_loopback for listener in listeners):
            ours = f"file:{mosquitto.OUR_FILE}" in {resource.id for resource in wish.resources}
            more = (
                f"{mosquitto.OUR_FILE} adds it" if ours else "programs here reach the broker by that one only"
            )
            yield f"{_TAILSCALE_FILE} has only {addresses[0]} listened on, and not loopback: {more}"
        yield (
            f"mosquitto gives up at boot when {addresses[0]} is not there yet ({_TAILSCALE_FILE}): have it "
            "tried again with sudo systemctl edit mosquitto: [Unit] StartLimitIntervalSec=0, "
            "[Service] RestartSec=5"
        )


def _drop_in(agent: OldAgent) -> str:
    """``adopted.conf``: sections in the order of the old unit."""
    text = f"# from {agent.unit.path.name} of swarmbus-py\n"
    pairs = sorted(agent.kept, key=lambda pair: pair[0] != "Unit")
    for section, lines in groupby(pairs, key=lambda pair: pair[0]):
        text += f"\n[{section}]\n" + "".join(f"{line}\n" for _, line in lines)
    return text


def _is_of_tailscale(address: str) -> bool:
    try:
        return ipaddress.ip_address(address) in _TAILSCALE_NET
    except ValueError:
        return False
