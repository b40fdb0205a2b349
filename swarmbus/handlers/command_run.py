"""One run of a command: input given, output bounded, and ended with all that it started.

Its pipes are ours, not asyncio's. asyncio may wait for their end too, which does not come while a process
in the background holds them (https://github.com/python/cpython/issues/119710).
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from swarmbus.handlers.unit_main import KEPT_BYTES
from swarmbus.inbox_file import visible

GRACE_SECONDS: Final = 5.0
"""Between SIGTERM and SIGKILL."""


class CommandRun:
    """See the module.

    Args:
        argv: Program and arguments.
        variables: Its whole environment.
        body: What it finds on its standard input.
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
    """SIGTERM to the group; SIGKILL to those that are there 5 seconds later, or at once on cancellation."""
    group = process.pid
    try:
        if not _signal_group(group, signal.SIGTERM):
            return
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            if not _is_alive(group):
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


def _is_alive(group: int) -> bool:
    """Whether a process of the group runs; one that only waits to be reaped does not.

    In a container without an init process, nobody reaps.
    """
    if not _signal_group(group, 0):
        return False
    stats = list(Path("/proc").glob("[0-9]*/stat"))
    return not stats or any(_runs_in(group, stat) for stat in stats)


def _runs_in(group: int, stat: Path) -> bool:
    # proc_pid_stat(5): "pid (name) state parent group ..."; a name may have blanks and parentheses in it.
    with suppress(OSError):
        state, _, its_group, *_ = stat.read_bytes().rpartition(b")")[2].split()
        return int(its_group) == group and state not in (b"Z", b"X")
    return False
