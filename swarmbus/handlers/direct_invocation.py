"""Waking an agent: a command is run for each message.

The message's body is on its standard input, the other fields are in its environment, as with the existing
tool: ``SWARMBUS_FROM``, ``_TO``, ``_ID``, ``_SUBJECT``, ``_CONTENT_TYPE``, ``_PRIORITY``, ``_TS``, and
``_REPLY_TO`` if there is one. Ours are ``SWARMBUS_IN_REPLY_TO``, if there is one, and
``SWARMBUS_VERIFIED``: ``yes`` or ``no``; ``SWARMBUS_HOPS`` and ``SWARMBUS_THREAD`` are passed on by what is
sent from there (`swarmbus.hops`).
"""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from swarmbus import hops
from swarmbus.errors import SwarmbusError, UsageError
from swarmbus.handlers.base import BaseHandler
from swarmbus.handlers.rehearsal import Rehearsal, rehearse
from swarmbus.handlers.runs import ChildRunner, Command, Ended, Runner
from swarmbus.inbox_file import one_line

if TYPE_CHECKING:
    from swarmbus.envelope import AgentMessage

DEFAULT_TIMEOUT: Final = 600.0
_VARIABLES: Final = (
    "SWARMBUS_FROM",
    "SWARMBUS_TO",
    "SWARMBUS_ID",
    "SWARMBUS_SUBJECT",
    "SWARMBUS_CONTENT_TYPE",
    "SWARMBUS_PRIORITY",
    "SWARMBUS_TS",
    "SWARMBUS_REPLY_TO",
    "SWARMBUS_IN_REPLY_TO",
    "SWARMBUS_VERIFIED",
    hops.HOPS,
    hops.THREAD,
)
# What systemd told us about our own unit (systemd.exec(5)): a wake is not the one to answer it.
_OF_OUR_UNIT: Final = (
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "SYSTEMD_EXEC_PID",
    "MAINPID",
)


class InvocationFailed(SwarmbusError):
    """The command could not be run, took too long, or said by its exit status that it failed.

    Args:
        status: Its exit status; negative: the signal that ended it; None: it was not started, or had to be
            ended.
        output: The last 4 KiB that it wrote to standard error or, if that is empty, to standard output.
    """

    code = "invocation-failed"

    def __init__(
        self, message: str, *, hint: str | None = None, status: int | None = None, output: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.output = output


class DirectInvocationHandler(BaseHandler):
    """Run a command for each message, one after the other.

    No shell is involved. A command that fails is run again as every handler is (see `BaseHandler`).
    What it leaves running in the background when it ends well is left alone; in a unit, until the unit's
    time is up. A child process is ended when the listener is stopped and not done 20 seconds later; one in
    a unit goes on, and the next listener takes up its result.

    Args:
        cmd: Program and arguments; a string is split as a shell would, nothing in it is expanded but a
            ``~`` at the start of the program.
        timeout: Seconds after which the command, with every process it started, gets SIGTERM, and 5 seconds
            later SIGKILL.
        max_attempts: After that many failures the message becomes a dead letter.
        runner: Who runs it; None for child processes.

    Raises:
        UsageError: If ``cmd`` is empty or its quotes do not match.
    """

    name = "invoke"

    def __init__(
        self,
        cmd: str | Sequence[str],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_attempts: int = 5,
        runner: Runner | None = None,
    ) -> None:
        self._argv = split_command(cmd)
        self._limit = timeout  # BaseHandler.timeout is the dispatcher's, which would not know how to end it
        self._runner = runner or ChildRunner()
        self.max_attempts = max_attempts
        self.drains = not self._runner.outlives_us

    async def handle(self, msg: AgentMessage) -> None:
        """Run the command and wait for its end.

        Raises:
            InvocationFailed: If it could not be run, ended with another status than 0, or was cut off.
        """
        await self.run(msg, {})

    async def run(self, msg: AgentMessage, more: Mapping[str, str]) -> None:
        """The same, with ``more`` in the command's environment."""
        body = msg.body.encode("utf-8", "replace")
        ended = await self._runner.run(
            Command(msg.id, self._argv, {**environment(msg), **more}, body, self._limit)
        )
        if (failure := self._failure(ended)) is not None:
            raise failure

    async def rehearse(self, msg: AgentMessage, more: Mapping[str, str]) -> Rehearsal:
        """Go the whole way of a `run`, with a program of ours in place of the command."""

        async def run(argv: Sequence[str], seconds: float) -> Ended:
            variables = {**environment(msg), **more}
            return await self._runner.rehearse(Command(msg.id, argv, variables, b"", seconds))

        return await rehearse(self._argv[0], self._limit, run)

    def _failure(self, ended: Ended) -> InvocationFailed | None:
        what = shlex.join(self._argv)
        if ended.cannot_start is not None:
            return InvocationFailed(
                f"cannot run {what}: {ended.cannot_start}",
                hint="give the full path of an executable file; its first line must name an interpreter",
            )
        lines = ended.output.splitlines()
        last_words = f": {lines[-1][-200:]}" if lines else ""
        hint: str | None = None
        match ended.cut_off:
            case "time":
                how = f"took longer than {self._limit:g} s and was ended"
                hint = "give it more time with invoke_timeout"
            case "memory":
                how = "needed more memory than a wake may have and was ended"
                hint = "give it more with invoke_memory (MiB), or 0 for no limit"
            case "stopped":
                how = "was stopped from outside"
            case "lost":
                how = "is gone, and nothing says how it ended"
                hint = f"see journalctl --user -u {ended.unit}"
            case None:
                if not ended.status:
                    return None
                how = f"exited {ended.status}"
                if ended.status < 0:
                    how = f"was ended by {_signal_name(-ended.status)}"
        return InvocationFailed(
            f"{what} {how}{last_words}", hint=hint, status=ended.status, output=ended.output
        )


def split_command(cmd: str | Sequence[str]) -> list[str]:
    """Program and arguments of a command as it stands in a setting.

    Raises:
        UsageError: If there is none, or its quotes do not match.
    """
    try:
        argv = shlex.split(cmd) if isinstance(cmd, str) else [str(part) for part in cmd]
    except ValueError as error:
        raise UsageError(f"cannot read the command {cmd!r}: {error}", hint="close every quote") from error
    if not argv or not argv[0]:
        raise UsageError(
            "the command to invoke is empty", hint="name a program, such as '/path/to/wake.sh planner'"
        )
    if argv[0].startswith("~"):
        with suppress(RuntimeError):  # no such user: let the start of the program say so
            argv[0] = str(Path(argv[0]).expanduser())
    return argv


def environment(msg: AgentMessage) -> dict[str, str]:
    """Our own environment, with the message's fields; each of them one line, nothing in it hidden."""
    fields = {
        "SWARMBUS_FROM": msg.from_agent,
        "SWARMBUS_TO": msg.to,
        "SWARMBUS_ID": msg.id,
        "SWARMBUS_SUBJECT": msg.subject,
        "SWARMBUS_CONTENT_TYPE": msg.content_type,
        "SWARMBUS_PRIORITY": msg.priority,
        "SWARMBUS_TS": msg.ts.isoformat(),
        "SWARMBUS_REPLY_TO": msg.reply_to,
        "SWARMBUS_IN_REPLY_TO": msg.in_reply_to,
        "SWARMBUS_VERIFIED": "yes" if msg.verified else "no",
        **hops.told(msg),
    }
    # Of a message that has no reply_to, the one that we may have been started with must not be seen.
    not_theirs = (*_VARIABLES, *_OF_OUR_UNIT)
    inherited = {name: value for name, value in os.environ.items() if name not in not_theirs}
    return inherited | {name: one_line(value) for name, value in fields.items() if value is not None}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
