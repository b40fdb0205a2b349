"""Times on the command line: printed for people, and read from what people write."""

from __future__ import annotations

import re
import sys
import time
from datetime import UTC, datetime
from typing import Final

from swarmbus.cli import output
from swarmbus.errors import UsageError

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGO = re.compile(r"(\d{1,6}) ?([smhdw])")


def iso(at: float) -> str:
    """Unix time as ISO 8601 in UTC, to the millisecond: ``2026-04-14T05:00:00.123Z``."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def shown(at: float | None, now: float | None = None) -> str:
    """Unix time for a reader: ``3 min ago`` on a terminal, `iso` elsewhere; ``-`` for None."""
    if at is None:
        return "-"
    return ago(at, now) if output.is_terminal(sys.stdout) else iso(at)


def ago(at: float, now: float | None = None) -> str:
    """How long ago a Unix time was, in its one fitting unit."""
    seconds = (time.time() if now is None else now) - at
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name} ago"
    return f"{max(seconds, 0):.0f} s ago"


def lasting(seconds: float) -> str:
    """A span of time: ``12 ms``, ``1.4 s``."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def from_iso(text: str | None) -> float | None:
    """Unix time of an ISO 8601 text, None if it is none."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None


def since(text: str, now: float | None = None) -> float:
    """Unix time of ``10m``, ``2h``, ``3d`` (ago), or of an ISO 8601 time; one without zone is local.

    Raises:
        UsageError: If it is neither.
    """
    if (found := _AGO.fullmatch(text)) is not None:
        return (time.time() if now is None else now) - int(found[1]) * _SECONDS[found[2]]
    if (at := from_iso(text)) is None:
        raise UsageError(
            f"--since: {text!r} is not a time", hint="write 10m, 2h, 3d, or 2026-04-14, or 2026-04-14T05:00Z"
        )
    return at


def span(text: str, option: str) -> float:
    """Seconds of ``30m``, ``12h``, ``7d``, ``2w``.

    Args:
        option: What it was given by, for the message.

    Raises:
        UsageError: If it is none, or over a year.
    """
    found = _AGO.fullmatch(text)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 0 < seconds <= 366 * 86_400:
        raise UsageError(f"{option}: {text!r} is no span of time up to a year", hint="write 30m, 12h or 7d")
    return float(seconds)
