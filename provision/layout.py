"""Layout: where the things of one user's installation are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from swarmbus import paths


@dataclass(frozen=True)
class Layout:
    """Absolute paths; `of_this_user` for the real ones.

    Attributes:
        config: config.toml.
        state: The state folder; below it one folder an agent.
        units: Where the user's systemd looks for units.
        data: What can be fetched again: the private broker's program.
        environment: Settings of the caller's environment that moved one of these, and that the listener
            therefore has to be given too.
    """

    home: Path
    config: Path
    state: Path
    units: Path
    data: Path
    environment: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of_this_user(cls) -> Layout:
        """By `swarmbus.paths`, and the XDG base directory specification for the rest."""
        home = Path.home()
        moved = ("SWARMBUS_CONFIG", "SWARMBUS_STATE_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME")
        # systemd's user manager reads $XDG_CONFIG_HOME of its own environment, which is not the caller's.
        return cls(
            home=home,
            config=paths.config_path(),
            state=paths.state_dir(),
            units=home / ".config/systemd/user",
            data=home / ".local/share/swarmbus",
            environment=tuple((name, os.environ[name]) for name in moved if os.environ.get(name)),
        )

    @classmethod
    def under(cls, home: Path) -> Layout:
        """The default places below a home folder."""
        return cls(
            home=home,
            config=home / ".config/swarmbus/config.toml",
            state=home / ".local/state/swarmbus",
            units=home / ".config/systemd/user",
            data=home / ".local/share/swarmbus",
        )

    def agent_dir(self, agent_id: str) -> Path:
        """The state folder of one agent."""
        return self.state / agent_id

    def file(self, name: str, agent_id: str) -> Path:
        """An inbox or outbox file as a setting names it; a relative one is in the home folder."""
        text = name.replace("{agent_id}", agent_id)
        return self.home / text.removeprefix("~/")

    @property
    def provision(self) -> Path:
        """Journal, manifest, spec and originals. The dot keeps it from being an agent's folder."""
        return self.state / ".provision"

    @property
    def processes(self) -> Path:
        """Records of background processes, where there is no systemd."""
        return self.provision / "processes"

    @property
    def rescue(self) -> Path:
        """The script that still works when the Python that runs us is gone."""
        return self.data / "swarmbus-rescue.sh"

    @property
    def launch_agents(self) -> Path:
        """Where launchd looks for what it starts when the user logs in (macOS)."""
        return self.home / "Library/LaunchAgents"

    @property
    def doctor(self) -> Path:
        """What the doctor keeps: which findings are muted, how all was when it last looked."""
        return self.state / ".doctor"

    @property
    def broker_config(self) -> Path:
        """Configuration of a broker that is the user's own."""
        return self.config.parent / "broker.conf"

    @property
    def broker_state(self) -> Path:
        """Where the user's own broker keeps its database."""
        return self.state / ".broker"

    @property
    def broker_program(self) -> Path:
        """Root of the unpacked packages of the user's own broker."""
        return self.data / "broker"
