"""A whole file that is ours: a unit, a configuration file."""
# ruff: noqa: D102 - documented once, in Resource

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from swarmbus.errors import StorageError
from swarmbus.provision.command import Command, remove_commands, temporary_name, write_commands
from swarmbus.provision.resources.base import (
    ABSENT,
    Comparison,
    Owned,
    Resource,
    Scope,
    State,
    Verb,
    three_way,
)
from swarmbus.provision.system import System

_HEADER = re.compile(rb"\A(# written by swarmbus )\S+")
BESIDE = ".swarmbus-new"
ROOT_FOLDERS = (Path("/etc/mosquitto/conf.d"), Path("/etc/systemd/system"), Path("/etc/swarmbus"))
"""The only folders in which a file of root's is ever written; the journal is in the user's hands."""


@dataclass(frozen=True, kw_only=True)
class File(Resource):
    """A file whose every byte we decide.

    The version in its first line ("written by swarmbus 1.0.0") does not count when it is compared, so a
    new release does not touch a file, or restart what reads it, where nothing else is new in it.

    A drop-in's folder comes with it, and goes with it when nothing else is in it.

    Attributes:
        root: Whether it is root's.
        secret: Whether its content is kept out of diffs.
        judge: Raises `CannotRun` if the program that reads the file would not accept this content.
    """

    kind: ClassVar[str] = "file"

    path: Path
    content: str = field(repr=False)
    mode: int = 0o644
    root: bool = False
    secret: bool = False
    judge: Callable[[System, str], None] | None = field(default=None, compare=False)

    @property
    def id(self) -> str:
        return f"file:{self.path}"

    @property
    def title(self) -> str:
        return f"write {self.path}"

    def undo_title(self, before: State) -> str:
        return f"put {self.path} back as it was" if before["present"] else f"remove {self.path}"

    @property
    def scope(self) -> Scope:
        return "root" if self.root else "user"

    def read(self, system: System) -> State:
        seen = system.stat(self.path)
        if seen is None:
            return ABSENT
        if seen.kind != "file":
            return {"present": True, "kind": seen.kind, "target": seen.target}
        try:
            data = system.read(self.path)
        except StorageError:
            return {"present": True, "kind": "unreadable"}
        if data is None:
            return ABSENT
        return self._state(data, seen.mode, seen.uid, system)

    def wanted(self, system: System) -> State:
        return self._state(self.content.encode(), self.mode, 0 if self.root else system.user.uid, system)

    def compare(self, system: System, seen: State, owned: Owned | None, *, take: bool) -> Comparison:
        wanted = self.wanted(system)
        if (easy := three_way(seen, wanted, owned, missing=not seen["present"])) is not None:
            return easy if not easy.verb.changes_host else self._with_diff(system, easy.verb, easy.reason)
        if "sha256" not in seen:
            what = {"link": "a symbolic link", "unreadable": "not readable"}.get(
                seen["kind"], f"a {seen['kind']}"
            )
            if take and seen["kind"] == "link":
                return self._with_diff(system, Verb.UPDATE, "is a symbolic link, to be replaced as you asked")
            return Comparison(Verb.CONFLICT, f"is {what}")
        if seen["sha256"] == wanted["sha256"]:
            return self._compare_rights(seen, wanted, owned)
        if take:
            return self._with_diff(system, Verb.UPDATE, "taken over as you asked")
        if owned is not None and owned.state.get("sha256") == seen["sha256"]:
            return self._with_diff(system, Verb.UPDATE, "is ours, and something else is wanted now")
        if owned is not None and owned.state.get("sha256") == wanted["sha256"]:
            return Comparison(Verb.KEEP, "was changed since; left as it is", remark=True)
        reason = "was changed since, and something else is wanted now" if owned else "is not ours"
        return self._with_diff(system, Verb.CONFLICT, f"{reason}; --take {self.path} replaces it")

    def _compare_rights(self, seen: State, wanted: State, owned: Owned | None) -> Comparison:
        """Same content: whose rights count. More than ours is put right, less is somebody's choice."""
        if seen["uid"] != wanted["uid"]:
            return Comparison(Verb.UPDATE, f"belongs to user {seen['uid']}, not {wanted['uid']}")
        more = int(seen["mode"], 8) & ~int(wanted["mode"], 8)
        if more or (owned is not None and owned.state.get("mode") == seen["mode"]):
            return Comparison(Verb.UPDATE, f"has mode {seen['mode']}, not {wanted['mode']}")
        reason = f"was given the stricter mode {seen['mode']}; left as it is"
        return Comparison(Verb.KEEP, reason, remark=True)

    def _with_diff(self, system: System, verb: Verb, reason: str) -> Comparison:
        if self.secret:
            return Comparison(verb, reason, "(content not shown)\n")
        try:
            old = (system.read(self.path) or b"").decode(errors="replace")
        except StorageError:
            old = ""
        return Comparison(verb, reason, unified_diff(old, self.content, self.path))

    def validate(self, system: System) -> None:
        if self.judge is not None:
            self.judge(system, self.content)

    def lay_beside(self, system: System) -> None:
        if self.root:
            return  # its folder is read by the daemon: nothing but finished files goes there
        beside = self._beside
        if system.read(beside) != self.content.encode():
            system.write_file(beside, self.content.encode(), mode=0o600)

    def original(self, system: System) -> bytes | None:
        return system.read(self.path)

    def realise(self, system: System) -> State:
        if self._is_drop_in and system.stat(self.path.parent) is None:
            system.make_dir(self.path.parent)
        system.write_file(self.path, self.content.encode(), mode=self.mode)
        system.remove(self._beside)
        return self.read(system)

    def undo(self, system: System, before: State, original: bytes | None) -> None:
        if not before["present"]:
            system.remove(self.path)
            if self._is_drop_in:
                system.remove_dir(self.path.parent)
        elif original is not None and "sha256" in before:
            system.write_file(self.path, original, mode=int(before["mode"], 8))

    def commands(self, system: System) -> list[Command]:
        self._check_folder()
        data, folder = self.content.encode(), self.path.parent
        write = write_commands(self.path, data, mode=self.mode, owner=(0, 0), secret=self.secret)
        if not self._is_drop_in:
            return write
        make = ("/usr/bin/install", "-d", "-m", "0755", "-o", "0", "-g", "0", str(folder))
        return [Command(make, inside=folder.parent), *write]

    def undo_commands(self, system: System, before: State, original: bytes | None) -> list[Command]:
        self._check_folder()
        if not before["present"]:
            rmdir = Command(("/usr/bin/rmdir", "--", str(self.path.parent)), may_fail=True)
            return [*remove_commands(self.path), *([rmdir] if self._is_drop_in else [])]
        if original is None or "sha256" not in before:
            return []
        owner = (int(before["uid"]), int(before["gid"]))
        mode = int(before["mode"], 8)
        return write_commands(self.path, original, mode=mode, owner=owner, secret=self.secret)

    @property
    def leftovers(self) -> tuple[Path, ...]:
        return (temporary_name(self.path),)

    def record(self) -> dict[str, Any]:
        return {"path": str(self.path), "root": self.root, "secret": self.secret}

    @classmethod
    def from_record(cls, group: str, record: Mapping[str, Any]) -> Self:
        return cls(
            group=group,
            path=Path(record["path"]),
            content="",
            root=bool(record["root"]),
            secret=bool(record.get("secret")),
        )

    @property
    def _is_drop_in(self) -> bool:
        return self.path.parent.name.endswith(".service.d")  # systemd.unit(5)

    @property
    def _beside(self) -> Path:
        return self.path.with_name(f"{self.path.name}{BESIDE}")

    def _check_folder(self) -> None:
        inside = (
            any(self.path.is_relative_to(folder) for folder in ROOT_FOLDERS) and ".." not in self.path.parts
        )
        if not inside:
            raise StorageError(f"{self.path} is in no folder in which swarmbus writes as root")

    def _state(self, data: bytes, mode: int, uid: int, system: System) -> State:
        gid = 0 if self.root else system.user.gid
        digest = hashlib.sha256(_HEADER.sub(rb"\1VERSION", data)).hexdigest()
        return {"present": True, "sha256": digest, "mode": f"{mode:04o}", "uid": uid, "gid": gid}


def unified_diff(old: str, new: str, path: Path, context: int = 3) -> str:
    """From ``old`` to ``new`` as ``diff -u`` prints it; an empty ``old`` is shown as /dev/null."""
    lines = difflib.unified_diff(
        old.splitlines(keepends=True),
        new.splitlines(keepends=True),
        str(path) if old else "/dev/null",
        str(path),
        n=context,
    )
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )
