"""Unit file: what systemd reads in one, after systemd.syntax(7) and systemd.service(5).

Only as far as somebody else's service can be understood by it; ours are rendered, and judged by systemd.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

_LINE = re.compile(r"\s*([A-Za-z][A-Za-z0-9-]*)\s*=(.*)", re.DOTALL)
_CHARACTER = re.compile(
    r"\\(?P<hex>x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})|\\(?P<octal>[0-7]{3})"
    r"|\\(?P<escaped>.)|(?P<plain>.)",
    re.DOTALL,
)
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "s": " "}
_VARIABLE = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_WHOLE_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")


class NotUnderstoodError(ValueError):
    """Something that systemd may understand, and this does not; the text says what."""


@dataclass(frozen=True, slots=True)
class Setting:
    """``Name=value`` in a section.

    Attributes:
        value: As written, continued lines joined by a blank.
        torn: Whether lines that began with ``--`` were joined to it: they had lost the backslash before
            them, and systemd ignores them.
    """

    section: str
    name: str
    value: str
    torn: bool = False


def parse(text: str) -> list[Setting]:
    """All settings in order; what is none is left out."""
    found: list[Setting] = []
    section = ""
    for line in _joined(text.splitlines()):
        if line.startswith("["):
            section = line.strip().strip("[]")
        elif found and line.lstrip().startswith("--") and found[-1].section == section:
            last = found[-1]
            found[-1] = Setting(section, last.name, f"{last.value} {line.strip()}", torn=True)
        elif match := _LINE.match(line):
            found.append(Setting(section, match[1], match[2].strip()))
    return found


def effective(settings: Iterable[Setting], section: str, name: str) -> list[Setting]:
    """Those of a name that are in force: an empty value forgets the ones before it."""
    found: list[Setting] = []
    for setting in settings:
        if (setting.section, setting.name) == (section, name):
            found = [*found, setting] if setting.value else []
    return found


def split_words(value: str) -> list[str]:
    """The words of a value, its quotes and escapes taken away.

    Raises:
        NotUnderstoodError: If a quote is not closed.
    """
    words: list[str] = []
    word: str | None = None
    quote = ""
    for match in _CHARACTER.finditer(value):
        plain = match["plain"]
        if plain is None:
            word = (word or "") + _unescaped(match)
        elif quote and plain == quote:
            quote = ""
        elif not quote and plain in "\"'":
            quote, word = plain, word or ""
        elif not quote and plain.isspace():
            words += [word] if word is not None else []
            word = None
        else:
            word = (word or "") + plain
    if quote:
        raise NotUnderstoodError(f"a quote is not closed in {value!r}")
    return [*words, word] if word is not None else words


def fill_in_specifiers(word: str, specifiers: Mapping[str, str]) -> str:
    """``%h`` and its like.

    Raises:
        NotUnderstoodError: If there is one that ``specifiers`` does not have.
    """

    def one(match: re.Match[str]) -> str:
        if match[1] not in specifiers:
            raise NotUnderstoodError(f"%{match[1]} in {word!r}")
        return specifiers[match[1]]

    return re.sub(r"%(.)", one, word)


def fill_in_variables(words: Iterable[str], environment: Mapping[str, str]) -> list[str]:
    """``${NAME}`` inside words, and words that are ``$NAME`` and become any number of words."""
    filled: list[str] = []
    for word in words:
        if whole := _WHOLE_VARIABLE.fullmatch(word):
            filled += environment.get(whole[1], "").split()
        else:
            filled.append(
                _VARIABLE.sub(lambda match: environment.get(match[1], "") if match[1] else "$", word)
            )
    return filled


def parse_environment_file(text: str) -> Iterator[tuple[str, str]]:
    """The assignments of an ``EnvironmentFile=``."""
    for line in _joined(text.splitlines()):
        name, equals, value = line.strip().partition("=")
        if equals and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name.strip()):
            value = value.strip()
            if value[:1] in ("'", '"') and value[-1:] == value[:1] and len(value) > 1:
                value = value[1:-1]
            yield name.strip(), value


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """Lines with those that continue them; comments, also those in between, and empty lines left out."""
    begun = ""
    for line in lines:
        if line.lstrip()[:1] in ("#", ";"):
            continue
        if line.endswith("\\"):
            begun += line[:-1] + " "
        elif line.strip() or begun:
            yield begun + line
            begun = ""
    if begun:
        yield begun


def _unescaped(match: re.Match[str]) -> str:
    if match["hex"] is not None:
        return chr(int(match["hex"][1:], 16))
    if match["octal"] is not None:
        return chr(int(match["octal"], 8))
    letter: str = match["escaped"]
    if letter in "\\\"'":
        return letter
    return _ESCAPES.get(letter, f"\\{letter}")  # what is no escape stays, backslash and all
