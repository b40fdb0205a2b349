"""System: the one door to the machine. Whatever runs, reads or writes something goes through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from swarmbus.errors import CannotRun
from swarmbus.provision.root import RootStep

RootAccess = Literal["root", "sudo", "ask", "none"]
"""``root``: we are root. ``sudo``: sudo works without a password now. ``ask``: it may, if it can ask on the
terminal. ``none``: neither."""

NOT_FOUND = 127
TIMED_OUT = 124


@dataclass(frozen=True, slots=True)
class Result:
    """How a program ended.

    Attributes:
        status: Its exit status; `NOT_FOUND` if there is no such program, `TIMED_OUT` if it was stopped by us.
    """

    argv: tuple[str, ...]
    status: int
    stdout: str = ""
    stderr: str = ""

    @property
    def ok(self) -> bool:
        """Whether it ended with status 0."""
        return self.status == 0

    def check(self, doing: str) -> Result:
        """Return itself.

        Args:
            doing: What was being done, for the message: "installing mosquitto".

        Raises:
            CannotRun: If the program did not end well; the message has the last line it printed.
        """
        if self.ok:
            return self
        said = [line.strip() for line in (self.stderr or self.stdout).splitlines() if line.strip()]
        reason = said[-1] if said else f"exit status {self.status}"
        raise CannotRun(f"{doing} failed: {reason}", hint=f"see for yourself: {' '.join(self.argv)}")


@dataclass(frozen=True, slots=True)
class FileStat:
    """What lies at a path, a symbolic link not followed.

    Attributes:
        mode: Permission bits only.
        target: Where a symbolic link points to, as written in it; None for anything else.
        modified: Unix time at which its content was changed; an installer may set it to what it likes.
        changed: Unix time at which it came to be there, or its content or rights were changed.

    The times are not in its ``repr``, by which `swarmbus.provision.settled` sees whether all is as it was: no
    plan asks for them, and those of folders change with each message.
    """

    kind: Literal["file", "directory", "link", "other"]
    mode: int
    uid: int
    gid: int
    size: int = 0
    target: str | None = None
    modified: float = field(default=0.0, repr=False)
    changed: float = field(default=0.0, repr=False)


@dataclass(frozen=True, slots=True)
class DiskSeen:
    """Room on a file system, in bytes and in files; what is kept for root is not counted as free.

    Attributes:
        files: 0 where the file system makes them as they are needed (btrfs).
    """

    size: int
    free: int
    files: int = 0
    files_free: int = 0


@dataclass(frozen=True, slots=True)
class User:
    """An account of this machine."""

    name: str
    uid: int
    gid: int
    home: Path


@dataclass(frozen=True, slots=True)
class ProcessSeen:
    """A living process.

    Attributes:
        start_ticks: Clock ticks from boot to its start; with the pid it names a process within one boot.
    """

    pid: int
    start_ticks: int
    argv: tuple[str, ...]
    uid: int


class System(Protocol):
    """What the engine may ask of a machine; see `LocalSystem` for the real one.

    Paths are absolute. What is written or run, is written or run as the user; for what needs root there is
    `run_as_root`. A path of which another user could change a part raises `StorageError`.
    """

    @property
    def environ(self) -> Mapping[str, str]:
        """Environment of the programs that are run, with ``XDG_RUNTIME_DIR`` filled in where it exists."""
        ...

    @property
    def user(self) -> User:
        """Whose installation this is."""
        ...

    @property
    def hostname(self) -> str:
        """Name of the machine."""
        ...

    def which(self, program: str, path: str | None = None) -> Path | None:
        """Absolute path of an executable, looked for along ``path`` (default: ours and the system's)."""
        ...

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run a program to its end.

        Args:
            timeout: In seconds; then the program is killed.
            env: Added to `environ`.
        """
        ...

    def root_access(self) -> RootAccess:
        """How we could become root; asks nothing on the terminal."""
        ...

    def run_as_root(self, steps: Sequence[RootStep], tell: Callable[[RootStep], None]) -> None:
        """Run all of them in order as one script, by one call of sudo, which may ask for the password.

        The first word of each command must be an absolute path that only root can write.

        Args:
            tell: Called with each step as it is begun.

        Raises:
            RootStepsNeeded: If sudo did not let us in; nothing was done.
            CannotRun: If a command failed; what comes after it was not begun.
        """
        ...

    def stat(self, path: Path) -> FileStat | None:
        """What lies at ``path``; None if nothing does."""
        ...

    def read(self, path: Path) -> bytes | None:
        """Content of a file, links followed; None if there is none.

        Raises:
            StorageError: If it is there and cannot be read.
        """
        ...

    def list(self, path: Path) -> list[str]:
        """Names in a folder, sorted; empty if there is no such folder or it cannot be read."""
        ...

    def disk(self, path: Path) -> DiskSeen:
        """Room on the file system on which ``path`` lies.

        Raises:
            StorageError: If it cannot be found out.
        """
        ...

    def may_write(self, path: Path) -> bool:
        """Whether this user may write that file; or, if it is not there, make it and the folders above it."""
        ...

    def write_file(self, path: Path, data: bytes, *, mode: int) -> None:
        """Put ``data`` at ``path`` in one step: temporary file beside it, fsync, rename, fsync of the folder.

        A symbolic link at ``path`` is replaced, not followed.
        """
        ...

    def append(self, path: Path, data: bytes) -> None:
        """Append to a file of ours (0600), and fsync."""
        ...

    def make_dir(self, path: Path, *, mode: int = 0o755) -> None:
        """Make one folder; or, if it is there, give it that mode."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file or link, if it is there."""
        ...

    def remove_dir(self, path: Path) -> bool:
        """Remove an empty folder; False if it is not empty or not there."""
        ...

    def remove_tree(self, path: Path) -> None:
        """Remove a folder of ours with all that is in it, if it is there."""
        ...

    def move(self, source: Path, target: Path) -> None:
        """Rename within one file system; ``target`` must not be there, or be a file."""
        ...

    def spawn(self, argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> int:
        """Start a background process in a session of its own, its output appended to ``log``; its pid."""
        ...

    def process(self, pid: int) -> ProcessSeen | None:
        """The process, unless it is dead or a zombie."""
        ...

    def signal(self, process: ProcessSeen, number: int) -> None:
        """Send a signal to exactly this process; nothing happens if it has ended."""
        ...

    def boot_id(self) -> str:
        """A word that is another one after each boot."""
        ...

    def dial(self, host: str, port: int, data: bytes, timeout: float = 2.0) -> bytes | None:
        """Connect, send, and return the first bytes of the answer.

        Returns:
            None if nobody accepts the connection; empty if whoever did says nothing in ``timeout`` seconds.
        """
        ...

    def scratch(self) -> AbstractContextManager[Path]:
        """A folder (0700) with a short path that is gone afterwards."""
        ...

    def locked(self, path: Path, wait: float) -> AbstractContextManager[None]:
        """Hold the lock file ``path``.

        Raises:
            Conflict: If another process still held it after ``wait`` seconds; the message has its pid.
        """
        ...

    def lock_holder(self, path: Path) -> bytes | None:
        """Content of the lock file ``path`` while some process holds its lock; None while none does."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that only goes forward."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...
