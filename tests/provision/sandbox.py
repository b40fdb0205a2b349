"""Sandbox: the real `LocalSystem`, with a folder as its root and a `Machine` in place of programs."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from swarmbus.provision.local_system import LocalSystem
from swarmbus.provision.root import RootStep
from swarmbus.provision.system import NOT_FOUND, FileStat, Result, RootAccess, User
from tests.provision.machine import Machine
from tests.provision.root_commands import Files, run_steps


class Sandbox(LocalSystem):
    """Files are real, below ``root``; root steps are ours to do; programs are the machine's.

    Args:
        kill_at: SIGKILL ourselves right after the change of that number, from 1; None for never.
    """

    def __init__(self, root: Path, machine: Machine, *, kill_at: int | None = None) -> None:
        super().__init__()
        self._root = root
        self._user = User("pi", os.geteuid(), os.getegid(), Path("/home/pi"))
        self.machine = machine
        self.kill_at = kill_at
        self.changes = 0
        self._depth = 0
        self._outside = root

    @property
    def environ(self) -> Mapping[str, str]:
        return {"XDG_RUNTIME_DIR": f"/run/user/{self._user.uid}"}

    @property
    def hostname(self) -> str:
        return "pi4"

    def root_access(self) -> RootAccess:
        return "sudo"

    def run_as_root(self, steps: Sequence[RootStep], tell: Callable[[RootStep], None]) -> None:
        run_steps(steps, tell, _RootFiles(self), lambda argv: self.run_program(argv, root=True))

    def which(self, program: str, path: str | None = None) -> Path | None:
        return {"apt-get": Path("/usr/bin/apt-get"), "cat": Path("/usr/bin/cat")}.get(program)

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        return self.run_program(tuple(argv), root=False)

    def run_program(self, argv: tuple[str, ...], *, root: bool) -> Result:
        """One of the machine's, as the user or as root."""
        with self._change(counts="show" not in argv and "-s" not in argv):
            answer = self.machine(self, argv, root)
        return answer or Result(argv, NOT_FOUND, stderr=f"no {argv[0]} here")

    def stat(self, path: Path) -> FileStat | None:
        seen = super().stat(self._at(path))
        if seen is None or path.is_relative_to("/home"):
            return seen
        return replace(seen, uid=0, gid=0)  # whoever runs the tests, what is not in a home is root's

    def read(self, path: Path) -> bytes | None:
        return super().read(self._at(path))

    def list(self, path: Path) -> list[str]:
        return super().list(self._at(path))

    def may_write(self, path: Path) -> bool:
        return super().may_write(self._at(path))

    def write_file(self, path: Path, data: bytes, *, mode: int) -> None:
        with self._change(counts=not path.is_relative_to(self._outside)):
            super().write_file(self._at(path), data, mode=mode)

    def append(self, path: Path, data: bytes) -> None:
        if self.kill_at == self.changes + 1 and self._depth == 0:
            super().append(self._at(path), data[: len(data) // 2])  # a line that is cut off
            os.kill(os.getpid(), signal.SIGKILL)
        with self._change():
            super().append(self._at(path), data)

    def make_dir(self, path: Path, *, mode: int = 0o755) -> None:
        with self._change():
            super().make_dir(self._at(path), mode=mode)

    def remove(self, path: Path) -> None:
        with self._change():
            super().remove(self._at(path))

    def remove_dir(self, path: Path) -> bool:
        with self._change():
            return super().remove_dir(self._at(path))

    def remove_tree(self, path: Path) -> None:
        with self._change():
            super().remove_tree(self._at(path))

    def move(self, source: Path, target: Path) -> None:
        with self._change():
            super().move(self._at(source), self._at(target))

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._root.parent) as folder:
            self._outside = Path(folder)
            yield self._outside

    def spawn(self, argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> int:
        """The trial of a mosquitto configuration; a process that says what mosquitto would."""
        assert Path(argv[0]).name == "mosquitto", argv
        script = "grep -q nonsense $1 && exit 3; echo mosquitto version 2 running >&2; exec sleep 9"
        return super().spawn(["/bin/sh", "-c", script, "sh", argv[2]], log=log, env=env)

    @contextmanager
    def locked(self, path: Path, wait: float) -> Iterator[None]:
        with super().locked(self._at(path), wait):
            yield

    def lock_holder(self, path: Path) -> bytes | None:
        return super().lock_holder(self._at(path))

    def dial(self, host: str, port: int, data: bytes, timeout: float = 2.0) -> bytes | None:
        unit = self.machine.state(self)["units"].get("system:mosquitto.service", {})
        return b"\x20\x02\x00\x00" if unit.get("active") and port == 1883 else None

    @contextmanager
    def _change(self, *, counts: bool = True) -> Iterator[None]:
        """Count what changes the machine, and die where it is asked for; nested ones belong to the outer."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if counts and self._depth == 0:
            self.changes += 1
            if self.changes == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def _at(self, path: Path) -> Path:
        return path if path.is_relative_to(self._outside) else self._root / path.relative_to("/")


class _RootFiles(Files):
    def __init__(self, system: Sandbox) -> None:
        self._system = system

    def write(self, path: Path, data: bytes, mode: int) -> None:
        self._system.write_file(path, data, mode=mode)

    def move(self, source: Path, target: Path) -> None:
        self._system.move(source, target)

    def remove(self, path: Path) -> None:
        self._system.remove(path)

    def make_dir(self, path: Path, mode: int) -> None:
        self._system.make_dir(path, mode=mode)

    def remove_dir(self, path: Path) -> bool:
        return self._system.remove_dir(path)


def tree(root: Path, *, without: Sequence[str] = ()) -> dict[str, tuple[str, str]]:
    """Every file and folder below ``root``: mode and content, to compare two hosts."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if any(part in name for part in without):
            continue
        mode = f"{path.lstat().st_mode & 0o7777:04o}"
        found[name] = (mode, path.read_text() if path.is_file() else "")
    return found
