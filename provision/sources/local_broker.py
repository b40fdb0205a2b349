"""The mosquitto of this machine: its configuration, its log, its files, its process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from swarmbus.provision.layout import Layout
from swarmbus.provision.mosquitto import CONF_D, MAIN_CONFIG, PACKAGE, Configuration, Line, load
from swarmbus.provision.resources.package import dpkg_status, dpkg_version
from swarmbus.provision.sources.files import Files
from swarmbus.provision.sources.journal import Journal
from swarmbus.provision.sources.memo import CouldNotLook, Source, probe
from swarmbus.provision.system import System

_TAIL: Final = "65536"  # bytes of a log that may have grown for months

Kept = Literal["mosquitto.service", "swarmbus-broker.service", "process"]


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of mosquitto's log; it begins with the Unix time."""

    at: int
    text: str


class LocalBroker(Source):
    """See the module.

    Args:
        kept: What keeps it running.
    """

    def __init__(self, system: System, files: Files, journal: Journal, layout: Layout, kept: Kept) -> None:
        super().__init__(system)
        self.kept: Kept = kept
        self._files = files
        self._journal = journal
        self._layout = layout

    @property
    def is_systems(self) -> bool:
        """Whether it is the distribution's, and not the user's own."""
        return self.kept == "mosquitto.service"

    @property
    def main_config(self) -> Path:
        """The file that it is started with."""
        return MAIN_CONFIG if self.is_systems else self._layout.broker_config

    @probe
    def configuration(self) -> Configuration:
        """All that it reads at a start.

        Raises:
            CouldNotLook: If a part of it is hidden from us.
        """
        found = load(self.system, self.main_config)
        if found.unreadable:
            raise CouldNotLook(f"{found.unreadable[0]} is not readable for us")
        if not found.lines:
            raise CouldNotLook(f"there is no {self.main_config}")
        return found

    def line(self, option: str) -> Line | None:
        """The line in force, the last; None if there is none."""
        return next((one for one in reversed(self.configuration().lines) if one.option == option), None)

    def on(self, option: str, *, default: bool = False) -> bool:
        """A boolean option, as mosquitto reads it (src/conf.c, conf__parse_bool)."""
        line = self.line(option)
        return default if line is None else line.value.lower() in ("true", "1")

    def number(self, option: str, default: int) -> int:
        """A numeric option."""
        line = self.line(option)
        try:
            return default if line is None else int(line.value)
        except ValueError:
            return default

    @probe
    def package(self) -> str | None:
        """Version of the distribution's package; None if it is not installed."""
        if dpkg_status(self.system, PACKAGE) != "installed":
            return None
        return dpkg_version(self.system, PACKAGE)

    @property
    def runs_as(self) -> str:
        """The user that it becomes."""
        if not self.is_systems and self.system.user.uid != 0:
            return self.system.user.name
        line = self.line("user")
        return line.value if line is not None else "mosquitto"

    def file(self, option: str) -> list[Path]:
        """The files that an option names: ``password_file`` may be there once a listener."""
        lines = self.configuration().lines
        return list(dict.fromkeys(Path(one.value) for one in lines if one.option == option))

    @property
    def database_folder(self) -> Path | None:
        """Where its database is; None where nothing says so."""
        line = self.line("persistence_location")
        return Path(line.value) if line is not None else None

    @property
    def database(self) -> Path | None:
        """Its database, whether it is there or not."""
        line, folder = self.line("persistence_file"), self.database_folder
        return folder / (line.value if line is not None else "mosquitto.db") if folder else None

    @property
    def log_file(self) -> Path | None:
        """The file it logs to; None if to none."""
        if self.kept == "process":
            return self._layout.processes / "broker.log"
        for line in self.configuration().lines:
            if line.option == "log_dest" and line.value.startswith("file "):
                return Path(line.value.removeprefix("file ").strip())
        return None

    @probe
    def log(self) -> tuple[LogLine, ...]:
        """The last lines of its log."""
        path = self.log_file
        if path is None or self._logs_to_syslog:
            return self.journal()
        shown = self.system.run(["tail", "-c", _TAIL, str(path)], timeout=3.0)
        if not shown.ok:
            raise CouldNotLook(shown.stderr.strip() or f"cannot read {path}")
        return tuple(parse_log(shown.stdout))

    @property
    def _logs_to_syslog(self) -> bool:
        lines = self.configuration().lines
        return any((line.option, line.value) == ("log_dest", "syslog") for line in lines)

    @probe
    def journal(self) -> tuple[LogLine, ...]:
        """What the journal has of it: all it says before it has opened its own log, if nothing else."""
        if self.kept == "process":
            raise CouldNotLook("a background process has no journal")
        if not self.is_systems:
            raise CouldNotLook("its log is in the user's journal")
        return tuple(parse_log(self._journal.mosquitto()))

    @probe
    def conf_d(self) -> tuple[str, ...]:
        """Names in the folder that is for additions."""
        return self._files.names(CONF_D) if self.is_systems else ()


def parse_log(text: str) -> Iterator[LogLine]:
    """mosquitto's own form, ``1700000000: words``, or the journal's with or without that in it:
    ``1700000000.123456 host mosquitto[77]: words``.
    """
    for line in text.splitlines():
        found = re.match(r"(\d{9,11})(?:\.\d+ \S+ \S+)?: (?:\d{9,11}: )?(.*)", line)
        if found is not None:
            yield LogLine(int(found[1]), found[2])
