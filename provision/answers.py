"""Answers of the two doors, `System` and `Bus`, as JSON and back.

What can come back is what their methods are declared to return, and errors: a file from elsewhere names no
other class, and a method that is added there needs nothing here.
"""

from __future__ import annotations

import builtins
import dataclasses
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from swarmbus.config import Settings
from swarmbus.errors import SwarmbusError
from swarmbus.provision.bus import Bus
from swarmbus.provision.system import System

_KIND: Final = "!"
_IS: Final = "is"


class NotRecordable(TypeError):
    """An answer that is more than data: a context manager, for instance."""


def to_json(value: Any) -> Any:
    """A value in JSON.

    Raises:
        NotRecordable: If it is more than data.
    """
    match value:
        case None | bool() | int() | float() | str():
            return value if not isinstance(value, str) else str(value)
        case bytes():
            return {_KIND: "bytes", _IS: value.decode("utf-8", "surrogateescape")}
        case Path():
            return {_KIND: "path", _IS: str(value)}
        case list():
            return [to_json(one) for one in value]
        case tuple():
            return {_KIND: "tuple", _IS: [to_json(one) for one in value]}
        case set() | frozenset():
            return {_KIND: "set", _IS: sorted((to_json(one) for one in value), key=repr)}
        case Settings():
            # Only in questions: as whom, where to. Never the password.
            return {_KIND: "settings", _IS: [value.agent_id, value.username, value.broker, value.port]}
        case Mapping():
            return {_KIND: "map", _IS: [[to_json(key), to_json(one)] for key, one in value.items()]}
        case SwarmbusError() | OSError():
            return _error_to_json(value)
    if dataclasses.is_dataclass(value) and type(value).__name__ in kinds():
        names = [field.name for field in dataclasses.fields(value)]
        return {_KIND: type(value).__name__, _IS: {name: to_json(getattr(value, name)) for name in names}}
    raise NotRecordable(type(value).__name__)


def from_json(value: Any) -> Any:
    """The value again.

    Raises:
        ValueError: If it is none of ours.
    """
    if isinstance(value, list):
        return [from_json(one) for one in value]
    if not isinstance(value, dict):
        return value
    inner = value.get(_IS)
    match value.get(_KIND):
        case "bytes":
            return str(inner).encode("utf-8", "surrogateescape")
        case "path":
            return Path(str(inner))
        case "tuple":
            return tuple(from_json(inner))
        case "set":
            return frozenset(from_json(inner))
        case "map":
            return {from_json(key): from_json(one) for key, one in inner or ()}
        case "error":
            return _error_from_json(inner)
        case str(name) if name in kinds():
            return kinds()[name](**{key: from_json(one) for key, one in (inner or {}).items()})
        case other:
            raise ValueError(f"there is nothing called {other!r} among the answers of a host")


@cache
def kinds() -> Mapping[str, type]:
    """The records that the doors' methods return, and what these hold, by name."""
    found: dict[str, type] = {}
    for door in (System, Bus):
        for name in vars(door):
            member = getattr(door, name)
            look = member.fget if isinstance(member, property) else member
            if not name.startswith("_") and callable(look):
                _collect(typing.get_type_hints(look).get("return"), found)
    return found


def _collect(hint: Any, found: dict[str, type]) -> None:
    for part in typing.get_args(hint):
        _collect(part, found)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and hint.__name__ not in found:
        found[hint.__name__] = hint
        for inner in typing.get_type_hints(hint).values():
            _collect(inner, found)


def _error_to_json(error: SwarmbusError | OSError) -> Any:
    rest = {name: to_json(one) for name, one in vars(error).items() if not name.startswith("_")}
    arguments = [to_json(one) for one in error.args]
    return {_KIND: "error", _IS: {"of": type(error).__name__, "args": arguments, "has": rest}}


def _error_from_json(inner: Any) -> SwarmbusError | OSError:
    name = inner["of"]
    builtin = getattr(builtins, name, None)
    if isinstance(builtin, type) and issubclass(builtin, OSError):
        again: OSError = builtin(*from_json(inner["args"]))
        return again
    kinds_of_ours: list[type[SwarmbusError]] = [SwarmbusError, *_below(SwarmbusError)]
    for kind in kinds_of_ours:
        if kind.__name__ == name:
            error = kind.__new__(kind, *from_json(inner["args"]))
            vars(error).update({key: from_json(one) for key, one in inner["has"].items()})
            return error
    raise ValueError(f"there is no error called {name!r}")


def _below(kind: type[SwarmbusError]) -> Iterator[type[SwarmbusError]]:
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)
