"""How far a consumer has read an inbox file: ``~/.swarmbus/cursors/<id>--<consumer>.cursor``.

The file holds ``"<offset in bytes> <inode>"``, as the existing tool's does; a lone offset is its older form.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from swarmbus.errors import StorageError, UsageError
from swarmbus.journal_file import make_private_folders

_CONSUMER = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FORM = re.compile(r"(\d{1,19})(?: (\d{1,20}))?\s*")


class Position(NamedTuple):
    """A place in a file.

    Attributes:
        offset: In bytes.
        inode: Of the file meant; None where the cursor is of the older form and means whatever has the name.
    """

    offset: int
    inode: int | None


class CursorUnreadable(ValueError):
    """The cursor file holds something else; the text says what."""


def cursor_file(agent_id: str, consumer: str, folder: Path) -> Path:
    """The cursor file of one consumer.

    Raises:
        UsageError: If ``consumer`` is not 1 to 64 characters out of ``A-Za-z0-9_-``.
    """
    if _CONSUMER.fullmatch(consumer) is None:
        raise UsageError(
            f"{consumer!r} is not a consumer name", hint="1 to 64 characters out of A-Z a-z 0-9 _ -"
        )
    return folder / f"{agent_id}--{consumer}.cursor"


def load_cursor(path: Path) -> Position | None:
    """The position that was saved last; None if none was.

    Raises:
        CursorUnreadable: If the file holds something else.
        StorageError: If it may not be read.
    """
    try:
        text = path.read_bytes().decode("ascii", "replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", hint=f"ls -l {path}") from error
    found = _FORM.fullmatch(text)
    if found is None:
        raise CursorUnreadable(f"{path} holds {text[:40]!r}, not '<offset> <inode>'")
    return Position(int(found[1]), int(found[2]) if found[2] else None)


def save_cursor(path: Path, position: Position, *, not_before: int = 0) -> None:
    """Replace the cursor file: a reader, and the next start after a power cut, see the old or the new one.

    Args:
        not_before: The least modification time that the cursor file gets, in nanoseconds of Unix time: a
            host without a battery clock may believe, after a start, to be before the birth of the inbox.

    Raises:
        StorageError: If it cannot be written.
    """
    # Each process its own: two consumers of one name may save at the same time.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    text = f"{position.offset}" if position.inode is None else f"{position.offset} {position.inode}"
    try:
        make_private_folders(path.parent)
        with temporary.open("w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
            file.flush()
            if os.fstat(file.fileno()).st_mtime_ns < not_before:
                os.utime(file.fileno(), ns=(not_before, not_before))
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write the cursor {path}: {error.strerror}",
            hint="choose another folder with --cursor-dir",
        ) from error
