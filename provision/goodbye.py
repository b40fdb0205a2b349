"""Goodbye: the retained word of agents that are gone is taken off the broker, so that no list has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from swarmbus.config import Settings, load_settings
from swarmbus.errors import StorageError, SwarmbusError
from swarmbus.provision.bus import Bus
from swarmbus.provision.spec import InstallSpec
from swarmbus.provision.system import System


@dataclass(frozen=True)
class Goodbye:
    """Made before anything is taken away, for it needs the settings that go.

    Attributes:
        settings: Of each agent, with its password.
        notes: For whom it cannot be said, and why.
    """

    bus: Bus
    settings: Mapping[str, Settings]
    notes: tuple[str, ...] = ()

    @classmethod
    def to(cls, system: System, bus: Bus, agents: Iterable[str], kept: InstallSpec) -> Goodbye:
        """To these agents; where config.toml has no broker any more, it was that of the spec."""
        settings: dict[str, Settings] = {}
        notes = []
        for agent in agents:
            try:
                settings[agent] = _with_password(system, _of_spec(load_settings({"agent_id": agent}), kept))
            except SwarmbusError as error:
                notes.append(f"the presence of {agent} stays at its broker: {error.message}")
        return cls(bus, settings, tuple(notes))

    def __call__(self, port: int | None) -> tuple[str, ...]:
        """Clear their presence where it says that they are away.

        One that is there again is another's: the same agent on another host, or the tool that ran it before.

        Args:
            port: Of the broker, where it is not the one of the settings any more.

        Returns:
            Sentences about what could not be done.
        """
        notes = list(self.notes)
        for agent, own in self.settings.items():
            settings = replace(own, port=port or own.port)
            try:
                self.bus.clear_presence(settings, agent)
            except SwarmbusError as error:
                where = f"{settings.broker}:{settings.port}"
                notes.append(f"the presence of {agent} stays at {where}: {error.message}")
        return tuple(notes)


def _of_spec(settings: Settings, kept: InstallSpec) -> Settings:
    if "broker" in settings.sources:
        return settings
    return replace(settings, broker=kept.broker, port=kept.port)


def _with_password(system: System, settings: Settings) -> Settings:
    if settings.password is not None or settings.password_file is None:
        return settings
    path = Path(settings.password_file).expanduser()
    data = system.read(path)
    if data is None:
        raise StorageError(f"there is no password file {path}")
    return replace(settings, password=data.decode(errors="replace").partition("\n")[0])
