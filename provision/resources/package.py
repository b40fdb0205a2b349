"""A Debian package, installed by apt; gone again only if it was we who installed it."""
# ruff: noqa: D102 - documented once, in Resource

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from swarmbus.provision.command import Command
from swarmbus.provision.resources.base import Comparison, Owned, Resource, Scope, State, two_way
from swarmbus.provision.system import System

DPKG_STATUS = Path("/var/lib/dpkg/status")
APT_LISTS = Path("/var/lib/apt/lists")
_APT = (
    *("/usr/bin/env", "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_SUSPEND=1"),
    *("/usr/bin/apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=120"),
)
_INSTALL = ("--no-install-recommends", "-o", "Dpkg::Options::=--force-confold", "install")


@dataclass(frozen=True, kw_only=True)
class Package(Resource):
    """A package that is to be installed, in whichever version the distribution has.

    Attributes:
        start: Whether its service may start while it is installed; False where nothing would supervise it.
        service: A unit of the system's that it brings, and that is gone with it; empty for none.
    """

    kind: ClassVar[str] = "package"
    guarded: ClassVar[bool] = False  # dpkg killed in the middle leaves a third state, which is ours too

    name: str
    start: bool = True
    service: str = ""

    @property
    def id(self) -> str:
        return f"package:{self.name}"

    @property
    def title(self) -> str:
        return f"install the package {self.name}"

    def undo_title(self, before: State) -> str:
        return f"remove the package {self.name}"

    @property
    def scope(self) -> Scope:
        return "root"

    def read(self, system: System) -> State:
        return {"installed": dpkg_status(system, self.name) == "installed"}

    def wanted(self, system: System) -> State:
        return {"installed": True}

    def compare(self, system: System, seen: State, owned: Owned | None, *, take: bool) -> Comparison:
        return two_way(seen, self.wanted(system), owned)

    def original(self, system: System) -> bytes | None:
        """The names of all packages that are installed."""
        return json.dumps(sorted(installed_packages(system))).encode()

    def commands(self, system: System) -> list[Command]:
        # runlevel(8) believes $RUNLEVEL, and in runlevel 1 invoke-rc.d starts nothing.
        quiet = () if self.start else ("RUNLEVEL=1", "PREVLEVEL=N")
        install = (*_APT[:1], *quiet, *_APT[1:], *_INSTALL, self.name)
        # Lists that are older than a security update name files that the mirrors no longer have.
        update = Command((*_APT, "update"))
        if not has_apt_lists(system):
            return [update, Command(install)]
        return [Command(install, otherwise=(update, Command(install)))]

    def undo_commands(self, system: System, before: State, original: bytes | None) -> list[Command]:
        if before["installed"]:
            return self.commands(system)
        ours = self._came_with_it(system, json.loads(original or b"[]"))
        for names in (ours, [self.name] if self.name in ours else []):
            if names and removed_with(system, names) == set():
                return [Command((*_APT, "purge", *names))]
        return []  # something that was installed since needs it, and it stays

    def _came_with_it(self, system: System, before: list[str]) -> list[str]:
        """The package, and what it depends on that was not installed before."""
        installed = installed_packages(system)
        new, waiting = dict[str, None](), [self.name]
        while waiting:
            name = waiting.pop(0)
            if name in installed and name not in before and name not in new:
                new[name] = None
                waiting += sorted(installed[name])
        return list(new)

    @property
    def takes_along(self) -> tuple[str, ...]:
        return (f"system:restart:{self.service}",) if self.service else ()

    def record(self) -> dict[str, Any]:
        return {"name": self.name, "service": self.service}

    @classmethod
    def from_record(cls, group: str, record: Mapping[str, Any]) -> Self:
        return cls(group=group, name=str(record["name"]), service=str(record.get("service", "")))


def installed_packages(system: System) -> dict[str, frozenset[str]]:
    """Name of each package that is there, in whatever state, and the names that it depends on."""
    found: dict[str, frozenset[str]] = {}
    for stanza in (system.read(DPKG_STATUS) or b"").decode(errors="replace").split("\n\n"):
        fields = dict(re.findall(r"^(Package|Status|Depends|Pre-Depends): (.*)$", stanza, re.MULTILINE))
        if "Package" in fields and not fields.get("Status", "").endswith(("not-installed", "config-files")):
            needs = f"{fields.get('Depends', '')}, {fields.get('Pre-Depends', '')}"
            found[fields["Package"]] = frozenset(re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9+.-]*)", needs))
    return found


def dpkg_status(system: System, name: str) -> str | None:
    """``installed``, ``config-files``, ``half-configured`` …; None if dpkg has never heard of it.

    Read from dpkg's own file (a documented format, deb822): no process is started for it.
    """
    stanza = _stanza(system, name)
    found = re.search(rb"^Status: \S+ \S+ (\S+)$", stanza, re.MULTILINE)
    return found[1].decode() if found else None


def dpkg_version(system: System, name: str) -> str | None:
    """The version that is installed; None if none is."""
    stanza = _stanza(system, name)
    found = re.search(rb"^Version: (\S+)$", stanza, re.MULTILINE)
    return found[1].decode() if found and b"\nStatus: " in stanza else None


def has_apt_lists(system: System) -> bool:
    """Whether apt knows any package that it could install."""
    return any("_Packages" in name for name in system.list(APT_LISTS))


def removed_with(system: System, names: Sequence[str]) -> set[str] | None:
    """What would have to go with these packages, because it needs them; None if apt cannot say."""
    planned = system.run(["apt-get", "-s", "-y", "purge", *names], timeout=120)
    return set(simulated_removals(planned.stdout)) - set(names) if planned.ok else None


def conffile_digests(system: System, name: str) -> dict[Path, str]:
    """MD5 digests of a package's configuration files as it brought them."""
    listed = re.search(rb"^Conffiles:\n((?: .*\n)*)", _stanza(system, name), re.MULTILINE)
    lines = [line.split() for line in listed[1].decode().splitlines()] if listed else []
    return {Path(words[0]): words[1] for words in lines if len(words) > 1}


def simulated_removals(output: str) -> list[str]:
    """Names from the ``Purg`` and ``Remv`` lines of ``apt-get -s purge``."""
    return re.findall(r"^(?:Purg|Remv) (\S+) ", output, re.MULTILINE)


def _stanza(system: System, name: str) -> bytes:
    data = system.read(DPKG_STATUS) or b""
    start = (
        0 if data.startswith(f"Package: {name}\n".encode()) else data.find(f"\nPackage: {name}\n".encode())
    )
    if start < 0:
        return b""
    end = data.find(b"\n\n", start + 1)
    return data[start : end if end >= 0 else len(data)] + b"\n"
