"""Which mosquitto the tests run: the installed one, or Debian's package unpacked into a folder.

``python -m tests.lab.mosquitto_program FOLDER`` unpacks it; needs no root, only apt's package lists.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.lab import outside
from tests.lab.cache import cache_folder, locked

#: Where `make test` unpacks it when it is not installed.
UNPACKED = Path(__file__).resolve().parents[2] / "build" / "mosquitto"

_DEBIAN_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


class NoMosquitto(Exception):
    """There is none here; the message says how to get one."""


@dataclass(frozen=True)
class Program:
    """How to start a mosquitto: the beginning of its command line, and variables it needs."""

    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)

    def version(self) -> str:
        """For instance ``2.0.11``."""
        # mosquitto -h ends with status 1.
        told = subprocess.run(
            [*self.argv, "-h"], capture_output=True, text=True, env=os.environ | self.environment
        )
        return told.stdout.split()[2]


@cache
def program() -> Program:
    """The installed mosquitto, else the one in `UNPACKED`.

    Raises:
        NoMosquitto: If there is neither.
    """
    # Debian installs it into /usr/sbin, which is not on every user's PATH.
    found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is not None:
        return Program((found,))
    if UNPACKED.is_dir():
        return _unpacked_in(UNPACKED)
    raise NoMosquitto("mosquitto is not installed; `make mosquitto` gets one for the tests")


def debian(suite: str) -> Program:
    """The mosquitto of another Debian, ``trixie`` for instance, with its own C library, in the cache.

    Raises:
        NoMosquitto: If it cannot be had here: no apt, no Debian keys, or no way to the mirror.
    """
    if shutil.which("apt-get") is None or not Path(_DEBIAN_KEYS).is_file():
        raise NoMosquitto(f"{suite}'s mosquitto needs apt-get and {_DEBIAN_KEYS} (debian-archive-keyring)")
    folder = cache_folder() / f"mosquitto-{suite}"
    with locked(cache_folder() / f"mosquitto-{suite}.lock"):
        if not folder.is_dir():
            _unpack(folder, _apt_of(suite, cache_folder() / f"apt-{suite}"))
    return _unpacked_in(folder)


def _apt_of(suite: str, folder: Path) -> list[str]:
    """Options that give apt-get a world of its own, in which nothing is installed."""
    for name in ("lists/partial", "cache/archives/partial", "empty.d"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    mirror = outside.debian_mirror() or "http://deb.debian.org/debian"
    (folder / "sources.list").write_text(f"deb [signed-by={_DEBIAN_KEYS}] {mirror} {suite} main\n")
    options = {
        "Dir::State::Lists": folder / "lists",
        "Dir::State::Status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": folder / "empty.d",
        "APT::Sandbox::User": "root",  # _apt cannot write into a folder of ours
    }
    listed = [f"-o{name}={value}" for name, value in options.items()]
    _run(["apt-get", "-q", *listed, "update"])
    return listed


def _unpack(into: Path, options: Sequence[str] = ()) -> None:
    """Unpack mosquitto, and those of the packages it needs that are not installed, into a new folder."""
    partial = into.with_name(f"{into.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    packages = partial / "packages"
    packages.mkdir(parents=True)
    # Not --print-uris, which leaves out what is in apt's archive already.
    simulate = ["apt-get", "-qq", "--simulate", "--no-install-recommends", *options, "install", "mosquitto"]
    # Inst mosquitto (2.0.11-1.2+deb12u2 Debian:12.12/oldstable [amd64])
    names = [line.split()[1] for line in _run(simulate).splitlines() if line.startswith("Inst ")]
    _run(["apt-get", "-q", *options, "download", *names], cwd=packages)
    for package in sorted(packages.iterdir()):
        _run(["dpkg", "-x", str(package), str(partial)])
    shutil.rmtree(packages)
    partial.rename(into)


def _run(argv: Sequence[str], cwd: Path | None = None) -> str:
    result = subprocess.run(argv, capture_output=True, text=True, cwd=cwd, env=os.environ | {"LC_ALL": "C"})
    if result.returncode != 0:
        raise NoMosquitto(f"{' '.join(argv)} failed: {result.stderr.strip()}")
    return result.stdout


def _unpacked_in(folder: Path) -> Program:
    binary = folder / "usr/sbin/mosquitto"
    libraries = {str(path.parent) for path in folder.rglob("*.so.*") if path.parent.name.endswith("-gnu")}
    path = ":".join(sorted(libraries))
    # There only if its C library is of another release, and then nothing else can load the program.
    loaders = sorted(path for path in folder.rglob("ld-linux*.so.*"))
    if loaders:
        return Program((str(loaders[0]), "--library-path", path, str(binary)))
    return Program((str(binary),), {"LD_LIBRARY_PATH": path})


if __name__ == "__main__":
    try:
        _unpack(Path(sys.argv[1]))
    except NoMosquitto as error:
        sys.exit(str(error))
