"""A text file that many processes append whole entries to, and that starts anew when it is full.

::

    outbox = JournalFile(Path("~/sync/planner-outbox.md").expanduser(), sync=False)
    outbox.append([render_entry("To", "coder", ...)])

Full at ``max_bytes``, ``x.md`` becomes ``x.md.1``, that ``x.md.2``, and so on, as logrotate does. Writers
take turns by an flock on the file itself; who gets it looks again whether the file still has its name.
An entry is in the file wholly or not at all, whatever fails; only the death of a writer in the middle of
its write can leave the beginning of an entry at the end, which ``resume`` completes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from swarmbus.errors import StorageError
from swarmbus.inbox_file import ENTRY_START, TRAILER, decode_word

DEFAULT_MAX_BYTES: Final = 50 * 1024 * 1024
DEFAULT_KEEP: Final = 5

LOCK_SECONDS: Final = 10.0
"""Writers hold the lock for the time of one write."""

_BLOCK: Final = 256 * 1024
_LAST_LINE_BYTES: Final = (
    4096  # more than the longest last line: three bytes for each byte of id and priority
)
_SCAN_BYTES: Final = 80 * 1024 * 1024  # 256 entries of 64 KiB, every byte of them escaped into four

_HINTS: Final = {
    errno.ENOSPC: "the disk is full: free some space ('df -h' shows where)",
    errno.EDQUOT: "your quota is used up: free some space",
    errno.EROFS: "the file system is mounted read-only",
    errno.EISDIR: "it is a folder: name a file in it",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
}


class FileLocked(StorageError):
    """Others hold the lock on the file."""


class JournalFile:
    """See the module.

    Args:
        path: A symbolic link is followed, so that rotation happens beside the file it points to.
        max_bytes: Size that the file does not grow beyond, but for a single larger entry; 0 means it
            never rotates.
        keep: How many rotated files stay, at least 1.
        sync: Whether `append` returns only when the entries are on the disk. Without, a power cut
            may take the last seconds; the death of a process never takes anything.
        lock_seconds: How long to wait for other writers.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        keep: int = DEFAULT_KEEP,
        sync: bool,
        lock_seconds: float = LOCK_SECONDS,
    ) -> None:
        self.path = Path(os.path.realpath(path))
        self._max_bytes = max_bytes
        self._keep = max(keep, 1)
        self._sync = sync
        self._lock_seconds = lock_seconds
        self._created = False  # since the folder was last synced

    def append(
        self, entries: Sequence[bytes], *, resume: bool = False, lock_seconds: float | None = None
    ) -> None:
        """Append every entry, whole and in this order; rotate before one that would not fit.

        Creates the file (0600) and the folders above it (0700).

        Args:
            resume: If the file ends with the beginning of the first entry, write only what is missing.
            lock_seconds: How long to wait for other writers this time; None for as long as always.

        Raises:
            FileLocked: If others kept it locked for ``lock_seconds``.
            StorageError: If it cannot be written. The entries up to some point may be there then; none is
                there in part.
        """
        patience = self._lock_seconds if lock_seconds is None else lock_seconds
        done = 0
        try:
            while done < len(entries):
                done += self._append_some(entries[done:], patience, resume=resume and done == 0)
        except OSError as error:
            raise _storage_error(self.path, error) from error

    def sync(self) -> None:
        """Have the disk hold what was appended, for a file that does not do so by itself.

        Raises:
            StorageError: If the disk does not take it.
        """
        try:
            # A rotation may have come in the middle of a batch.
            for path in (self.path, rotated(self.path, 1)):
                with contextlib.suppress(FileNotFoundError):
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                    try:
                        os.fdatasync(fd)
                    finally:
                        os.close(fd)
            if self._created:
                _sync_folder(self.path.parent)
                self._created = False
        except OSError as error:
            raise _storage_error(self.path, error) from error

    def check_writable(self) -> None:
        """Create the file if it is missing, and leave it unchanged otherwise.

        Raises:
            StorageError: If it could not be appended to.
        """
        try:
            os.close(self._open())
        except OSError as error:
            raise _storage_error(self.path, error) from error

    def last_ids(self, limit: int) -> list[str]:
        """The ids of the last ``limit`` entries, newest first, looking into rotated files where needed."""
        ids: list[str] = []
        budget = _SCAN_BYTES
        for path in (self.path, *rotated_files(self.path)):
            if len(ids) >= limit or budget <= 0:
                break
            try:
                budget -= _collect_ids(path, ids, limit, budget)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _storage_error(path, error) from error
        return ids[:limit]

    def _append_some(self, entries: Sequence[bytes], patience: float, *, resume: bool) -> int:
        """Append as many of the entries as this file takes; 0 after a rotation."""
        fd = self._open()
        try:
            if not lock(fd, fcntl.LOCK_EX, patience):
                raise FileLocked(
                    f"cannot write {self.path}: another process kept it locked for {patience:g} s",
                    hint=f"see which: fuser -v {self.path}",
                )
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                _write(fd, b"".join(entries), start=None)
                return len(entries)
            if not _still_named(self.path, status):
                return 0
            there = _begun(fd, status.st_size, entries[0]) if resume else 0
            count = self._how_many_fit(status.st_size - there, entries)
            if count == 0 and not there:
                self._rotate()
                return 0
            count = max(count, 1)
            data = b"".join(entries[:count])[there:]
            if status.st_size and not there and os.pread(fd, 1, status.st_size - 1) != b"\n":
                data = b"\n" + data  # someone's unfinished line: the heading needs one of its own
            _write(fd, data, start=status.st_size)
            # Readers and other writers need not wait for the disk.
            fcntl.flock(fd, fcntl.LOCK_UN)
            self._created = self._created or status.st_size == 0
            if self._sync:
                self.sync()
            return count
        finally:
            os.close(fd)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_CREAT
        try:
            return os.open(self.path, flags, 0o600)
        except FileNotFoundError:
            make_private_folders(self.path.parent)
            return os.open(self.path, flags, 0o600)

    def _how_many_fit(self, size: int, entries: Sequence[bytes]) -> int:
        if not self._max_bytes:
            return len(entries)
        for count, entry in enumerate(entries):
            if size and size + len(entry) > self._max_bytes:
                return count
            size += len(entry)
        return len(entries)

    def _rotate(self) -> None:
        # Numbers beyond the first free one stay: after a rotation that was killed half-way, none is lost.
        last = next((n for n in range(1, self._keep) if not rotated(self.path, n).exists()), self._keep)
        for number in range(last, 1, -1):
            rotated(self.path, number - 1).replace(rotated(self.path, number))
        # The last step: from here on others may create the file, and rotate it in their turn.
        self.path.replace(rotated(self.path, 1))


def rotated(path: Path, number: int) -> Path:
    """Where the file goes at its ``number``-th rotation from now: ``x.md.1``."""
    return path.with_name(f"{path.name}.{number}")


def rotated_files(path: Path) -> list[Path]:
    """The rotated files that exist, the newest first."""
    form = re.compile(re.escape(path.name) + r"\.([1-9][0-9]{0,8})")
    try:
        found = [form.fullmatch(name) for name in os.listdir(path.parent)]  # noqa: PTH208  names are enough
    except FileNotFoundError:
        return []
    return [rotated(path, number) for number in sorted(int(name[1]) for name in found if name)]


def lock(fd: int, operation: int, seconds: float) -> bool:
    """Take an flock within ``seconds``; False if others did not let go of it in that time."""
    deadline = time.monotonic() + seconds
    pause = 0.0005
    while True:
        try:
            fcntl.flock(fd, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 2, 0.02)
        else:
            return True


def make_private_folders(path: Path) -> None:
    """Create ``path`` and what is missing above it, each 0700; folders that exist keep their mode."""
    if path.is_dir():
        return
    make_private_folders(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)


def _write(fd: int, data: bytes, *, start: int | None) -> None:
    """Write all of ``data`` or nothing; ``start`` is the size of the file before, None if it has none."""
    written = 0
    try:
        while written < len(data):
            written += os.write(fd, data[written:] if written else data)
    except OSError:
        # A full disk takes a part. The lock is ours, but the existing tool writes without one: take
        # back only what is still last.
        if start is not None and os.fstat(fd).st_size == start + written:
            os.ftruncate(fd, start)
        raise


def _still_named(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), status)
    except FileNotFoundError:
        return False


def _begun(fd: int, size: int, entry: bytes) -> int:
    """How many bytes at the end of the file are the beginning, but not the whole, of ``entry``."""
    length = min(size, len(entry) + _LAST_LINE_BYTES)
    end = os.pread(fd, length, size - length)
    # It begins where the last heading is, or, cut before that, behind the last whole entry.
    starts = [end.rfind(ENTRY_START)]
    starts += [found.end() for found in TRAILER.finditer(end)][-1:]
    if length == size:
        starts.append(0)
    for start in starts:
        rest = end[start:] if start >= 0 else b""
        if 0 < len(rest) < len(entry) and entry.startswith(rest):
            return len(rest)
    return 0


def _collect_ids(path: Path, ids: list[str], limit: int, budget: int) -> int:
    """Append the ids of the entries in one file to ``ids``, last entry first; returns the bytes read."""
    with path.open("rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return 0
        position = size = file.seek(0, os.SEEK_END)
        carried = b""  # the first line of the block behind, which may have begun in this one
        while position and len(ids) < limit and size - position < budget:
            length = min(position, _BLOCK)
            position -= length
            data = os.pread(file.fileno(), length, position) + carried
            ids += [decode_word(found[1].decode("ascii", "replace")) for found in TRAILER.finditer(data)][
                ::-1
            ]
            head, line_end, _ = data.partition(b"\n")
            carried = head + line_end if len(head) < _LAST_LINE_BYTES else b""
        return size - position


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _storage_error(path: Path, error: OSError) -> StorageError:
    where = "" if error.filename in (None, str(path), path) else f" ({error.filename})"
    hint = _HINTS.get(error.errno or 0, f"see owner and mode: ls -ld {path.parent} {path}")
    return StorageError(f"cannot write {path}: {error.strerror or error}{where}", hint=hint)
