"""The lock of an agent id on this host: who holds it holds the agent's session at the broker.

flock(2) on a file: the kernel drops it with the process, however that ends. A listener daemon holds it
for good. A reader holds it while it drains the session, and may then stay for the next message: other
readers meanwhile find in the mailbox all that there is, and to a listener that starts it gives way.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

from swarmbus.errors import ListenerRunning, StorageError

Role = Literal["listener", "reader", "staying"]

_WAIT = 10.0
"""Seconds to wait for a reader, which holds the lock only while it drains the session."""

_PAUSE = 0.02


class ReaderStays(Exception):  # not an error: the mailbox is as full as it can be
    """For a reader: another one holds the session, has drained it, and stores what comes."""


class SessionLock:
    """The lock while it is held."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def say(self, role: Role) -> None:
        """Tell the others what we hold it for."""
        said = json.dumps({"pid": os.getpid(), "role": role}).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, said, 0)

    def is_wanted(self) -> bool:
        """Whether a listener daemon waits for it."""
        with contextlib.closing(_File(_wanted(self._path))) as wanted:
            return not wanted.try_lock(fcntl.LOCK_EX)


@contextlib.asynccontextmanager
async def session_lock(path: Path, agent_id: str, role: Role) -> AsyncIterator[SessionLock]:
    """Hold the session of ``agent_id``.

    Args:
        path: The lock file; made where absent, never removed.
        agent_id: For the error text.
        role: ``listener`` or ``reader``.

    Raises:
        ListenerRunning: If a listener daemon holds it, or a reader for too long.
        ReaderStays: If we are a reader, and another one is there to stay.
        StorageError: If the file cannot be made.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = stack.enter_context(contextlib.closing(_File(path)))
            wanted = stack.enter_context(contextlib.closing(_File(_wanted(path))))
        except OSError as error:
            raise StorageError(
                f"cannot open {path}: {error.strerror}", hint="check the owner and mode of that folder"
            ) from error
        await _acquire(file, wanted, agent_id, role)
        wanted.unlock()
        lock = SessionLock(path, file.descriptor)
        lock.say(role)
        try:
            yield lock
        finally:
            os.ftruncate(file.descriptor, 0)  # what it says is about its holder


def lock_holder(path: Path) -> tuple[int, str] | None:
    """``(pid, role)`` of who holds the lock, None if nobody does."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(descriptor)
    else:
        return None
    finally:
        os.close(descriptor)


async def _acquire(file: _File, wanted: _File, agent_id: str, role: Role) -> None:
    give_up = time.monotonic() + _WAIT
    before: tuple[int, str] | None = None
    while not file.try_lock(fcntl.LOCK_EX):
        if role == "listener":
            wanted.try_lock(fcntl.LOCK_SH)
        holder = _read(file.descriptor)
        # Twice, because its holder may have taken it a moment ago and not have written yet: then what is
        # there was written by one that was killed.
        if holder is not None and holder == before:
            pid, its_role = holder
            if its_role == "listener" or time.monotonic() > give_up:
                raise ListenerRunning(
                    f"a listener for {agent_id!r} already runs here, pid {pid}"
                    if its_role == "listener"
                    else f"a reader of {agent_id!r} has held the session for {_WAIT:g} s, pid {pid}",
                    hint="it serves read, watch, tail and send; stop it before starting another",
                    pid=pid,
                )
            if its_role == "staying" and role == "reader":
                raise ReaderStays(agent_id)
        elif holder is None and time.monotonic() > give_up:
            raise ListenerRunning(f"the session of {agent_id!r} is held by somebody who does not say who")
        before = holder
        await asyncio.sleep(_PAUSE)


class _File:
    """An open file to be locked."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)

    def try_lock(self, operation: int) -> bool:
        try:
            fcntl.flock(self.descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self.descriptor)


def _wanted(path: Path) -> Path:
    """The file that listeners lock, together, while they wait for the other."""
    return path.with_suffix(".wanted")


def _read(descriptor: int) -> tuple[int, str] | None:
    try:
        said = json.loads(os.pread(descriptor, 4096, 0))
        return int(said["pid"]), str(said["role"])
    except (ValueError, KeyError, TypeError):
        return None
