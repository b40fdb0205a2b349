"""The folder outside the checkout that keeps images and wheels between test runs, and its locks."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def cache_folder() -> Path:
    """``$SWARMBUS_TEST_CACHE``, or ``~/.cache/swarmbus-tests``; made when absent.

    It must be on a file system that can hold an overlay's upper folder (ext4, xfs, btrfs or tmpfs, but not
    another overlay), since the hosts' own folders lie in it too.
    """
    named = os.environ.get("SWARMBUS_TEST_CACHE")
    folder = Path(named) if named else Path.home() / ".cache" / "swarmbus-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def try_lock(path: Path, *, shared: bool = False) -> TextIO | None:
    """Take the lock on ``path`` if nobody holds it; it lasts until the returned file is closed.

    The kernel drops the lock when its holder dies, so a lock that can be taken has no living holder.
    """
    handle = path.open("a+")
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    return handle


@contextmanager
def locked(path: Path, *, timeout: float = 900.0) -> Iterator[None]:
    """Hold the lock on ``path``, waiting up to ``timeout`` seconds for another run to let go of it."""
    deadline = time.monotonic() + timeout
    while (handle := try_lock(path)) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"another test run has held {path} for more than {timeout:.0f} s")
        time.sleep(0.5)
    with handle:
        yield
