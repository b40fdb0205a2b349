"""What a broker tells of itself below ``$SYS/broker/``; a value that is not there is unknown, never 0."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

PREFIX: Final = "$SYS/broker/"


class SysTopics:
    """The topics without their prefix.

    mosquitto before 2.0.16 lets each expire 60 s after its value last changed.

    Args:
        values: By whole topic.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = {
            topic.removeprefix(PREFIX): value for topic, value in values.items() if topic.startswith(PREFIX)
        }

    def __bool__(self) -> bool:
        return bool(self._values)

    def number(self, name: str) -> float | None:
        """A number; None if it is not known."""
        try:
            return float(self._values[name])
        except (KeyError, ValueError):
            return None

    @property
    def version(self) -> str | None:
        """``2.0.11`` of ``mosquitto version 2.0.11``; None if it is not known, or another broker's."""
        found = re.search(r"mosquitto version (\d[\w.]*)", self._values.get("version", ""))
        return found[1] if found else None

    def bridges(self) -> dict[str, bool]:
        """By name whether each bridge has its connection."""
        names = (re.fullmatch(r"connection/(.+)/state", name) for name in self._values)
        return {name[1]: self._values[name[0]] == "1" for name in names if name is not None}
