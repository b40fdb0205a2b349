"""What is new in an inbox file for one consumer: ``swarmbus tail``.

::

    tail = InboxTail(inbox, cursor_file("planner", "default", cursor_dir()))
    for text in tail.texts():
        print(text, end="", flush=True)

A piece counts as read when the next one is asked for: a consumer that dies over a piece gets it again.
The cost is that of what is new; the size of the file does not matter.

The cursor knows its file by inode. If the file was rotated meanwhile, the rest of ``x.md.1`` (or of an
older one) comes first. A file that shrank, or is another one under the same name, is read from its start.
"""

from __future__ import annotations

import codecs
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from swarmbus.errors import CannotRun, StorageError
from swarmbus.file_birth import birth_ns
from swarmbus.file_watch import FileWatch
from swarmbus.inbox_file import ENTRY_START, TRAILER, Entry, parse_entries
from swarmbus.journal_file import lock, rotated_files
from swarmbus.tail_cursor import CursorUnreadable, Position, load_cursor, save_cursor

_PIECE_BYTES: Final = 256 * 1024
_UNCUT_BYTES: Final = 4 * 1024 * 1024  # of text with no place to cut it; no entry is that long
_END_OF_OURS: Final = b"-->\n"
_LOCK_SECONDS: Final = 1.0

T = TypeVar("T")


class NoInboxFile(CannotRun):
    """There is no inbox file to read."""

    code = "no-inbox-file"


class _Piece(NamedTuple):
    """Some of a file.

    Attributes:
        before: The four bytes in front of it, fewer at the start of the file.
        end: Where it ends.
        may_grow: Whether it ends where the file ends, and the file is the one that is written to.
    """

    data: bytes
    before: bytes
    end: Position
    may_grow: bool


class InboxTail:
    """See the module.

    Args:
        inbox: The file; a symbolic link is followed.
        cursor: See `swarmbus.tail_cursor`.
        notice: Told, in a sentence, when the file is not the one that the cursor expects.
    """

    def __init__(self, inbox: Path, cursor: Path, *, notice: Callable[[str], object] | None = None) -> None:
        self._inbox = Path(os.path.realpath(inbox))
        self._cursor = cursor
        self._notice = notice or (lambda text: None)

    def reset(self) -> None:
        """Forget what was read: the next piece is the start of the file.

        Raises:
            StorageError: If the cursor cannot be removed.
        """
        try:
            self._cursor.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot remove {self._cursor}: {error.strerror}") from error

    def texts(self, *, follow: bool = False) -> Iterator[str]:
        """The new text, in pieces.

        Bytes that are not UTF-8 become U+FFFD; half a character at the end is left for the next time.

        Args:
            follow: Do not end, but give what is written as it is written.

        Raises:
            NoInboxFile: If there is none; when it is followed, it is waited for.
            StorageError: If the file cannot be read, or the cursor not be written.
        """
        return self._follow(self._new_texts) if follow else self._new_texts()

    def entries(self, *, follow: bool = False) -> Iterator[Entry]:
        """The new entries; an unfinished one at the end is left for the next time. Otherwise as `texts`."""
        return self._follow(self._new_entries) if follow else self._new_entries()

    def _follow(self, new: Callable[[], Iterator[T]]) -> Iterator[T]:
        is_missing = False
        with FileWatch(self._inbox) as watch:
            while True:
                try:
                    yield from new()
                    is_missing = False
                except NoInboxFile as error:
                    if not is_missing:
                        self._notice(f"{error.message}; waiting for it")
                    is_missing = True
                watch.wait()

    def _new_texts(self) -> Iterator[str]:
        for piece in self._pieces(_after_last_line):
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            text = decoder.decode(piece.data, final=not piece.may_grow)
            half_a_character, _ = decoder.getstate()
            if text:
                yield text
            self._save_after(piece, len(half_a_character))

    def _new_entries(self) -> Iterator[Entry]:
        for piece in self._pieces(_before_last_entry):
            kept = _unfinished(piece.data, piece.before) if piece.may_grow else 0
            yield from parse_entries(piece.data[: len(piece.data) - kept].decode("utf-8", "replace"))
            self._save_after(piece, kept)

    def _pieces(self, cut: Callable[[bytes], int]) -> Iterator[_Piece]:
        """What is new, oldest first; ``cut`` finds the last place to end a piece at, 0 or less if none."""
        position: Position | None = self._start()
        while position is not None:
            yield from self._pieces_of(position, cut)
            newer = self._newer_than(position.inode)
            position = None if newer is None else Position(0, newer)

    def _pieces_of(self, position: Position, cut: Callable[[bytes], int]) -> Iterator[_Piece]:
        path = self._path_of(position.inode)
        if path is None:
            return  # removed since it was found
        with _reading(path) as file:
            fd = file.fileno()
            is_current = path == self._inbox
            start, end = position.offset, _end_of_whole_entries(fd)
            if start > end:
                self._notice(f"{path} shrank to {end} bytes, {start} were read before: reading it again")
                start = 0
                self._save(Position(0, position.inode))
            data, read = b"", start
            while read < end:
                block = os.pread(fd, min(_PIECE_BYTES, end - read), read)
                if not block:
                    break  # truncated this moment
                data += block
                read += len(block)
                length = len(data) if read == end or len(data) >= _UNCUT_BYTES else cut(data)
                if length <= 0:
                    continue
                before = os.pread(fd, min(4, start), max(start - 4, 0))
                start += length
                reached = Position(start, position.inode)
                yield _Piece(data[:length], before, reached, may_grow=is_current and start == end)
                data = data[length:]

    def _start(self) -> Position:
        """Where reading goes on; the inode in it is never None."""
        try:
            cursor = load_cursor(self._cursor)
        except CursorUnreadable as error:
            self._notice(f"{error}: reading from the start")
            cursor = None
        current = _inode(self._inbox)
        if cursor is not None and cursor.inode is not None:
            if self._is_still(cursor):
                return cursor
            position = self._after_a_loss(self._cursor.stat().st_mtime_ns)
            self._notice(f"{self._inbox} is another file than at the last reading: reading it from the start")
            self._save(position)
            return position
        if current is None:
            raise self._missing()
        return Position(cursor.offset if cursor else 0, current)

    def _is_still(self, cursor: Position) -> bool:
        """Whether a file with the cursor's inode is there, and is the one that the cursor meant.

        A removed file's inode soon belongs to another: a file born after the cursor was saved is not it.
        """
        path = self._path_of(cursor.inode)
        if path is None:
            return False
        born = birth_ns(path)
        return born is None or born <= self._cursor.stat().st_mtime_ns

    def _after_a_loss(self, last_reading: int) -> Position:
        """The start of the oldest file that was written to since ``last_reading`` (in ns of Unix time)."""
        current = _inode(self._inbox)
        for path in reversed(rotated_files(self._inbox)):
            with suppress(FileNotFoundError):
                status = path.stat()
                if status.st_mtime_ns < last_reading:
                    continue
                return Position(0, status.st_ino)
        if current is None:
            raise self._missing()
        return Position(0, current)

    def _path_of(self, inode: int | None) -> Path | None:
        if _inode(self._inbox) == inode:
            return self._inbox
        return next((path for path in rotated_files(self._inbox) if _inode(path) == inode), None)

    def _newer_than(self, inode: int | None) -> int | None:
        """The inode of the file that was begun after the given one; None if that one is the newest."""
        # Rotation moves files to higher numbers, the way we go: none can be passed over.
        newer = None
        for path in (self._inbox, *rotated_files(self._inbox)):
            found = _inode(path)
            if found == inode:
                return newer
            newer = found if found is not None else newer
        return None

    def _save_after(self, piece: _Piece, kept: int) -> None:
        if kept < len(piece.data):
            self._save(Position(piece.end.offset - kept, piece.end.inode))

    def _save(self, position: Position) -> None:
        path = self._path_of(position.inode)
        born = birth_ns(path) if path else None
        save_cursor(self._cursor, position, not_before=born or 0)

    def _missing(self) -> NoInboxFile:
        return NoInboxFile(
            f"inbox does not exist: {self._inbox}",
            hint="the listener daemon creates it: name it with --inbox if it is elsewhere",
        )


def _after_last_line(data: bytes) -> int:
    return data.rfind(b"\n") + 1


def _before_last_entry(data: bytes) -> int:
    return data.rfind(ENTRY_START, 1)


def _unfinished(data: bytes, before: bytes) -> int:
    """How many bytes at the end of ``data`` are of an entry that is not yet whole.

    An entry without our last line is of the existing tool, and whole if its last line is; but behind an
    entry of ours it is one that a killed writer left, and will complete.
    """
    start = data.rfind(ENTRY_START)
    if start < 0 and not data.startswith(ENTRY_START[1:]):
        return len(data) if ENTRY_START.startswith(data) else 0
    entry = data[max(start, 0) :]
    trailer = TRAILER.search(entry)
    if trailer is not None:
        rest = entry[trailer.end() :]
        return len(rest) if ENTRY_START.startswith(rest) else 0
    is_behind_ours = (before + data[: max(start, 0)]).endswith(_END_OF_OURS)
    return len(entry) if is_behind_ours or not entry.endswith(b"\n") else 0


def _end_of_whole_entries(fd: int) -> int:
    # Writers hold the lock for as long as a part of an entry may be there. One that was stopped in its
    # middle must not stop us.
    if lock(fd, fcntl.LOCK_SH, _LOCK_SECONDS):
        try:
            return os.fstat(fd).st_size
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
    return os.fstat(fd).st_size


def _reading(path: Path) -> FileIO:
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise StorageError(
            f"cannot read {path}: {error.strerror}", hint=f"see its mode: ls -l {path}"
        ) from error


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
