"""JSON text: change one member of an object, and leave every other character where it is."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from json.decoder import JSONDecodeError, JSONDecoder
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = JSONDecoder()


class NotEditableError(ValueError):
    """The text is no JSON, or something in it is not what it would have to be; the text says what."""


@dataclass(frozen=True, slots=True)
class Member:
    """``"name": value`` in the text.

    Attributes:
        start: Where the name's quote is.
        value: Where the value begins.
        end: Behind the value.
    """

    name: str
    start: int
    value: int
    end: int


def value_at(text: str, names: Sequence[str]) -> tuple[bool, Any]:
    """Whether there is such a member, and its value.

    Raises:
        NotEditableError: If the text is no JSON object, or what is on the way to the member is none.
    """
    found = _find(text, names)
    return (False, None) if found is None else (True, _DECODER.raw_decode(text, found.value)[0])


def raw_at(text: str, names: Sequence[str]) -> str | None:
    """The value as it is written; None if there is no such member."""
    found = _find(text, names)
    return None if found is None else text[found.value : found.end]


def without(text: str, names: Sequence[str]) -> str:
    """The text without that member; objects that are empty then stay."""
    found = _find(text, names)
    if found is None:
        return text
    members = _members(text, _object(text, names[:-1]))
    place = members.index(found)
    if place + 1 < len(members):
        return text[: found.start] + text[members[place + 1].start :]
    if place > 0:
        return text[: members[place - 1].end] + text[found.end :]
    opened, closed = _object(text, names[:-1]), _space(text, found.end)
    return text[: opened + 1] + text[closed:]


def with_raw(text: str, names: Sequence[str], raw: str) -> str:
    """The text with that member set to ``raw``, which is JSON; objects on the way are made.

    Args:
        raw: Its first line goes where the value goes; the other lines keep their own indentation.
    """
    if not text.strip():
        text = "{\n}\n"
    found = _find(text, names)
    if found is not None:
        return text[: found.value] + raw + text[found.end :]
    depth = len(names) - 1
    while depth and _find(text, names[:depth]) is None:
        depth -= 1
    for name in reversed(names[depth + 1 :]):
        raw = "{" + f"{json.dumps(name)}: {raw}" + "}"
    return _with_new(text, _object(text, names[:depth]), names[depth], raw)


def _with_new(text: str, opened: int, name: str, raw: str) -> str:
    members = _members(text, opened)
    member = f"{json.dumps(name, ensure_ascii=False)}: {raw}"
    if members:
        last = members[-1]
        before = members[-2].end if len(members) > 1 else opened
        space = re.sub(r"^\s*[,{]", "", text[before : last.start])
        return text[: last.end] + "," + (space or " ") + member + text[last.end :]
    closed = _space(text, opened + 1)
    line = text.rfind("\n", 0, opened) + 1
    indent = re.match(r"[ \t]*", text[line:])
    deeper = (indent[0] if indent else "") + "  "
    if "\n" not in text:
        return text[: opened + 1] + member + text[closed:]
    return f"{text[: opened + 1]}\n{deeper}{member}\n{deeper[:-2]}{text[closed:]}"


def _find(text: str, names: Sequence[str]) -> Member | None:
    place = _start(text)
    found: Member | None = None
    for depth, name in enumerate(names):
        if text[place : place + 1] != "{":
            where = ".".join(names[:depth]) or "the whole"
            raise NotEditableError(f"{where} is no JSON object")
        alike = [member for member in _members(text, place) if member.name == name]
        if len(alike) > 1:
            raise NotEditableError(f"{name!r} is there {len(alike)} times")
        if not alike:
            return None
        found = alike[0]
        place = found.value
    return found


def _object(text: str, names: Sequence[str]) -> int:
    """Where the brace of an object is that is known to be there."""
    if not names:
        return _start(text)
    found = _find(text, names)
    if found is None or text[found.value] != "{":
        raise NotEditableError(f"{'.'.join(names)} is no JSON object")
    return found.value


def _start(text: str) -> int:
    """Where the one value of the text begins, after it was parsed as a whole."""
    try:
        json.loads(text)
    except (JSONDecodeError, RecursionError) as error:
        raise NotEditableError(str(error)) from error
    return _space(text, 0)


def _members(text: str, opened: int) -> list[Member]:
    """The members of the object whose brace is at ``opened``; the text is known to be JSON."""
    members: list[Member] = []
    place = _space(text, opened + 1)
    while text[place] != "}":
        name, behind = _DECODER.raw_decode(text, place)
        value = _space(text, _space(text, behind) + 1)  # over the colon
        _, end = _DECODER.raw_decode(text, value)
        members.append(Member(name, place, value, end))
        place = _space(text, end)
        if text[place] == ",":
            place = _space(text, place + 1)
    return members


def _space(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    return place if match is None else match.end()
