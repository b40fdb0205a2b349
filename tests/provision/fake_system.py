"""FakeSystem: a machine in a dict. Files are entries, programs are one function that answers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from swarmbus.errors import Conflict, StorageError
from swarmbus.provision.root import RootStep, RootStepsNeeded
from swarmbus.provision.system import (
    NOT_FOUND,
    DiskSeen,
    FileStat,
    ProcessSeen,
    Result,
    RootAccess,
    User,
)
from tests.provision.root_commands import Files, run_steps

PI = User("pi", 1000, 1000, Path("/home/pi"))

Programs = Callable[["FakeSystem", tuple[str, ...], bool], Result | None]
"""Given argv and whether it runs as root; None means that there is no such program."""


@dataclass
class Entry:
    """A file, or with ``data`` None a folder, or with a ``target`` a symbolic link."""

    data: bytes | None
    mode: int
    uid: int
    gid: int
    target: str | None = None
    modified: float = 0.0
    changed: float = 0.0


@dataclass
class FakeSystem:
    """A `System` that touches nothing.

    Attributes:
        answers: What a TCP port of loopback answers to a CONNECT.
        root: What `root_access` says.
        ran: Every command line that was run.
        writes: Paths that were written, removed or made, in order.
        held: Content of lock files that somebody else holds.
        unwritable: Files and folders that this user may not write.
        hidden: Files that this user may not read.
        disks: Room on the file systems at these folders; elsewhere there is plenty.
    """

    files: dict[Path, Entry] = field(default_factory=dict)
    programs: Programs = lambda system, argv, root: None
    installed: Mapping[str, str] = field(default_factory=dict)
    answers: dict[int, bytes] = field(default_factory=dict)
    root: RootAccess = "sudo"
    user: User = PI
    hostname: str = "pi4"
    environ: Mapping[str, str] = field(default_factory=lambda: {"XDG_RUNTIME_DIR": "/run/user/1000"})
    ran: list[tuple[str, ...]] = field(default_factory=list)
    writes: list[Path] = field(default_factory=list)
    held: dict[Path, bytes] = field(default_factory=dict)
    processes: dict[int, ProcessSeen] = field(default_factory=dict)
    unwritable: set[Path] = field(default_factory=set)
    hidden: set[Path] = field(default_factory=set)
    disks: dict[Path, DiskSeen] = field(default_factory=dict)
    clock: float = 0.0

    def put(self, path: str, data: str = "", mode: int = 0o644, uid: int = 1000) -> None:
        """Have a file, with the folders above it."""
        for folder in reversed(Path(path).parents):
            self.files.setdefault(folder, Entry(None, 0o755, 0, 0))
        self.files[Path(path)] = Entry(data.encode(), mode, uid, uid)

    def link(self, path: str, target: str) -> None:
        """Have a symbolic link."""
        self.put(path)
        self.files[Path(path)].target = target

    def which(self, program: str, path: str | None = None) -> Path | None:
        if program.startswith("/"):
            return Path(program) if program in self.installed.values() else None
        found = self.installed.get(program)
        return Path(found) if found else None

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        return self._run(tuple(argv), root=False)

    def _run(self, argv: tuple[str, ...], *, root: bool) -> Result:
        self.ran.append(argv)
        answer = self.programs(self, argv, root)
        return answer if answer is not None else Result(argv, NOT_FOUND, stderr=f"no {argv[0]} here")

    def root_access(self) -> RootAccess:
        return self.root

    def run_as_root(self, steps: Sequence[RootStep], tell: Callable[[RootStep], None]) -> None:
        if self.root == "none":
            raise RootStepsNeeded("some steps need root, and sudo did not let us", steps=steps)
        run_steps(steps, tell, _RootFiles(self), lambda argv: self._run(argv, root=True))

    def stat(self, path: Path) -> FileStat | None:
        entry = self.files.get(path)
        if entry is None:
            return None
        size = len(entry.data or b"")
        kind = "directory" if entry.data is None else "file" if entry.target is None else "link"
        rights, times = (entry.mode, entry.uid, entry.gid), (entry.modified, entry.changed)
        return FileStat(kind, *rights, size, entry.target, *times)  # type: ignore[arg-type]

    def disk(self, path: Path) -> DiskSeen:
        places = [place for place in (path, *path.parents) if place in self.disks]
        return self.disks[places[0]] if places else DiskSeen(32 << 30, 16 << 30, 2_000_000, 1_500_000)

    def read(self, path: Path) -> bytes | None:
        if path in self.hidden:
            raise StorageError(f"cannot read {path}: Permission denied")
        entry = self.files.get(path)
        return entry.data if entry is not None else None

    def list(self, path: Path) -> list[str]:
        return sorted(other.name for other in self.files if other.parent == path and other != path)

    def may_write(self, path: Path) -> bool:
        return not any(path.is_relative_to(place) for place in self.unwritable)

    def write_file(self, path: Path, data: bytes, *, mode: int) -> None:
        if path.parent not in self.files:
            raise StorageError(f"cannot change {path}: no such folder")
        self.files[path] = Entry(data, mode, self.user.uid, self.user.gid)
        self.writes.append(path)

    def append(self, path: Path, data: bytes) -> None:
        self.write_file(path, (self.read(path) or b"") + data, mode=0o600)

    def make_dir(self, path: Path, *, mode: int = 0o755) -> None:
        entry = self.files.setdefault(path, Entry(None, mode, self.user.uid, self.user.gid))
        self.files[path] = replace(entry, mode=mode)
        self.writes.append(path)

    def remove(self, path: Path) -> None:
        if self.files.pop(path, None) is not None:
            self.writes.append(path)

    def remove_dir(self, path: Path) -> bool:
        if path not in self.files or self.list(path):
            return False
        del self.files[path]
        self.writes.append(path)
        return True

    def remove_tree(self, path: Path) -> None:
        for other in [other for other in self.files if other.is_relative_to(path)]:
            del self.files[other]
        self.writes.append(path)

    def move(self, source: Path, target: Path) -> None:
        for other in [other for other in self.files if other.is_relative_to(source)]:
            self.files[target / other.relative_to(source)] = self.files.pop(other)
        self.writes.append(target)

    def spawn(self, argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> int:
        raise AssertionError(f"a fake machine starts no processes: {argv}")

    def process(self, pid: int) -> ProcessSeen | None:
        return self.processes.get(pid)

    def signal(self, process: ProcessSeen, number: int) -> None:
        self.processes.pop(process.pid, None)

    def boot_id(self) -> str:
        return "boot-1"

    def dial(self, host: str, port: int, data: bytes, timeout: float = 2.0) -> bytes | None:
        return self.answers.get(port)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        self.make_dir(Path("/scratch"), mode=0o700)
        yield Path("/scratch")
        self.remove_tree(Path("/scratch"))

    @contextlib.contextmanager
    def locked(self, path: Path, wait: float) -> Iterator[None]:
        if path in self.held:
            raise Conflict("another swarmbus is changing this host")
        yield

    def lock_holder(self, path: Path) -> bytes | None:
        return self.held.get(path)

    def monotonic(self) -> float:
        self.clock += 0.01
        return self.clock

    def sleep(self, seconds: float) -> None:
        self.clock += seconds


class _RootFiles(Files):
    def __init__(self, system: FakeSystem) -> None:
        self._system = system

    def write(self, path: Path, data: bytes, mode: int) -> None:
        self._system.write_file(path, data, mode=mode)
        self._system.files[path] = Entry(data, mode, 0, 0)

    def move(self, source: Path, target: Path) -> None:
        self._system.move(source, target)

    def remove(self, path: Path) -> None:
        self._system.remove(path)

    def make_dir(self, path: Path, mode: int) -> None:
        self._system.make_dir(path, mode=mode)

    def remove_dir(self, path: Path) -> bool:
        return self._system.remove_dir(path)
