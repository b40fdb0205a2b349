"""The lock of an agent id on this host: who holds it holds the agent's session at the broker.

flock(2) on a file: the kernel drops it with the process, however that ends.
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

from swarmbus.errors import ListenerRunning, StorageError

_WAIT = 10.0
"""Seconds to wait for a reader, which holds the lock only while it drains the session."""


@contextlib.asynccontextmanager
async def session_lock(path: Path, agent_id: str, role: str) -> AsyncIterator[None]:
    """Hold the session of ``agent_id``.

    Args:
        path: The lock file; made where absent, never removed.
        agent_id: For the error text.
        role: ``listener``, which is held for long, or ``reader``, which is waited for.

    Raises:
        ListenerRunning: If a listener daemon holds it, or a reader for too long.
        StorageError: If the file cannot be made.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(
            f"cannot open {path}: {error.strerror}", hint="check the owner and mode of that folder"
        ) from error
    try:
        await _acquire(descriptor, agent_id)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "role": role}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


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


async def _acquire(descriptor: int, agent_id: str) -> None:
    give_up = time.monotonic() + _WAIT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, role = _read(descriptor) or (None, "")
            if role == "listener" or time.monotonic() > give_up:
                raise ListenerRunning(
                    f"a listener for {agent_id!r} already runs here, pid {pid}",
                    hint="it serves read, watch, tail and send; stop it before starting another",
                    pid=pid,
                ) from None
            await asyncio.sleep(0.02)
        else:
            return


def _read(descriptor: int) -> tuple[int, str] | None:
    try:
        said = json.loads(os.pread(descriptor, 4096, 0))
        return int(said["pid"]), str(said["role"])
    except (ValueError, KeyError, TypeError):
        return None
