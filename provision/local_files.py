"""LocalFiles: files and locks of the machine we run on."""
# ruff: noqa: D102 - documented once, in System

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from swarmbus.errors import Conflict, StorageError
from swarmbus.provision.command import temporary_name
from swarmbus.provision.foreign_hands import refuse_foreign_hands
from swarmbus.provision.system import DiskSeen, FileStat, User


class LocalFiles:
    """The half of `System` that is files.

    Args:
        user: Who we are.
    """

    def __init__(self, user: User) -> None:
        self._user = user

    def stat(self, path: Path) -> FileStat | None:
        try:
            seen = path.lstat()
            target = str(path.readlink()) if stat.S_ISLNK(seen.st_mode) else None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(f"cannot look at {path}: {error.strerror}") from error
        kind: Literal["file", "directory", "link", "other"] = "other"
        if target is not None:
            kind = "link"
        elif stat.S_ISREG(seen.st_mode):
            kind = "file"
        elif stat.S_ISDIR(seen.st_mode):
            kind = "directory"
        owner, times = (seen.st_uid, seen.st_gid), (seen.st_mtime, seen.st_ctime)
        return FileStat(kind, stat.S_IMODE(seen.st_mode), *owner, seen.st_size, target, *times)

    def read(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error

    def list(self, path: Path) -> list[str]:
        try:
            return sorted(entry.name for entry in path.iterdir())
        except OSError:
            return []

    def disk(self, path: Path) -> DiskSeen:
        try:
            seen = os.statvfs(path)
        except OSError as error:
            raise StorageError(f"cannot look at the disk of {path}: {error.strerror}") from error
        size, free = seen.f_blocks * seen.f_frsize, seen.f_bavail * seen.f_frsize
        return DiskSeen(size, free, seen.f_files, seen.f_favail)

    def may_write(self, path: Path) -> bool:
        # os.path.exists is False where the way there is barred; then the folder that bars it decides.
        nearest = next(place for place in (path, *path.parents) if os.path.exists(place))  # noqa: PTH110
        if nearest == path:
            return not path.is_dir() and os.access(path, os.R_OK | os.W_OK, effective_ids=True)
        return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK, effective_ids=True)

    def write_file(self, path: Path, data: bytes, *, mode: int) -> None:
        refuse_foreign_hands(path.parent, uid=self._user.uid, root=False)
        temporary = temporary_name(path)
        with self._storage(path):
            temporary.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            file = os.open(temporary, flags, 0o600)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(file, view) :]
                os.fchmod(file, mode)
                os.fsync(file)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
            finally:
                os.close(file)
            temporary.rename(path)
            _sync_folder(path.parent)

    def append(self, path: Path, data: bytes) -> None:
        refuse_foreign_hands(path.parent, uid=self._user.uid, root=False)
        with self._storage(path):
            new = not path.exists()
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(file, view) :]
                os.fsync(file)
            finally:
                os.close(file)
            if new:
                _sync_folder(path.parent)

    def make_dir(self, path: Path, *, mode: int = 0o755) -> None:
        refuse_foreign_hands(path, uid=self._user.uid, root=False)
        with self._storage(path):
            path.mkdir(mode=0o700, exist_ok=True)
            path.chmod(mode)
            _sync_folder(path.parent)

    def remove(self, path: Path) -> None:
        refuse_foreign_hands(path.parent, uid=self._user.uid, root=False)
        with self._storage(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            _sync_folder(path.parent)

    def remove_dir(self, path: Path) -> bool:
        refuse_foreign_hands(path, uid=self._user.uid, root=False)
        try:
            path.rmdir()
        except OSError:
            return False
        _sync_folder(path.parent)
        return True

    def remove_tree(self, path: Path) -> None:
        refuse_foreign_hands(path, uid=self._user.uid, root=False)
        with self._storage(path), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)

    def move(self, source: Path, target: Path) -> None:
        refuse_foreign_hands(target.parent, uid=self._user.uid, root=False)
        with self._storage(target):
            source.rename(target)
            _sync_folder(target.parent)

    @contextlib.contextmanager
    def locked(self, path: Path, wait: float) -> Iterator[None]:
        refuse_foreign_hands(path, uid=self._user.uid, root=False)
        deadline = time.monotonic() + wait
        file = self._open_lock(path)
        try:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _is_there(path, file):
                        break
                    gone, file = file, self._open_lock(path)  # whoever held it has taken it away
                    os.close(gone)
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        holder = os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"
                        raise Conflict(
                            f"another swarmbus (pid {holder}) is changing this host",
                            hint="wait until it has finished, then call this again",
                        ) from None
                    time.sleep(0.05)
            with self._storage(path):
                os.ftruncate(file, 0)
                os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(file)

    def _open_lock(self, path: Path) -> int:
        try:
            with self._storage(path):
                return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except StorageError as error:
            if path.parent.exists():
                raise
            raise Conflict(
                f"another swarmbus has taken {path.parent} away", hint="call this again"
            ) from error

    def lock_holder(self, path: Path) -> bytes | None:
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.pread(file, 1024, 0)
        else:
            return None
        finally:
            os.close(file)

    @contextlib.contextmanager
    def _storage(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"cannot change {path}: {error.strerror}") from error


def _is_there(path: Path, file: int) -> bool:
    """Whether the open file is still what has this name."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
