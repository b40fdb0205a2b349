"""Processes, as proc(5) tells of them; of other users' processes it tells less."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from swarmbus.errors import StorageError
from swarmbus.provision.sources.memo import CouldNotLook, Source, probe

_TICKS: Final = 100  # USER_HZ, in which /proc/PID/stat counts: 100 on every Linux architecture of ours
_TOO_MANY: Final = 20_000  # descriptors to look at one by one
_PROC: Final = Path("/proc")


class Processes(Source):
    """See the module."""

    @probe
    def started(self, pid: int) -> float:
        """Unix time of its start."""
        process = self.system.process(pid)
        booted = re.search(r"^btime (\d+)", self._text(_PROC / "stat"), re.MULTILINE)
        if process is None or booted is None:
            raise CouldNotLook(f"there is no telling when process {pid} has started")
        return int(booted[1]) + process.start_ticks / _TICKS

    @probe
    def state(self, pid: int) -> str:
        """``S (sleeping)``, ``T (stopped)``; empty if it could not be read."""
        return self._status(pid).get("State", "")

    @probe
    def memory(self, pid: int) -> int:
        """Bytes that it has in memory."""
        resident = self._status(pid).get("VmRSS", "")
        if not resident.endswith(" kB"):
            raise CouldNotLook(f"process {pid} does not tell its memory")
        return int(resident.split()[0]) * 1024

    @probe
    def open_files_limit(self, pid: int) -> int:
        """How many descriptors it may have."""
        found = re.search(
            r"^Max open files +(\d+|unlimited)", self._text(_PROC / f"{pid}/limits"), re.MULTILINE
        )
        if found is None:
            raise CouldNotLook(f"process {pid} does not tell its limits")
        return int(found[1]) if found[1].isdigit() else 1 << 62

    @probe
    def open_files(self, pid: int) -> int:
        """How many descriptors it has."""
        names = self.system.list(_PROC / f"{pid}/fd")
        if not names:
            raise CouldNotLook(f"the descriptors of process {pid} are hidden from us")
        return len(names)

    @probe
    def deleted_code(self, pid: int) -> tuple[str, ...]:
        """Files of code that it runs and that are not on the disk any more."""
        maps = self._text(_PROC / f"{pid}/maps")
        if not maps:
            raise CouldNotLook(f"process {pid} does not tell what it has mapped")
        return parse_deleted_code(maps)

    @probe
    def environment(self, pid: int) -> dict[str, str]:
        """Its variables, as they were at its start."""
        data = self.system.read(_PROC / f"{pid}/environ") or b""
        pairs = (word.partition("=") for word in data.decode(errors="replace").split("\0"))
        return {name: value for name, sign, value in pairs if sign}

    @probe
    def inotify_instances(self) -> int:
        """How many this user's processes have; the kernel's limit is for each user."""
        count = looked = 0
        for name in self.system.list(_PROC):
            if not name.isdigit():
                continue
            owner = self.system.stat(_PROC / name)
            if owner is None or owner.uid != self.system.user.uid:
                continue
            folder = _PROC / name / "fd"
            for descriptor in self.system.list(folder):
                looked += 1
                if looked > _TOO_MANY:
                    raise CouldNotLook(f"this user has more than {_TOO_MANY} open files")
                try:
                    seen = self.system.stat(folder / descriptor)
                except StorageError:
                    continue  # of a program that may more than its user
                count += seen is not None and seen.target == "anon_inode:inotify"
        if not looked:
            raise CouldNotLook("the descriptors of this user's processes are hidden")
        return count

    def _status(self, pid: int) -> dict[str, str]:
        pairs = (line.partition(":") for line in self._text(_PROC / f"{pid}/status").splitlines())
        return {name: value.strip() for name, _, value in pairs}

    def _text(self, path: Path) -> str:
        return (self.system.read(path) or b"").decode(errors="replace")


def parse_deleted_code(maps: str) -> tuple[str, ...]:
    """Of proc_pid_maps(5) the executable mappings, whose file is ``… (deleted)``; memory files are none."""
    found: dict[str, None] = {}
    for line in maps.splitlines():
        words = line.split(None, 5)
        if len(words) == 6 and "x" in words[1] and words[5].endswith(" (deleted)"):
            path = words[5].removesuffix(" (deleted)")
            if path.startswith("/") and not path.startswith(("/memfd:", "/dev/", "/SYSV")):
                found[path] = None
    return tuple(found)
