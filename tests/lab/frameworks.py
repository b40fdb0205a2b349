"""Python frameworks that examples are written for, each in an environment of its own in the cache.

They are no dependencies of ours. Ours are installed beside them; swarmbus itself is that of the checkout.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import venv
from functools import cache
from pathlib import Path
from typing import Final

from tests.lab.cache import cache_folder, locked

LANGGRAPH: Final = "langgraph==1.2.24"

CHECKOUT = Path(__file__).resolve().parents[2]


@cache
def python_with(framework: str) -> Path:
    """An interpreter that has the framework and what swarmbus needs; made when absent.

    Raises:
        RuntimeError: If pip could not install it; the message has pip's.
    """
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = cache_folder() / "frameworks"
    folder.mkdir(exist_ok=True)
    home = folder / f"{framework}-python{python}"
    with locked(folder / f"{home.name}.lock"):
        if not (home / "complete").exists() or not _runs(home):
            shutil.rmtree(home, ignore_errors=True)
            venv.create(home)
            _install(home, framework)
            (home / "complete").touch()
    return home / "bin" / "python"


def _install(home: Path, framework: str) -> None:
    ours = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["dependencies"]
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install"]
    quiet = ["--quiet", "--disable-pip-version-check"]
    ran = subprocess.run([*pip, *quiet, framework, *ours], capture_output=True, text=True)
    if ran.returncode != 0:
        raise RuntimeError(f"{framework} could not be installed:\n{ran.stderr}")


def _runs(home: Path) -> bool:
    """False when the interpreter it was made with has gone from the machine since."""
    try:
        return subprocess.run([home / "bin" / "python", "-c", ""], timeout=60).returncode == 0
    except OSError:
        return False
