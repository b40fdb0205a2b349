"""One key in a TOML file that is the user's: order, comments and everything else stay as they are."""
# ruff: noqa: D102 - documented once, in Resource

from __future__ import annotations

import tomllib
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import tomlkit
import tomlkit.exceptions

from swarmbus.errors import Conflict
from swarmbus.provision.command import temporary_name
from swarmbus.provision.resources.base import ABSENT, Comparison, Owned, Resource, State, Verb, three_way
from swarmbus.provision.resources.file import unified_diff
from swarmbus.provision.system import System

_NEW_FILE_MODE = 0o600  # the same file may get a password later


@dataclass(frozen=True, kw_only=True)
class TomlKey(Resource):
    """``[table] key = value``.

    A value in the file that differs is replaced: that something else is wanted means that the operator
    asked for it just now (`spec.merge` takes the file's word for everything else).

    Attributes:
        table: Names of the tables around it, outermost first; empty for the top level.
        only_if_missing: Whether any value that is there already will do.
    """

    kind: ClassVar[str] = "toml"

    path: Path
    table: tuple[str, ...]
    key: str
    value: str | int | bool
    only_if_missing: bool = False

    @property
    def id(self) -> str:
        return f"toml:{self.path}:{'.'.join((*self.table, self.key))}"

    @property
    def title(self) -> str:
        return f"set {'.'.join((*self.table, self.key))} in {self.path}"

    def undo_title(self, before: State) -> str:
        name = ".".join((*self.table, self.key))
        if before["present"]:
            return f"put {name} in {self.path} back as it was"
        return f"take {name} out of {self.path}"

    def read(self, system: System) -> State:
        data = system.read(self.path)
        if data is None:
            return ABSENT
        try:
            table: Any = tomllib.loads(data.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            return {"present": True, "unreadable": str(error)}
        for name in self.table:
            table = table.get(name, {})
            if not isinstance(table, dict):
                return {"present": True, "unreadable": f"{name} is not a table"}
        if self.key not in table:
            return ABSENT
        value = table[self.key]
        return {"present": True, "value": value if isinstance(value, str | int | bool) else str(value)}

    def wanted(self, system: System) -> State:
        return {"present": True, "value": self.value}

    def compare(self, system: System, seen: State, owned: Owned | None, *, take: bool) -> Comparison:
        if "unreadable" in seen:
            return Comparison(Verb.CONFLICT, f"cannot be parsed: {seen['unreadable']}", blocking=True)
        if self.only_if_missing and seen["present"] and owned is None:
            return Comparison(Verb.KEEP, "has a value already")
        easy = three_way(seen, self.wanted(system), owned, missing=not seen["present"])
        if easy is not None and not easy.verb.changes_host:
            return easy
        if easy is None and self.only_if_missing:
            return Comparison(Verb.KEEP, "has a value already")
        verb, reason = (easy.verb, easy.reason) if easy else (Verb.UPDATE, f"is {seen['value']!r}")
        old = (system.read(self.path) or b"").decode()
        return Comparison(verb, reason, unified_diff(old, self.edited(old), self.path, context=0))

    def original(self, system: System) -> bytes | None:
        return system.read(self.path)

    def realise(self, system: System) -> State:
        old = (system.read(self.path) or b"").decode()
        self._write(system, self.edited(old))
        return self.read(system)

    def undo(self, system: System, before: State, original: bytes | None) -> None:
        data = system.read(self.path)
        if data is None:
            if before["present"] and original is not None:
                self._write(system, original.decode())  # it went with its last key
            return
        text = data.decode()
        if original is not None and text in (
            self.edited(original.decode()),
            self._without(original.decode()),
        ):
            self._write(system, original.decode())
            return
        if before["present"]:
            self._write(system, self.edited(text, before["value"]))
            return
        rest = self._without(text)
        if original is None and not rest.strip():
            system.remove(self.path)
        elif original is not None and rest.split() == original.decode().split():
            self._write(system, original.decode())  # what is left of ours is the space around it
        else:
            self._write(system, rest)

    @property
    def leftovers(self) -> tuple[Path, ...]:
        return (temporary_name(self.path),)

    def record(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "table": list(self.table),
            "key": self.key,
            "value": self.value,
        }

    @classmethod
    def from_record(cls, group: str, record: Mapping[str, Any]) -> Self:
        return cls(
            group=group,
            path=Path(record["path"]),
            table=tuple(record["table"]),
            key=record["key"],
            value=record["value"],
        )

    def edited(self, text: str, value: str | int | bool | None = None) -> str:
        """The text of the file with the key in it; ``value`` instead of ours if it is given."""
        document = self._parse(text)
        table: MutableMapping[str, Any] = document
        for depth, name in enumerate(self.table):
            if name not in table:
                inner = depth + 1 < len(self.table)
                table[name] = tomlkit.table(is_super_table=inner)
            table = table[name]
        table[self.key] = self.value if value is None else value
        return tomlkit.dumps(document)

    def _without(self, text: str) -> str:
        """The text without the key, and without the tables that are empty for it."""
        document = self._parse(text)
        chain: list[MutableMapping[str, Any]] = [document]
        for name in self.table:
            if name not in chain[-1]:
                return text
            chain.append(chain[-1][name])
        chain[-1].pop(self.key, None)
        for name, outer, inner in zip(
            reversed(self.table), reversed(chain[:-1]), reversed(chain), strict=False
        ):
            if not inner:
                del outer[name]
        return tomlkit.dumps(document)

    def _parse(self, text: str) -> tomlkit.TOMLDocument:
        try:
            return tomlkit.parse(text)
        except tomlkit.exceptions.ParseError as error:
            raise Conflict(f"{self.path}: {error}", hint="mend that line, or move the file away") from error

    def _write(self, system: System, text: str) -> None:
        path, seen = self.path, system.stat(self.path)
        if seen is not None and seen.kind == "link":
            # Somebody keeps the file elsewhere, among other dotfiles: the link stays, its target is edited.
            path = (
                Path(str(seen.target)) if str(seen.target).startswith("/") else path.parent / str(seen.target)
            )
            seen = system.stat(path)
        mode = _NEW_FILE_MODE if seen is None else seen.mode
        system.write_file(path, text.encode(), mode=mode)
