"""Waiting until something happens to one file: Linux inotify, elsewhere a slow look at it.

::

    with FileWatch(path) as watch:
        while True:
            read_what_is_new()
            watch.wait()

The folder is watched, not the file, so that creation, rename and removal are seen too. What happens
between two waits is not missed: the second returns at once.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Final

POLL_SECONDS: Final = 0.5
"""How often the file is looked at where it cannot be watched."""

SAFETY_SECONDS: Final = 5.0
"""How often it is looked at although it is watched: changes made elsewhere on a network are not reported."""

# <sys/inotify.h>, inotify(7)
_IN_MODIFY: Final = 0x2
_IN_ATTRIB: Final = 0x4
_IN_MOVED_FROM: Final = 0x40
_IN_MOVED_TO: Final = 0x80
_IN_CREATE: Final = 0x100
_IN_DELETE: Final = 0x200
_IN_DELETE_SELF: Final = 0x400
_IN_MOVE_SELF: Final = 0x800
_IN_UNMOUNT: Final = 0x2000
_IN_Q_OVERFLOW: Final = 0x4000
_IN_IGNORED: Final = 0x8000
_IN_ONLYDIR: Final = 0x01000000
_TO_THE_FILE: Final = _IN_MODIFY | _IN_ATTRIB | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE
_TO_THE_FOLDER: Final = _IN_DELETE_SELF | _IN_MOVE_SELF
_FOLDER_GONE: Final = _TO_THE_FOLDER | _IN_UNMOUNT | _IN_IGNORED  # the last two come without being asked for
_EVENT: Final = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows

_Signature = tuple[int, int, int] | None


class FileWatch:
    """See the module.

    Args:
        path: It need not exist, nor its folder.
        poll_only: Do not use inotify.
    """

    def __init__(self, path: Path, *, poll_only: bool = False) -> None:
        self._path = path
        self._name = os.fsencode(path.name)
        self._poll_only = poll_only
        self._fd: int | None = None
        self._watch()
        self._seen = self._signature()

    @property
    def is_watching(self) -> bool:
        """Whether the kernel reports changes; False means the file is polled."""
        return self._fd is not None

    def wait(self, timeout: float | None = None) -> bool:
        """Return True as soon as the file is changed, created, renamed or removed.

        It may do so without a reason that the caller can see, such as a change of the file's mode.

        Args:
            timeout: In seconds; None means for ever. False is returned when it has passed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._fd is None:
                self._watch()
            pause = POLL_SECONDS if self._fd is None else SAFETY_SECONDS
            if deadline is not None:
                pause = min(pause, max(deadline - time.monotonic(), 0))
            # What has changed already may have done so before the kernel was asked to watch.
            reported = self._reported_within(0 if self._signature() != self._seen else pause)
            signature = self._signature()
            if reported or signature != self._seen:
                self._seen = signature
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False

    def close(self) -> None:
        """Stop watching; a second call does nothing."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> FileWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _watch(self) -> None:
        if not self._poll_only:
            self._fd = _watch_folder(self._path.parent)

    def _reported_within(self, seconds: float) -> bool:
        if self._fd is None:
            time.sleep(seconds)
            return False
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return False
        reported = False
        for mask, name in _events(os.read(self._fd, 65_536)):
            if mask & _FOLDER_GONE:
                self.close()
                return True
            reported = reported or bool(mask & _IN_Q_OVERFLOW) or name == self._name
        return reported

    def _signature(self) -> _Signature:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns


def _watch_folder(path: Path) -> int | None:
    """A file descriptor that reports what happens in ``path``; None where there is no such thing.

    No inotify in this kernel, no such folder, or the user's instances or watches are used up
    (fs.inotify.max_user_instances is 128 on Debian).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    except AttributeError:
        return None
    if fd < 0:
        return None
    if libc.inotify_add_watch(fd, os.fsencode(path), _TO_THE_FILE | _TO_THE_FOLDER | _IN_ONLYDIR) < 0:
        os.close(fd)
        return None
    return int(fd)


def _events(data: bytes) -> list[tuple[int, bytes]]:
    """The mask and the name of each event in what inotify wrote."""
    events = []
    position = 0
    while position < len(data):
        _, mask, _, length = _EVENT.unpack_from(data, position)
        position += _EVENT.size
        events.append((mask, data[position : position + length].rstrip(b"\0")))
        position += length
    return events
