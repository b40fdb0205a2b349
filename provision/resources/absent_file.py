"""A file that is to be away: somebody else's, whose place is taken by something of ours."""
# ruff: noqa: D102 - documented once, in Resource

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from swarmbus.provision.resources.base import ABSENT, Comparison, Owned, Resource, State, Verb
from swarmbus.provision.resources.file import unified_diff
from swarmbus.provision.system import System


@dataclass(frozen=True, kw_only=True)
class AbsentFile(Resource):
    """A file of the user's that is taken away; undoing this brings it back.

    Attributes:
        why: For the plan: what has become of what it said.
        secret: Whether its content is kept out of diffs.
    """

    kind: ClassVar[str] = "absent"

    path: Path
    why: str = ""
    secret: bool = False

    @property
    def id(self) -> str:
        return f"absent:{self.path}"

    @property
    def title(self) -> str:
        return f"take away {self.path}"

    def undo_title(self, before: State) -> str:
        return f"bring back {self.path}"

    def read(self, system: System) -> State:
        seen = system.stat(self.path)
        if seen is None:
            return ABSENT
        if seen.kind != "file":
            return {"present": True, "kind": seen.kind}
        digest = hashlib.sha256(system.read(self.path) or b"").hexdigest()
        return {"present": True, "sha256": digest, "mode": f"{seen.mode:04o}"}

    def wanted(self, system: System) -> State:
        return ABSENT

    def compare(self, system: System, seen: State, owned: Owned | None, *, take: bool) -> Comparison:
        if not seen["present"]:
            return Comparison(Verb.KEEP, "is not there")
        if "sha256" not in seen:
            return Comparison(Verb.CONFLICT, f"is a {seen['kind']}, not a file", blocking=True)
        if self.secret:
            return Comparison(Verb.UPDATE, self.why, "(content not shown)\n")
        old = (system.read(self.path) or b"").decode(errors="replace")
        return Comparison(Verb.UPDATE, self.why, unified_diff(old, "", self.path))

    def original(self, system: System) -> bytes | None:
        return system.read(self.path)

    def realise(self, system: System) -> State:
        system.remove(self.path)
        return self.read(system)

    def undo(self, system: System, before: State, original: bytes | None) -> None:
        if not before["present"]:
            system.remove(self.path)
        elif original is not None:
            system.write_file(self.path, original, mode=int(before["mode"], 8))

    def record(self) -> dict[str, Any]:
        return {"path": str(self.path)}

    @classmethod
    def from_record(cls, group: str, record: Mapping[str, Any]) -> Self:
        return cls(group=group, path=Path(record["path"]))
