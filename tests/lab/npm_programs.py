"""Programs from npm that the tests run against us, each in a folder of its own in the cache.

Made when absent, from the npm registry and from nowhere else. The newest of them need a newer Node.js than
distributions have, so that one comes from npm too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

from tests.lab.cache import cache_folder, locked

NODE: Final = "node@26.9.0"
INSPECTOR: Final = "@modelcontextprotocol/inspector@2.12.0"  # Node.js >= 22.19
MCPORTER: Final = "mcporter@0.12.3"  # Node.js >= 24

_INSTALL_TIMEOUT = 300.0  # seconds


@cache
def npm_program(package: str, command: str) -> Path:
    """The program ``command`` of ``package`` (with its version); installed into the cache when absent.

    Raises:
        RuntimeError: If npm is not here, or could not install it; the message has npm's.
    """
    folder = cache_folder() / "npm"
    folder.mkdir(exist_ok=True)
    home = folder / package.replace("/", "-").removeprefix("@")
    with locked(folder / f"{home.name}.lock"):
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            _install(home, package)
            (home / "complete").touch()
    return home / "node_modules" / ".bin" / command


def npm_environment() -> dict[str, str]:
    """What the programs are run with: our Node.js first, and nothing reported to anybody."""
    node = npm_program(NODE, "node").parent
    return {"PATH": f"{node}:{os.environ['PATH']}", "DO_NOT_TRACK": "1", "NO_COLOR": "1"}


def _install(home: Path, package: str) -> None:
    if (npm := shutil.which("npm")) is None:
        raise RuntimeError("npm is not installed: apt-get install npm")
    (home / "package.json").write_text('{"private": true}\n')
    argv = [npm, "install", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error", package]
    ran = subprocess.run(argv, cwd=home, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT)
    if ran.returncode != 0:
        raise RuntimeError(f"{package} could not be installed:\n{ran.stderr}")
