"""A command to be run for a message, how its run ended, and who runs it.

Two can: a child process of ours (`ChildRunner`), and a transient unit of the user's systemd (`unit_run`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from swarmbus.handlers.command_run import CommandRun

CutOff = Literal["time", "memory", "stopped", "lost"]


@dataclass(frozen=True, slots=True)
class Command:
    """What is to be run.

    Attributes:
        id: Names the run: one that outlived us is known again by it.
        argv: Program and arguments.
        variables: Its whole environment.
        body: What it finds on its standard input.
        seconds: How long it may take.
    """

    id: str
    argv: Sequence[str]
    variables: Mapping[str, str]
    body: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended.

    Attributes:
        status: Its exit status; negative: the signal that ended it; None: it was not started, or cut off.
        output: The last 4 KiB that it wrote to standard error or, if that is nothing, to standard output.
        cut_off: Why it was ended before it was done: its ``time`` was up, its ``memory``; it was ``stopped``
            from outside; or it is ``lost``, which is all that is known. None if it was not.
        cannot_start: Why it could not be started; None if it was.
        unit: The systemd unit it ran in; None for a child process.
        refused: Why it was a child process where units are used; None if it was not.
    """

    status: int | None
    output: str = ""
    cut_off: CutOff | None = None
    cannot_start: str | None = None
    unit: str | None = None
    refused: str | None = None


class Runner(Protocol):
    """Runs a command and waits for its end."""

    outlives_us: bool
    """Whether a run goes on when `run` is cancelled, and the next `run` of its id waits for its end; if not,
    it is ended with all that it started."""

    about: str
    """Where commands run, in words for whoever starts a listener."""

    async def run(self, command: Command) -> Ended:
        """Run one; several are not run at once."""
        raise NotImplementedError

    async def rehearse(self, command: Command) -> Ended:
        """Run one that is no wake the same way, beside one that is, and leave nothing behind."""
        raise NotImplementedError


class ChildRunner:
    """Runs commands as child processes."""

    outlives_us = False

    def __init__(self, about: str = "child processes of the listener") -> None:
        self.about = about

    async def run(self, command: Command) -> Ended:
        """See `Runner`."""
        run = CommandRun(command.argv, command.variables, command.body)
        try:
            status = await run.until_end(command.seconds)
        except TimeoutError:
            return Ended(None, run.output(), cut_off="time")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            return Ended(None, cannot_start=reason)
        return Ended(status, run.output())

    async def rehearse(self, command: Command) -> Ended:
        """See `Runner`."""
        return await self.run(command)
