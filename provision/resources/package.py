"""A Debian package, installed by apt; gone again only if it was we who installed it."""
# ruff: noqa: D102 - documented once, in Resource

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from swarmbus.provision.resources.base import Comparison, Owned, Resource, Scope, State, two_way
from swarmbus.provision.root import RootCommand, run_as_root
from swarmbus.provision.system import System

DPKG_STATUS = Path("/var/lib/dpkg/status")
APT_LISTS = Path("/var/lib/apt/lists")
_TIMEOUT = 900.0  # a Raspberry Pi Zero on a slow line
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
    """

    kind: ClassVar[str] = "package"
    guarded: ClassVar[bool] = False  # dpkg killed in the middle leaves a third state, which is ours too

    name: str
    start: bool = True

    @property
    def id(self) -> str:
        return f"package:{self.name}"

    @property
    def title(self) -> str:
        return f"install the package {self.name}"

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
        """The packages that installing it will add, itself among them."""
        if not has_apt_lists(system):
            self._update(system)
        planned = system.run(["apt-get", "-s", *_INSTALL, self.name], timeout=120)
        return json.dumps(simulated_installs(planned.stdout)).encode()

    def realise(self, system: System) -> State:
        install = self._install_command
        if not system.run(install.argv, root=True, timeout=_TIMEOUT).ok:
            # Lists that are older than a security update name files that the mirrors no longer have.
            self._update(system)
            run_as_root(system, [install], f"installing {self.name}", timeout=_TIMEOUT)
        return self.read(system)

    def undo(self, system: System, before: State, original: bytes | None) -> None:
        if before["installed"]:
            self.realise(system)
            return
        added = json.loads(original or b"[]")
        ours = [name for name in added if dpkg_status(system, name) not in (None, "not-installed")]
        for names in (ours, [self.name] if self.name in ours else []):
            if not names:
                return
            planned = system.run(["apt-get", "-s", "-y", "purge", *names], timeout=120)
            if planned.ok and set(simulated_removals(planned.stdout)) <= set(names):
                purge = RootCommand((*_APT, "purge", *names))
                run_as_root(system, [purge], f"removing {self.name}", timeout=_TIMEOUT)
                return
        # else something that was installed since needs it, and it stays

    def commands(self, system: System) -> list[RootCommand]:
        return [RootCommand((*_APT, "update")), self._install_command]

    @property
    def commands_for_administrator(self) -> list[RootCommand]:
        """The one command to hand to somebody else."""
        return [RootCommand(("apt-get", "install", "-y", self.name))]

    def record(self) -> dict[str, Any]:
        return {"name": self.name}

    @classmethod
    def from_record(cls, group: str, record: Mapping[str, Any]) -> Self:
        return cls(group=group, name=str(record["name"]))

    @property
    def _install_command(self) -> RootCommand:
        # runlevel(8) believes $RUNLEVEL, and in runlevel 1 invoke-rc.d starts nothing.
        quiet = () if self.start else ("RUNLEVEL=1", "PREVLEVEL=N")
        return RootCommand((*_APT[:1], *quiet, *_APT[1:], *_INSTALL, self.name))

    def _update(self, system: System) -> None:
        update = RootCommand((*_APT, "update"))
        run_as_root(system, [update], "fetching the lists of packages", timeout=_TIMEOUT)


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


def simulated_installs(output: str) -> list[str]:
    """Names from the ``Inst`` lines of ``apt-get -s install``."""
    return re.findall(r"^Inst (\S+) ", output, re.MULTILINE)


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
