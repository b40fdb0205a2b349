"""LocalSystem: the machine we run on."""
# ruff: noqa: D102 - documented once, in System

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from swarmbus.errors import Conflict, StorageError
from swarmbus.provision.foreign_hands import refuse_foreign_hands
from swarmbus.provision.root import SYSTEM_PATH, RootCommand, run_as_root, temporary_name, write_commands
from swarmbus.provision.system import (
    NOT_FOUND,
    TIMED_OUT,
    FileStat,
    Owner,
    ProcessSeen,
    Result,
    RootAccess,
    User,
)

_SUDO = "/usr/bin/sudo"
_ROOT_ENVIRONMENT = {"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", "HOME": "/root"}


class LocalSystem:
    """`System` for this machine, as the user we are."""

    def __init__(self) -> None:
        account = pwd.getpwuid(os.geteuid())
        home = Path(os.environ.get("HOME") or account.pw_dir)
        self._user = User(account.pw_name, account.pw_uid, account.pw_gid, home)

    # who and where

    @property
    def environ(self) -> Mapping[str, str]:
        environ = dict(os.environ)
        # sudo, su and cron leave it out or leave the caller's; `systemctl --user` works only with our own.
        runtime = Path(f"/run/user/{self._user.uid}")
        given = environ.get("XDG_RUNTIME_DIR")
        if given is None or self._owner_of(Path(given)) != self._user.uid:
            environ.pop("XDG_RUNTIME_DIR", None)
            if self._owner_of(runtime) == self._user.uid:
                environ["XDG_RUNTIME_DIR"] = str(runtime)
        return environ

    @property
    def user(self) -> User:
        return self._user

    @property
    def hostname(self) -> str:
        return socket.gethostname()

    @property
    def is_root(self) -> bool:
        """Whether root steps can be done in process."""
        return self._user.uid == 0

    def account(self, name: str) -> User | None:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            return None
        return User(found.pw_name, found.pw_uid, found.pw_gid, Path(found.pw_dir))

    def which(self, program: str, path: str | None = None) -> Path | None:
        along = path if path is not None else f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"
        found = shutil.which(program, path=along)
        return Path(found).absolute() if found else None

    # programs

    def run(
        self,
        argv: Sequence[str],
        *,
        root: bool = False,
        stdin: bytes | None = None,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        command = list(argv)
        environment = {**self.environ, **(env or {})}
        if root:
            self._check_program(Path(command[0]))
            if self.is_root:
                environment = _ROOT_ENVIRONMENT
            else:
                command = [_SUDO, "-n", "--", *command]
        try:
            done = subprocess.run(
                command,
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                check=False,
                timeout=timeout,
                env=environment,
                cwd="/",
            )
        except FileNotFoundError:
            return Result(tuple(argv), NOT_FOUND, stderr=f"{argv[0]}: no such program")
        except PermissionError:
            return Result(tuple(argv), NOT_FOUND, stderr=f"{argv[0]}: not executable")
        except subprocess.TimeoutExpired:
            return Result(tuple(argv), TIMED_OUT, stderr=f"{argv[0]}: no answer in {timeout:g} s")
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        return Result(tuple(argv), done.returncode, out, err)

    def root_access(self) -> RootAccess:
        if self.is_root:
            return "root"
        if not Path(_SUDO).exists():
            return "none"
        if self.run([_SUDO, "-n", "/usr/bin/true"], timeout=20).ok:
            return "sudo"
        return "ask" if sys.stdin.isatty() and sys.stderr.isatty() else "none"

    def become_root(self) -> bool:
        access = self.root_access()
        if access != "ask":
            return access != "none"
        prompt = "swarmbus needs root for the steps shown; password of %p: "
        return subprocess.run([_SUDO, "-v", "-p", prompt], check=False).returncode == 0

    def _check_program(self, program: Path) -> None:
        if not program.is_absolute():
            raise ValueError(f"not an absolute path: {program}")
        refuse_foreign_hands(program.resolve(), uid=0, root=True)

    # files

    def stat(self, path: Path) -> FileStat | None:
        try:
            seen = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(f"cannot look at {path}: {error.strerror}") from error
        mode, rest = stat.S_IMODE(seen.st_mode), (seen.st_uid, seen.st_gid, seen.st_size)
        if stat.S_ISLNK(seen.st_mode):
            return FileStat("link", mode, *rest, target=str(path.readlink()))
        if stat.S_ISREG(seen.st_mode):
            return FileStat("file", mode, *rest)
        return FileStat("directory" if stat.S_ISDIR(seen.st_mode) else "other", mode, *rest)

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

    def write_file(
        self, path: Path, data: bytes, *, mode: int, owner: Owner | None = None, root: bool = False
    ) -> None:
        refuse_foreign_hands(path.parent, uid=self._user.uid, root=root)
        if root and not self.is_root:
            run_as_root(self, write_commands(path, data, mode=mode, owner=owner or (0, 0)), f"writing {path}")
            return
        temporary = temporary_name(path)
        with self._storage(path):
            temporary.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            file = os.open(temporary, flags, 0o600)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(file, view) :]
                if owner is not None and owner != (os.fstat(file).st_uid, os.fstat(file).st_gid):
                    os.fchown(file, *owner)
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

    def make_dir(
        self, path: Path, *, mode: int = 0o755, owner: Owner | None = None, root: bool = False
    ) -> None:
        refuse_foreign_hands(path, uid=self._user.uid, root=root)
        if root and not self.is_root:
            uid, gid = owner or (0, 0)
            whose = ("-o", str(uid), "-g", str(gid))
            make = ("/usr/bin/install", "-d", "-m", f"{mode:04o}", *whose, str(path))
            run_as_root(self, [RootCommand(make)], f"making {path}")
            return
        with self._storage(path):
            path.mkdir(mode=0o700, exist_ok=True)
            if owner is not None:
                os.chown(path, *owner)
            path.chmod(mode)
            _sync_folder(path.parent)

    def remove(self, path: Path, *, root: bool = False) -> None:
        refuse_foreign_hands(path.parent, uid=self._user.uid, root=root)
        if root and not self.is_root:
            run_as_root(self, [RootCommand(("/usr/bin/rm", "-f", "--", str(path)))], f"removing {path}")
            return
        with self._storage(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            _sync_folder(path.parent)

    def remove_dir(self, path: Path, *, root: bool = False) -> bool:
        refuse_foreign_hands(path, uid=self._user.uid, root=root)
        if root and not self.is_root:
            return self.run(["/usr/bin/rmdir", "--", str(path)], root=True).ok
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

    # processes

    def spawn(self, argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> int:
        refuse_foreign_hands(log, uid=self._user.uid, root=False)
        # posix_spawn and not Popen: nobody waits for it, it is to outlive us.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        return os.posix_spawn(
            argv[0],
            list(argv),
            {**self.environ, **(env or {})},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )

    def process(self, pid: int) -> ProcessSeen | None:
        folder = Path(f"/proc/{pid}")
        try:
            # proc(5): the name in parentheses may hold anything; state is field 3, start time field 22
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            argv = (folder / "cmdline").read_bytes().split(b"\0")[:-1]
            uid = folder.stat().st_uid
        except OSError:
            return None
        if fields[0] in ("Z", "X"):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # one that we spawned ourselves
            return None
        return ProcessSeen(pid, int(fields[19]), tuple(os.fsdecode(word) for word in argv), uid)

    def signal(self, process: ProcessSeen, number: int) -> None:
        try:
            handle = os.pidfd_open(process.pid)
        except OSError:
            return
        try:
            seen = self.process(process.pid)
            if seen is not None and seen.start_ticks == process.start_ticks:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)

    def boot_id(self) -> str:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    # the rest

    def dial(self, host: str, port: int, data: bytes, timeout: float = 2.0) -> bytes | None:
        try:
            connection = socket.create_connection((host, port), timeout=timeout)
        except OSError:
            return None
        with connection:
            try:
                connection.sendall(data)
                return connection.recv(256)
            except OSError:
                return b""

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="swarmbus-") as folder:
            yield Path(folder)

    @contextlib.contextmanager
    def locked(self, path: Path, wait: float) -> Iterator[None]:
        refuse_foreign_hands(path, uid=self._user.uid, root=False)
        deadline = time.monotonic() + wait
        with self._storage(path):
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        holder = os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"
                        raise Conflict(
                            f"another swarmbus (pid {holder}) is changing this host",
                            hint="wait until it has finished, then call this again",
                        ) from None
                    time.sleep(0.05)
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(file)

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

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    @staticmethod
    def _owner_of(path: Path) -> int | None:
        try:
            return path.lstat().st_uid
        except OSError:
            return None

    @contextlib.contextmanager
    def _storage(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"cannot change {path}: {error.strerror}") from error


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
