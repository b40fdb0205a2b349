"""Version numbers of Debian packages, compared as dpkg does (deb-version(7))."""

from __future__ import annotations

import re
from itertools import zip_longest


def older(one: str, other: str) -> bool:
    """Whether the one comes before the other: ``dpkg --compare-versions ONE lt OTHER``."""
    return _key(one) < _key(other)


class _Part:
    """A part of a version: texts and numbers in turn, beginning with a text."""

    def __init__(self, text: str) -> None:
        self._pieces = re.findall(r"(\D*)(\d*)", text)

    def __lt__(self, other: _Part) -> bool:
        return self._compare(other) < 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Part) and self._compare(other) == 0

    __hash__ = None  # type: ignore[assignment]

    def _compare(self, other: _Part) -> int:
        for (text, number), (text2, number2) in zip_longest(self._pieces, other._pieces, fillvalue=("", "")):
            for letter, letter2 in zip_longest(text, text2, fillvalue=""):
                if _rank(letter) != _rank(letter2):
                    return _rank(letter) - _rank(letter2)
            if int(number or 0) != int(number2 or 0):
                return int(number or 0) - int(number2 or 0)
        return 0


def _rank(letter: str) -> int:
    """A tilde before the end, the end before letters, letters before all else."""
    if letter == "~":
        return -1
    if not letter:
        return 0
    return ord(letter) if letter.isalpha() else ord(letter) + 256


def _key(version: str) -> tuple[int, _Part, _Part]:
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    if not dash:
        upstream, revision = rest, "0"
    return int(epoch) if epoch.isdigit() else 0, _Part(upstream), _Part(revision)
