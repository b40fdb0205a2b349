"""Command line of the existing tool: which of its commands it is, and the settings that it gives."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

from swarmbus.provision.unit_file import NotUnderstoodError

_VALUES: Final = frozenset(
    {
        "agent_id",
        "broker",
        "port",
        "inbox",
        "invoke",
        "username",
        "password",
        "ca_cert",
        "client_cert",
        "client_key",
        "state_dir",
    }
)
_FLAGS: Final = {
    "--persistent": ("persistent", "1"),
    "--no-persistent": ("persistent", "0"),
    "--presence": ("presence", "1"),
    "--no-presence": ("presence", "0"),
    "--tls": ("tls", "1"),
    "--no-tls": ("tls", "0"),
}
_COMMANDS: Final = ("start", "mcp-server")


@dataclass(frozen=True)
class OldCommand:
    """``swarmbus start …`` or ``swarmbus mcp-server …``.

    Attributes:
        program: The words before the command: an interpreter, and the script or module.
        options: As given, by the name of the setting; flags as ``1`` and ``0``.
    """

    program: tuple[str, ...]
    what: str
    options: Mapping[str, str] = field(repr=False)

    @property
    def agent_id(self) -> str | None:
        """None if it is not given."""
        return self.options.get("agent_id")

    @property
    def broker(self) -> str:
        """Host name or address."""
        return self.options.get("broker", "localhost")

    @property
    def port(self) -> int:
        """TCP port."""
        return int(self.options.get("port", "1883"))

    @property
    def persistent(self) -> bool:
        """Whether the broker keeps its session."""
        return self.options.get("persistent", "1") == "1"


def old_command(words: Sequence[str]) -> OldCommand | None:
    """Take a command line apart; None if it is not one of the two commands.

    Raises:
        NotUnderstoodError: If it is, and has an option that no release knows.
    """
    place = _place_of_command(words)
    if place is None:
        return None
    options: dict[str, str] = {}
    rest = iter(words[place + 1 :])
    for word in rest:
        if word in _FLAGS:
            name, value = _FLAGS[word]
            options[name] = value
            continue
        option, equals, value = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if not option.startswith("--") or name not in _VALUES:
            raise NotUnderstoodError(f"its ExecStart= has {option!r}, which the existing tool does not know")
        if not equals and (following := next(rest, None)) is not None:
            value = following
        options[name] = value
    if not options.get("port", "1").isdigit():
        raise NotUnderstoodError(f"its --port is {options['port']!r}")
    return OldCommand(tuple(words[:place]), words[place], options)


def _place_of_command(words: Sequence[str]) -> int | None:
    """Of ``start`` in ``swarmbus start``, ``/x/python /x/swarmbus start``, ``python -m swarmbus start``."""
    for place, word in enumerate(words[:6]):
        if word in _COMMANDS and _is_program(words[:place]):
            return place
    return None


def _is_program(words: Sequence[str]) -> bool:
    names = [PurePosixPath(word).name for word in words]
    if names[:1] == ["env"]:
        names = names[1:]
    if names == ["swarmbus"]:
        return True
    if not names or re.fullmatch(r"python[0-9.]*", names[0]) is None:
        return False
    # Ours has -I before the module.
    return names[1:] in (["swarmbus"], ["-m", "swarmbus"], ["-m", "swarmbus.cli"])
