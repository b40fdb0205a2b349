"""One key in a JSON file that is somebody else's: order, spaces and everything else stay as they are."""
# ruff: noqa: D102 - documented once, in Resource

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from swarmbus.errors import Conflict
from swarmbus.provision.command import temporary_name
from swarmbus.provision.resources.base import ABSENT, Comparison, Owned, Resource, State, Verb
from swarmbus.provision.resources.file import unified_diff
from swarmbus.provision.resources.json_text import NotEditableError, raw_at, value_at, with_raw, without
from swarmbus.provision.system import System

_NEW_FILE_MODE = 0o600  # the environment of a program in it may hold a password


@dataclass(frozen=True, kw_only=True)
class JsonKey(Resource):
    """A member of an object in the file.

    A file that is no JSON (or JSON with comments) is never touched, and what else is to be done is done all
    the same.

    Attributes:
        names: From the outermost object inwards: ``("mcpServers", "swarmbus")``.
        value: What it is to be, as JSON text; None if it is not to be there.
        why: For the plan.
        secret: Whether its content is kept out of diffs.
    """

    kind: ClassVar[str] = "json"

    path: Path
    names: tuple[str, ...]
    value: str | None = field(default=None, repr=False)
    why: str = ""
    secret: bool = False

    @property
    def id(self) -> str:
        return f"json:{self.path}:{'.'.join(self.names)}"

    @property
    def title(self) -> str:
        verb, where = ("set", "in") if self.value is not None else ("take", "out of")
        return f"{verb} {'.'.join(self.names)} {where} {self.path}"

    def undo_title(self, before: State) -> str:
        name = ".".join(self.names)
        if before["present"]:
            return f"put {name} in {self.path} back as it was"
        return f"take {name} out of {self.path}"

    def read(self, system: System) -> State:
        data = system.read(self.path)
        if data is None or not data.strip():
            return ABSENT
        try:
            present, value = value_at(data.decode(), self.names)
        except (NotEditableError, UnicodeDecodeError) as error:
            return {"present": True, "unreadable": str(error)}
        return {"present": True, "sha256": _digest(value)} if present else ABSENT

    def wanted(self, system: System) -> State:
        if self.value is None:
            return ABSENT
        return {"present": True, "sha256": _digest(json.loads(self.value))}

    def compare(self, system: System, seen: State, owned: Owned | None, *, take: bool) -> Comparison:
        if "unreadable" in seen:
            return Comparison(Verb.CONFLICT, f"cannot be parsed, and is left as it is: {seen['unreadable']}")
        if seen == self.wanted(system):
            if seen["present"] and owned is None:
                return Comparison(Verb.ADOPT, "already there")
            return Comparison(Verb.KEEP, "as it should be")
        changed = owned is not None and seen != owned.state
        if changed and self.value is not None and seen["present"] and not take:
            return Comparison(Verb.KEEP, "was changed since; left as it is", remark=True)
        verb = Verb.UPDATE if seen["present"] else Verb.CREATE
        reason = self.why or ("is another one" if seen["present"] else "is missing")
        if self.secret:
            return Comparison(verb, reason, "(content not shown)\n")
        old = (system.read(self.path) or b"").decode()
        return Comparison(verb, reason, unified_diff(old, self.edited(old), self.path))

    def original(self, system: System) -> bytes | None:
        return system.read(self.path)

    def realise(self, system: System) -> State:
        self._write(system, self.edited((system.read(self.path) or b"").decode()))
        return self.read(system)

    def undo(self, system: System, before: State, original: bytes | None) -> None:
        data = system.read(self.path)
        if data is None:
            return
        text = data.decode()
        if (original is not None and self.value is None and self.edited(original.decode()) == text) or (
            original is not None and self.value is not None and self._is_mine(original.decode(), text)
        ):
            self._write(system, original.decode())
        elif before["present"]:
            raw = raw_at((original or b"").decode(), self.names)
            if raw is not None:
                self._write(system, with_raw(text, self.names, raw))
        else:
            self._take_out(system, text, original)

    @property
    def leftovers(self) -> tuple[Path, ...]:
        return (temporary_name(self.path),)

    def record(self) -> dict[str, Any]:
        return {"path": str(self.path), "names": list(self.names), "gone": self.value is None}

    @classmethod
    def from_record(cls, group: str, record: Mapping[str, Any]) -> Self:
        value = None if record["gone"] else "null"
        return cls(group=group, path=Path(record["path"]), names=tuple(record["names"]), value=value)

    def edited(self, text: str) -> str:
        """The text of the file as we want it.

        Raises:
            Conflict: If it cannot be parsed (any more).
        """
        try:
            if self.value is None:
                return without(text, self.names)
            return with_raw(text, self.names, self.value)
        except NotEditableError as error:
            raise Conflict(
                f"{self.path}: {error}", hint="mend the file; nothing in it was changed"
            ) from error

    def _is_mine(self, original: str, text: str) -> bool:
        """Whether only our key was changed; its value is not in the manifest, but in the text it is."""
        raw = raw_at(text, self.names)
        return raw is not None and with_raw(original, self.names, raw) == text

    def _take_out(self, system: System, text: str, original: bytes | None) -> None:
        """The key out again, with the objects around it that were not there for anything else."""
        text = without(text, self.names)
        before = original.decode() if original is not None else "{}"
        for depth in range(len(self.names) - 1, 0, -1):
            outer = self.names[:depth]
            if value_at(text, outer) == (True, {}) and not value_at(before or "{}", outer)[0]:
                text = without(text, outer)
        if original is None and json.loads(text) == {}:
            system.remove(self.path)
        else:
            self._write(system, text)

    def _write(self, system: System, text: str) -> None:
        path, seen = self.path, system.stat(self.path)
        if seen is not None and seen.kind == "link":  # kept among other dotfiles: the link stays
            path = path.parent / str(seen.target)
            seen = system.stat(path)
        system.write_file(path, text.encode(), mode=_NEW_FILE_MODE if seen is None else seen.mode)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
