"""The wheels that installing swarmbus needs, for every Python of the images, downloaded once into the cache.

A host that has an index still prefers the index's copy of the same version (pip's choice, seen with 23.0), so
that the wheels serve the hosts made with ``index=False``, and those that are cut off.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from tests.lab.cache import cache_folder, locked
from tests.lab.images import SUITES

CHECKOUT = Path(__file__).resolve().parents[2]

#: hatchling asks for `editables` by itself when it builds for `pip install -e`.
ALSO = ("editables", "pip")

#: Both images' C libraries (2.36 and 2.41) satisfy all of these.
MANYLINUX = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")


def wheelhouse(checkout: Path = CHECKOUT) -> Path:
    """The folder of wheels for ``checkout``'s pyproject.toml: its dependencies, extras and build backend.

    Downloaded again when one of those requirements changes, not when another part of the file does.
    """
    wanted = requirements(tomllib.loads((checkout / "pyproject.toml").read_text()))
    key = hashlib.sha256(repr((wanted, MANYLINUX, SUITES, platform.machine())).encode()).hexdigest()[:8]
    folder = cache_folder() / "wheelhouse"
    folder.mkdir(exist_ok=True)
    house = folder / key
    with locked(folder / "lock"):
        if not house.is_dir():
            partial = folder / f"{key}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            for version in sorted(set(SUITES.values())):
                _download(wanted, version, partial)
            partial.rename(house)
    return house


def requirements(pyproject: dict[str, Any]) -> list[str]:
    """All requirements an installation may come to need, sorted, each once."""
    project = pyproject["project"]
    extras = project.get("optional-dependencies", {}).values()
    found = {*project.get("dependencies", []), *pyproject["build-system"]["requires"], *ALSO}
    return sorted(found.union(*extras))


def _download(wanted: list[str], version: str, into: Path) -> None:
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(into), "--only-binary=:all:"]
    argv += ["--implementation=cp", f"--python-version={version}"]
    argv += [f"--platform={tag}_{platform.machine()}" for tag in MANYLINUX]
    result = subprocess.run([*argv, *wanted], capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"pip could not download the wheels for Python {version}:\n{result.stderr}")
