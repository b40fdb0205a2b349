"""``swarmbus doctor --watch``: the report once, and from then on a line for whatever has changed.

Nothing is drawn anew, so nothing flickers, and what scrolled by can be read again, also in a file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Final, NoReturn

from swarmbus.cli import output
from swarmbus.cli.doctor_look import Asked, examine, show
from swarmbus.cli.doctor_text import COLOURS, headline
from swarmbus.errors import UsageError
from swarmbus.provision.report import Report, Result

_PAUSE: Final = 5.0
"""Seconds from the end of one look to the next: each sends a message for every agent."""


def watch(asked: Asked) -> NoReturn:
    """Until Ctrl-C.

    Raises:
        UsageError: If a format was asked for that is one document.
    """
    if asked.format not in ("text", "short"):
        raise UsageError(f"--watch and --format {asked.format}", hint="text or short")
    report = examine(asked)
    show(report, asked)
    while True:
        output.flush()
        time.sleep(_PAUSE)
        before, report = report, examine(asked)
        output.write_lines(changes(before, report))


def changes(before: Report, after: Report) -> Iterator[str]:
    """A line for each check and subject that has become another status, where one of the two is amiss."""
    at = datetime.fromtimestamp(after.time.timestamp()).strftime("%H:%M:%S")
    was, now = before.worst, after.worst
    for place in dict.fromkeys([*was, *now]):
        old, new = was.get(place), now.get(place)
        if new is None and old is not None and old.is_amiss:
            yield f"{at} {old.status} -> gone  {old.check.code}  {headline(old)}"
        elif new is not None and _differ(old, new):
            came = f"{old.status} -> " if old is not None else ""
            mark = output.paint(str(new.status), COLOURS[new.status])
            yield f"{at} {came}{mark}  {new.check.code}  {headline(new)}"


def _differ(old: Result | None, new: Result) -> bool:
    if old is None:
        return new.is_amiss
    return old.status is not new.status and (old.is_amiss or new.is_amiss)
