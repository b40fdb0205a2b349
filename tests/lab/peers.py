"""The released tool that ours replaces, swarmbus-py from PyPI, each release in an environment of its own.

Its import name and its command are the same as ours, so it never shares an environment with us.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from functools import cache
from pathlib import Path

from tests.lab.cache import cache_folder, locked

RELEASES = ("0.1.4", "0.2.0")


@cache
def peer(version: str, *, extra: str = "") -> Path:
    """The ``bin`` folder of the environment with ``swarmbus-py==version``; made in the cache when absent.

    Args:
        version: Which release.
        extra: One of its extras, empty for none.

    Raises:
        RuntimeError: If pip could not install it; the message has pip's.
    """
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = cache_folder() / "peers"
    folder.mkdir(exist_ok=True)
    name = f"swarmbus-py[{extra}]" if extra else "swarmbus-py"
    home = folder / f"{name.replace('[', '-').strip(']')}-{version}-python{python}"
    with locked(folder / f"{home.name}.lock"):
        if not (home / "complete").exists() or not _runs(home):
            shutil.rmtree(home, ignore_errors=True)
            venv.create(home, with_pip=True)
            _install(home, f"{name}=={version}")
            (home / "complete").touch()
    return home / "bin"


def _install(home: Path, requirement: str) -> None:
    argv = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    result = subprocess.run([*argv, requirement], capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{requirement} could not be installed:\n{result.stderr}")


def _runs(home: Path) -> bool:
    """False when the interpreter it was made with has gone from the machine since."""
    try:
        return (
            subprocess.run([home / "bin" / "swarmbus", "--help"], capture_output=True, timeout=60).returncode
            == 0
        )
    except OSError:
        return False
