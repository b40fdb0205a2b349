"""A folder, with the folders above it that are missing."""
# ruff: noqa: D102 - documented once, in Resource

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from swarmbus.provision.resources.base import Comparison, Owned, Resource, State, Verb, three_way
from swarmbus.provision.system import System


@dataclass(frozen=True, kw_only=True)
class Directory(Resource):
    """A folder of the user's.

    Attributes:
        mode: What it must be; None if any will do, as for ``~/sync``, where a new one gets 0755.
    """

    kind: ClassVar[str] = "directory"
    guarded: ClassVar[bool] = False  # undo removes nothing that is not empty

    path: Path
    mode: int | None = None

    @property
    def id(self) -> str:
        return f"directory:{self.path}"

    @property
    def title(self) -> str:
        return f"make the folder {self.path}"

    def undo_title(self, before: State) -> str:
        if before["present"]:
            return f"put the folder {self.path} back as it was"
        return f"remove the folder {self.path}, if nothing else is in it"

    def read(self, system: System) -> State:
        seen = system.stat(self.path)
        if seen is not None and seen.kind == "link":
            # A link to a folder elsewhere, on a larger disk for instance, is the user's arrangement.
            leads_to_one = system.stat(self.path / "..") is not None
            return {"present": True, "mode": None} if leads_to_one else {"present": True, "kind": "link"}
        if seen is None:
            return {"present": False, "missing": len(self._missing(system))}
        if seen.kind != "directory":
            return {"present": True, "kind": seen.kind}
        return {"present": True, "mode": None if self.mode is None else f"{seen.mode:04o}"}

    def wanted(self, system: System) -> State:
        return {"present": True, "mode": None if self.mode is None else f"{self.mode:04o}"}

    def compare(self, system: System, seen: State, owned: Owned | None, *, take: bool) -> Comparison:
        wanted = self.wanted(system)
        if (easy := three_way(seen, wanted, owned, missing=not seen["present"])) is not None:
            return easy
        if "kind" in seen:
            return Comparison(Verb.CONFLICT, f"is a {seen['kind']}, not a folder", blocking=True)
        if seen["mode"] is not None and not int(seen["mode"], 8) & ~int(wanted["mode"], 8):
            reason = f"has the stricter mode {seen['mode']}; left as it is"
            return Comparison(Verb.KEEP, reason, remark=True)
        if seen["mode"] is None:
            return Comparison(Verb.KEEP, "leads elsewhere; left as it is")
        return Comparison(Verb.UPDATE, f"has mode {seen['mode']}, not {wanted['mode']}")

    def original(self, system: System) -> bytes | None:
        return json.dumps([str(folder) for folder in self._missing(system)]).encode()

    def realise(self, system: System) -> State:
        self._make_parents(system)
        system.make_dir(self.path, mode=0o755 if self.mode is None else self.mode)
        return self.read(system)

    def _make_parents(self, system: System) -> None:
        for folder in reversed(self.path.parents):
            if system.stat(folder) is None:
                # 0700 below a private folder and in the places of the XDG base directory specification
                system.make_dir(folder, mode=0o755 if self.mode is None else 0o700)

    def undo(self, system: System, before: State, original: bytes | None) -> None:
        if before["present"]:
            if before.get("mode") or system.stat(self.path) is None:
                mode = int(before.get("mode") or "0755", 8)
                self._make_parents(system)
                system.make_dir(self.path, mode=mode)
            return
        for folder in json.loads(original or b"[]"):
            if system.stat(Path(folder)) is not None and not system.remove_dir(Path(folder)):
                return  # somebody has put something there, and it stays

    def _missing(self, system: System) -> list[Path]:
        return [folder for folder in (self.path, *self.path.parents) if system.stat(folder) is None]

    def record(self) -> dict[str, Any]:
        return {"path": str(self.path), "mode": self.mode}

    @classmethod
    def from_record(cls, group: str, record: Mapping[str, Any]) -> Self:
        return cls(group=group, path=Path(record["path"]), mode=record["mode"])
