"""Whose hands a path goes through: nothing of ours is read or written where another user can redirect it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from swarmbus.errors import StorageError

_MAX_LINKS = 40  # as the kernel, path_resolution(7)


def refuse_foreign_hands(path: Path, *, uid: int, root: bool) -> None:
    """Check every folder and link on the way to ``path``; the last part itself may be missing.

    Trusted are root and, unless ``root``, the user ``uid``. A folder that everybody can write is passed
    only with the sticky bit, where the owner of the next part is what counts.

    Raises:
        StorageError: With the first part that somebody else could change.
    """
    trusted = {0} if root else {0, uid}
    waiting = list(reversed(path.parts[1:]))
    here = Path("/")
    links = 0
    while True:
        try:
            seen = here.lstat()
        except FileNotFoundError:
            return
        except (PermissionError, NotADirectoryError) as error:
            raise StorageError(f"cannot look at {here}: {error.strerror}") from error
        if seen.st_uid not in trusted:
            raise StorageError(
                f"{here} belongs to user {seen.st_uid}, who could redirect what is written to {path}",
                hint=f"look at it: ls -ld {here}",
            )
        if stat.S_ISLNK(seen.st_mode):
            links += 1
            if links > _MAX_LINKS:
                raise StorageError(f"{path}: too many symbolic links")
            target = here.parent / here.readlink()
            waiting += reversed(Path(os.path.normpath(target)).parts[1:])
            here = Path("/")
        elif stat.S_ISDIR(seen.st_mode):
            _refuse_writable(here, seen, path, root=root)
        if not waiting:
            return
        here = here / waiting.pop()


def _refuse_writable(folder: Path, seen: os.stat_result, path: Path, *, root: bool) -> None:
    by_everybody = seen.st_mode & stat.S_IWOTH and not seen.st_mode & stat.S_ISVTX
    by_a_group = root and seen.st_mode & stat.S_IWGRP and seen.st_gid != 0
    if by_everybody or by_a_group:
        raise StorageError(
            f"others may write in {folder}, and could redirect what is written to {path}",
            hint=f"take that away first: chmod go-w {folder}",
        )
