"""Waking an agent: a command is run for each message, its body on standard input, its fields in the environment."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from swarmbus.errors import SwarmbusError, UsageError
from swarmbus.handlers.base import BaseHandler
from swarmbus.inbox_file import one_line, visible

if TYPE_CHECKING:
    from swarmbus.envelope import AgentMessage

DEFAULT_TIMEOUT: Final = 600.0
GRACE_SECONDS: Final = 5.0
"""Between SIGTERM and SIGKILL."""

KEPT_BYTES: Final = 4096
"""Of what a command prints, for the error's text."""

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
        run = _Run(self._argv, environment(msg), msg.body.encode("utf-8", "replace"))
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


class _Run:
    """One run of a command.

    Its pipes are ours, not asyncio's: asyncio waits for their end too, which does not come while a
    background process holds them.
    """

    def __init__(self, argv: Sequence[str], variables: Mapping[str, str], body: bytes) -> None:
        self._argv = argv
        self._variables = variables
        self._body = body
        self._output = _Kept()
        self._errors = _Kept()

    async def until_end(self, seconds: float) -> int:
        """Returns the exit status; negative: the signal.

        Raises:
            TimeoutError: After ``seconds``; every process of the command has ended then.
            OSError: If it cannot be started.
        """
        body = _Fed(self._body)
        pipes = (body, self._output, self._errors)
        try:
            for pipe in pipes:
                pipe.open()
            process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=body.far_end,
                stdout=self._output.far_end,
                stderr=self._errors.far_end,
                env=self._variables,
                start_new_session=True,  # a process group of its own, to be ended as one
            )
            for pipe in pipes:
                pipe.attach()
            has_ended = False
            try:
                async with asyncio.timeout(seconds):
                    status = await process.wait()
                has_ended = True
                return status
            finally:
                if not has_ended:
                    await _end_group(process)
        finally:
            for pipe in pipes:
                pipe.close()

    def output(self) -> str:
        """The end of what it wrote to standard error or, if that is nothing, to standard output."""
        return visible((self._errors.kept or self._output.kept).decode("utf-8", "replace")).strip()

    def last_words(self) -> str:
        """``: <last line of output>``, or nothing."""
        lines = self.output().splitlines()
        return f": {lines[-1][-200:]}" if lines else ""


class _Pipe:
    """A pipe to a child: ``far_end`` is the child's."""

    def __init__(self) -> None:
        self.far_end = -1
        self._near_end = -1

    def open(self) -> None:
        raise NotImplementedError

    def attach(self) -> None:
        """Begin to work, now that the child has its end."""
        os.close(self.far_end)
        self.far_end = -1
        os.set_blocking(self._near_end, False)

    def close(self) -> None:
        """Stop; a second call does nothing."""
        loop = asyncio.get_running_loop()
        for fd in (self._near_end, self.far_end):
            if fd >= 0:
                loop.remove_reader(fd)
                loop.remove_writer(fd)
                os.close(fd)
        self._near_end = self.far_end = -1


class _Fed(_Pipe):
    """Writes ``data``; a child that does not want it may close its end at any time."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._rest = memoryview(data)

    def open(self) -> None:
        self.far_end, self._near_end = os.pipe()

    def attach(self) -> None:
        super().attach()
        asyncio.get_running_loop().add_writer(self._near_end, self._feed)
        self._feed()

    def _feed(self) -> None:
        try:
            while self._rest:
                self._rest = self._rest[os.write(self._near_end, self._rest) :]
        except BlockingIOError:
            return
        except OSError:
            pass  # EPIPE: it reads no more
        self.close()


class _Kept(_Pipe):
    """Reads everything, and keeps the last `KEPT_BYTES`."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = b""

    def open(self) -> None:
        self._near_end, self.far_end = os.pipe()

    def attach(self) -> None:
        super().attach()
        asyncio.get_running_loop().add_reader(self._near_end, self._read)

    def close(self) -> None:
        if self._near_end >= 0 and self.far_end < 0:
            self._read()  # what it wrote just before its end
        super().close()

    def _read(self) -> None:
        try:
            for _ in range(16):  # at most 1 MiB in a row: other tasks want to run too
                data = os.read(self._near_end, 65_536)
                if not data:
                    asyncio.get_running_loop().remove_reader(self._near_end)
                    return
                self.kept = (self.kept + data)[-KEPT_BYTES:]
        except BlockingIOError:
            return


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """SIGTERM to every process of the group; SIGKILL to those that are there 5 seconds later, or on cancellation."""
    group = process.pid
    try:
        if not _signal_group(group, signal.SIGTERM):
            return
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            await asyncio.sleep(0.02)
            if not _signal_group(group, 0):
                return
    finally:
        _signal_group(group, signal.SIGKILL)
        await process.wait()


def _signal_group(group: int, number: int) -> bool:
    """Whether there was a process to signal."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


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
        raise UsageError("the command to invoke is empty", hint="name a program: --invoke '/path/to/wake.sh planner'")
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
