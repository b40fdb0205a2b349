"""Files, folders, links, mounts and the room on disks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from swarmbus.provision.sources.memo import CouldNotLook, Source, probe
from swarmbus.provision.system import DiskSeen, FileStat, User

_LINKS: Final = 40  # path_resolution(7): the kernel gives up after as many
_MOUNTS: Final = Path("/proc/self/mounts")


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of proc_mounts(5)."""

    device: str
    point: Path
    kind: str
    options: tuple[str, ...]

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written below it."""
        return "ro" in self.options


class Files(Source):
    """See the module."""

    @probe
    def stat(self, path: Path) -> FileStat | None:
        """What lies there, a link not followed; None if nothing does."""
        return self.system.stat(path)

    @probe
    def real(self, path: Path) -> Path | None:
        """The path with all links followed; None if it leads nowhere."""
        done, rest, links = Path("/"), list(path.parts[1:]), 0
        while rest:
            part = rest.pop(0)
            if part == "..":
                done = done.parent
                continue
            seen = self.stat(done / part)
            if seen is None:
                return None
            if seen.kind != "link":
                done /= part
                continue
            links += 1
            if links > _LINKS:
                return None
            target = Path(seen.target or "")
            if target.is_absolute():
                done, rest = Path("/"), [*target.parts[1:], *rest]
            else:
                rest = [*target.parts, *rest]
        return done

    def followed(self, path: Path) -> FileStat | None:
        """What lies there, links followed; None if they lead nowhere."""
        real = self.real(path)
        return None if real is None else self.stat(real)

    @probe
    def text(self, path: Path) -> str | None:
        """Content of a file; None if there is none."""
        data = self.system.read(path)
        return None if data is None else data.decode(errors="replace")

    @probe
    def names(self, folder: Path) -> tuple[str, ...]:
        """What is in a folder; nothing also where we may not look."""
        return tuple(self.system.list(folder))

    @probe
    def may(self, what: Literal["-r", "-w", "-x"], path: Path) -> bool:
        """Whether this user may read, write or execute it: test(1) asks the kernel, and touches nothing."""
        result = self.system.run(["test", what, str(path)], timeout=5.0)
        if result.status not in (0, 1):
            raise CouldNotLook(f"test {what} {path}: {result.stderr.strip() or result.status}")
        return result.ok

    def programs(self, name: str, path: str) -> list[Path]:
        """Every executable of that name along a PATH, in its order."""
        found = []
        for folder in dict.fromkeys(word for word in path.split(":") if word.startswith("/")):
            candidate = Path(folder) / name
            try:
                seen = self.followed(candidate)
            except CouldNotLook:
                continue
            if seen is not None and seen.kind == "file" and seen.mode & 0o111:
                found.append(candidate)
        return found

    @probe
    def disk(self, path: Path) -> DiskSeen:
        """Room on the file system of the nearest folder that exists."""
        return self.system.disk(next(place for place in (path, *path.parents) if self.followed(place)))

    @probe
    def mounts(self) -> tuple[Mount, ...]:
        """All of them, in the order in which they were mounted."""
        text = self.text(_MOUNTS)
        if not text:
            raise CouldNotLook(f"there is no {_MOUNTS}")
        return parse_mounts(text)

    def mount_of(self, path: Path) -> Mount:
        """The one on which a path lies, or on which it would be made."""
        places = [place for place in (path, *path.parents) if self.followed(place)]
        real = self.real(places[0]) or Path("/")
        on = [mount for mount in self.mounts() if real.is_relative_to(mount.point)]
        if not on:
            raise CouldNotLook(f"{_MOUNTS} does not say what {real} is on")
        # The deepest; of two at one point, the later hides the earlier.
        return max(enumerate(on), key=lambda pair: (len(pair[1].point.parts), pair[0]))[1]

    @probe
    def uid(self, name: str) -> int | None:
        """Of an account of this machine, by passwd(5); None if it is not there."""
        for line in (self.text(Path("/etc/passwd")) or "").splitlines():
            fields = line.split(":")
            if fields[0] == name and len(fields) > 2 and fields[2].isdigit():
                return int(fields[2])
        return None


def others_may(seen: FileStat, user: User, bits: int) -> bool:
    """Whether anybody else has one of these rights, ``0o044`` or ``0o022``.

    The user's own group is not anybody else: Debian gives each user one, and lets it write what they make.
    """
    group = 0 if seen.gid == user.gid else bits & 0o070
    return bool(seen.mode & (bits & 0o007 | group))


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """proc_mounts(5): blanks in a path are written as octal numbers."""
    found = []
    for line in text.splitlines():
        words = line.split(" ")
        if len(words) >= 4:
            device, point = (re.sub(r"\\([0-7]{3})", _character, word) for word in words[:2])
            found.append(Mount(device, Path(point), words[2], tuple(words[3].split(","))))
    return tuple(found)


def _character(match: re.Match[str]) -> str:
    return chr(int(match[1], 8))
