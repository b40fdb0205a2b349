"""Python environments: where the daemons' interpreters are, and what is installed beside them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from swarmbus.provision.sources.files import Files
from swarmbus.provision.sources.memo import Source, probe
from swarmbus.provision.system import System

DEPENDENCIES: Final = ("aiomqtt", "paho_mqtt", "pydantic", "pydantic_core")
"""What a listener daemon has loaded besides the standard library, as their metadata folders are called."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment.

    Attributes:
        prefix: Its folder, links not followed.
        interpreter: What its ``bin/python`` comes to in the end; None if it leads nowhere.
        made_with: The version that its pyvenv.cfg names, as ``3.11``; empty if it does not.
        packages: Its folder of packages; None if there is none.
    """

    prefix: Path
    interpreter: Path | None
    made_with: str = ""
    packages: Path | None = None

    @property
    def version(self) -> str:
        """Of the interpreter by its own name, as ``3.13`` of ``python3.13``; empty if that has none."""
        found = re.fullmatch(r"python(3\.\d+)", self.interpreter.name if self.interpreter else "")
        return found[1] if found else ""


class Pythons(Source):
    """See the module."""

    def __init__(self, system: System, files: Files) -> None:
        super().__init__(system)
        self._files = files

    @probe
    def environment(self, python: Path) -> Environment | None:
        """The environment of an interpreter's path; None if it is in none (PEP 405)."""
        prefix = python.parent.parent
        text = self._files.text(prefix / "pyvenv.cfg")
        if text is None:
            return None
        made = re.search(r"^version(?:_info)? *= *(\d+\.\d+)", text, re.MULTILINE)
        folders = [name for name in self._files.names(prefix / "lib") if name.startswith("python3.")]
        packages = [prefix / "lib" / name / "site-packages" for name in folders]
        return Environment(
            prefix,
            self._files.real(python),
            made[1] if made else "",
            next((folder for folder in packages if self._files.followed(folder) is not None), None),
        )

    @probe
    def installed(self, packages: Path) -> dict[str, float]:
        """By ``name-version`` when each dependency came to be in that folder.

        That of the inode: installers set the time of content to that of the archive, or of their cache.
        """
        found = {}
        for name in self._files.names(packages):
            stem = name.removesuffix(".dist-info")
            if stem != name and stem.rpartition("-")[0].lower() in DEPENDENCIES:
                seen = self._files.stat(packages / name / "RECORD")
                if seen is not None:
                    found[stem] = seen.changed
        return found
