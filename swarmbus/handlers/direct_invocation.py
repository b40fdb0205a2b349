"""Waking an agent: a command is run for each message.

The message's body is on its standard input, the other fields are in its environment, as with the existing
tool: ``SWARMBUS_FROM``, ``_TO``, ``_ID``, ``_SUBJECT``, ``_CONTENT_TYPE``, ``_PRIORITY``, ``_TS``, and
``_REPLY_TO`` if there is one. Ours are ``SWARMBUS_IN_REPLY_TO``, if there is one, and
``SWARMBUS_VERIFIED``: ``yes`` or ``no``.
"""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from swarmbus.errors import SwarmbusError, UsageError
from swarmbus.handlers.base import BaseHandler
from swarmbus.handlers.command_run import CommandRun
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
    What it leaves running in the background when it ends well is left alone.

    Args:
        cmd: Program and arguments; a string is split as a shell would, nothing in it is expanded but a
            ``~`` at the start of the program.
        timeout: Seconds after which the command, with every process it started, gets SIGTERM, and 5 seconds
            later SIGKILL.
        max_attempts: After that many failures the message becomes a dead letter.

    Raises:
        UsageError: If ``cmd`` is empty or its quotes do not match.
    """

    name = "invoke"

    def __init__(
        self, cmd: str | Sequence[str], *, timeout: float = DEFAULT_TIMEOUT, max_attempts: int = 5
    ) -> None:
        self._argv = split_command(cmd)
        self._limit = timeout  # BaseHandler.timeout is the dispatcher's, which would not know how to end it
        self.max_attempts = max_attempts

    async def handle(self, msg: AgentMessage) -> None:
        """Run the command and wait for its end.

        Raises:
            InvocationFailed: If it could not be run, ended with another status than 0, or took too long.
        """
        run = CommandRun(self._argv, environment(msg), msg.body.encode("utf-8", "replace"))
        try:
            status = await run.until_end(self._limit)
        except TimeoutError as error:
            raise InvocationFailed(
                f"{self._command} took longer than {self._limit:g} s and was ended{run.last_words()}",
                hint="give it more time with invoke_timeout, or let it work in the background",
                output=run.output(),
            ) from error
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise InvocationFailed(
                f"cannot run {self._command}: {reason}",
                hint="give the full path of an executable file; its first line must name an interpreter",
            ) from error
        if status != 0:
            how = f"exited {status}" if status > 0 else f"was ended by {_signal_name(-status)}"
            raise InvocationFailed(
                f"{self._command} {how}{run.last_words()}", status=status, output=run.output()
            )

    @property
    def _command(self) -> str:
        return shlex.join(self._argv)


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
    }
    # Of a message that has no reply_to, the one that we may have been started with must not be seen.
    inherited = {name: value for name, value in os.environ.items() if name not in _VARIABLES}
    return inherited | {name: one_line(value) for name, value in fields.items() if value is not None}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
