"""A Debian package unpacked into a folder of the user's: a broker for a user who cannot become root."""
# ruff: noqa: D102 - documented once, in Resource

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from swarmbus.errors import CannotRun
from swarmbus.provision.resources.base import ABSENT, Comparison, Owned, Resource, State, two_way
from swarmbus.provision.resources.package import has_apt_lists
from swarmbus.provision.system import System

_TIMEOUT = 600.0
_STAMP = "swarmbus-packages.json"


@dataclass(frozen=True, kw_only=True)
class UnpackedPackage(Resource):
    """A package and those of its dependencies that the host lacks.

    apt checks the signatures and sums as it does for root; which packages are needed is its answer too.

    Attributes:
        folder: Becomes the root of what is unpacked; beside it ``<folder>.apt`` for the time of unpacking.
        program: Path inside of it, without a leading slash, of the program that must then find its libraries.
        library_path: For LD_LIBRARY_PATH.
    """

    kind: ClassVar[str] = "unpacked"
    guarded: ClassVar[bool] = False

    name: str
    folder: Path
    program: str = ""
    library_path: str = ""

    @property
    def id(self) -> str:
        return f"unpacked:{self.folder}"

    @property
    def title(self) -> str:
        return f"unpack the package {self.name} into {self.folder}"

    def undo_title(self, before: State) -> str:
        return f"remove the unpacked package {self.name} in {self.folder}"

    def read(self, system: System) -> State:
        stamp = system.read(self.folder / _STAMP)
        return {"present": True} if stamp is not None else ABSENT

    def wanted(self, system: System) -> State:
        return {"present": True}

    def compare(self, system: System, seen: State, owned: Owned | None, *, take: bool) -> Comparison:
        return two_way(seen, self.wanted(system), owned)

    def realise(self, system: System) -> State:
        work = self._work
        system.remove_tree(work)
        system.remove_tree(self.folder)
        for folder in (work, work / "root", work / "lists", work / "lists/partial", work / "archives"):
            system.make_dir(folder, mode=0o700)
        system.make_dir(work / "archives/partial", mode=0o700)
        apt = self._apt_options(system)
        if "Dir::State::lists" in " ".join(apt):
            # No lists on this host (a container, mostly): fetch them into our own folder.
            self._run(system, ["apt-get", *apt, "-q", "update"], "fetching the lists of packages")
        planned = self._run(
            system, ["apt-get", *apt, "-s", "--no-install-recommends", "install", self.name], "asking apt"
        )
        wanted = re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) ", planned, re.MULTILINE)
        if not any(name == self.name for name, _ in wanted):
            raise CannotRun(f"apt would not install {self.name} here", hint=f"apt-get -s install {self.name}")
        # `apt-get download` writes where it is called; -o Dir::Cache::archives is for install only.
        fetch = " ".join(("cd", "--", '"$1"', "&&", "shift", "&&", 'exec apt-get "$@"'))
        versions = [f"{name}={version}" for name, version in wanted]
        self._run(
            system,
            ["/bin/sh", "-c", fetch, "sh", str(work / "archives"), *apt, "-q", "download", *versions],
            f"downloading {self.name}",
        )
        for archive in system.list(work / "archives"):
            if archive.endswith(".deb"):
                unpack = ["dpkg-deb", "-x", str(work / "archives" / archive), str(work / "root")]
                self._run(system, unpack, f"unpacking {archive}")
        self._check_libraries(system, work / "root")
        system.write_file(work / "root" / _STAMP, json.dumps(dict(wanted), indent=1).encode(), mode=0o600)
        system.move(work / "root", self.folder)
        system.remove_tree(work)
        return self.read(system)

    def undo(self, system: System, before: State, original: bytes | None) -> None:
        system.remove_tree(self._work)
        if before["present"]:
            self.realise(system)
        else:
            system.remove_tree(self.folder)

    def record(self) -> dict[str, Any]:
        return {"name": self.name, "folder": str(self.folder)}

    @classmethod
    def from_record(cls, group: str, record: Mapping[str, Any]) -> Self:
        return cls(group=group, name=record["name"], folder=Path(record["folder"]))

    @property
    def _work(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.apt")

    def _apt_options(self, system: System) -> list[str]:
        options = [f"Dir::Cache={self._work}", "Dir::Cache::archives=archives", "Debug::NoLocking=true"]
        if not has_apt_lists(system):
            options += [f"Dir::State::lists={self._work / 'lists'}", "APT::Update::Post-Invoke-Success::="]
        return [word for option in options for word in ("-o", option)]

    def _check_libraries(self, system: System, root: Path) -> None:
        if not self.program:
            return
        library_path = self.library_path.replace(str(self.folder), str(root))
        linked = system.run(["ldd", str(root / self.program)], env={"LD_LIBRARY_PATH": library_path})
        if lost := re.findall(r"^\s*(\S+) => not found", linked.stdout, re.MULTILINE):
            raise CannotRun(
                f"{self.name}, unpacked, lacks {', '.join(lost)}",
                hint=f"have an administrator run: sudo apt-get install {self.name}",
            )

    def _run(self, system: System, argv: list[str], doing: str) -> str:
        return system.run(argv, timeout=_TIMEOUT, env={"LC_ALL": "C.UTF-8"}).check(doing).stdout
