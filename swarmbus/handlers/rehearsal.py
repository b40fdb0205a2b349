"""A rehearsal: all that a wake takes but the wake itself.

What runs in place of the wake command is `stand_in`, which looks whether the command could be started from
where it is; no model begins to think.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from swarmbus.handlers import stand_in
from swarmbus.handlers.runs import Ended

LIMIT: Final = 10.0
"""Seconds that the stand-in may take; it needs a twentieth of one."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """How one went.

    Attributes:
        milliseconds: From the order to the end.
        failure: Why a wake would fail, in words; None if it would not.
        unit: The systemd unit it ran in; None for a child process.
        refused: Why it was a child process where units are used; None if it was not.
    """

    milliseconds: float
    failure: str | None = None
    unit: str | None = None
    refused: str | None = None


async def rehearse(
    program: str, limit: float, run: Callable[[Sequence[str], float], Awaitable[Ended]]
) -> Rehearsal:
    """Rehearse.

    Args:
        program: Of the wake command.
        limit: Seconds that a wake may take.
        run: Runs program and arguments for so many seconds as a wake is run.
    """
    seconds = min(limit, LIMIT)
    began = time.monotonic()
    try:
        ended = await run([sys.executable, "-I", "-S", stand_in.__file__, program], seconds)
    except OSError as error:
        ended = Ended(None, cannot_start=f"{error.filename}: {error.strerror}")
    took = round((time.monotonic() - began) * 1000, 2)
    return Rehearsal(took, _failure(ended, seconds), ended.unit, ended.refused)


def _failure(ended: Ended, seconds: float) -> str | None:
    if ended.cannot_start is not None:
        return f"nothing can be started: {ended.cannot_start}"
    lines = ended.output.splitlines()
    match ended.cut_off:
        case "time":
            return f"what is started had not ended after {seconds:g} s"
        case "memory":
            return "what is started has no memory: invoke_memory is too little"
        case "stopped" | "lost":
            return "what is started is ended from outside"
        case None if not ended.status:
            return None
        case None if ended.status == stand_in.CANNOT_START and lines:
            return lines[-1]
        case None:
            return f"what is started ends with status {ended.status}{f': {lines[-1]}' if lines else ''}"
