"""A service account: a user of the system's that nobody logs in as, with a home of its own."""
# ruff: noqa: D102 - documented once, in Resource

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from swarmbus.errors import StorageError
from swarmbus.provision.command import Command
from swarmbus.provision.resources.base import Comparison, Owned, Resource, Scope, State, two_way
from swarmbus.provision.system import System

PASSWD = Path("/etc/passwd")
HOMES = Path("/var/lib")
_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")  # useradd(8)


@dataclass(frozen=True, kw_only=True)
class Account(Resource):
    """An account of that name; who is there already stays as he is.

    Its home is ``/var/lib/<name>``, so that everything of its installation is where a person would have it.
    """

    kind: ClassVar[str] = "account"
    guarded: ClassVar[bool] = False

    name: str

    @property
    def id(self) -> str:
        return f"account:{self.name}"

    @property
    def title(self) -> str:
        return f"create the service account {self.name}, with the home {self.home}"

    def undo_title(self, before: State) -> str:
        return f"remove the service account {self.name}, and its home {self.home}"

    @property
    def scope(self) -> Scope:
        return "root"

    @property
    def home(self) -> Path:
        """Of an account that we create."""
        return HOMES / self.name

    def read(self, system: System) -> State:
        lines = (system.read(PASSWD) or b"").decode(errors="replace").splitlines()
        return {"present": any(line.startswith(f"{self.name}:") for line in lines)}

    def wanted(self, system: System) -> State:
        return {"present": True}

    def compare(self, system: System, seen: State, owned: Owned | None, *, take: bool) -> Comparison:
        return two_way(seen, self.wanted(system), owned)

    def commands(self, system: System) -> list[Command]:
        self._check_name()
        add = ("/usr/sbin/useradd", "--system", "--user-group", "--no-create-home")
        home = ("/usr/bin/install", "-d", "-m", "0700", "-o", self.name, "-g", self.name, str(self.home))
        return [
            Command((*add, "--home-dir", str(self.home), "--shell", "/usr/sbin/nologin", self.name)),
            Command(home, inside=HOMES),
        ]

    def undo_commands(self, system: System, before: State, original: bytes | None) -> list[Command]:
        """Its home goes if it is empty; else it stays, for what is in it is messages."""
        self._check_name()
        if before["present"]:
            return self.commands(system)
        return [
            Command(("/usr/sbin/userdel", self.name)),
            Command(("/usr/bin/rmdir", "--", str(self.home)), inside=HOMES, may_fail=True),
        ]

    def _check_name(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise StorageError(f"{self.name!r} is not the name of an account")

    def record(self) -> dict[str, Any]:
        return {"name": self.name}

    @classmethod
    def from_record(cls, group: str, record: Mapping[str, Any]) -> Self:
        return cls(group=group, name=str(record["name"]))
