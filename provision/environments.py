"""Environments: the one that runs, the one that is to take its place, and the way back without a network.

Where install.sh has made it, the new environment is built beside the old one, and one rename of a link
switches. The others belong to uv, pipx or the operator, who change them in place: a copy is kept before.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarmbus.errors import CannotRun, StorageError
from swarmbus.provision.installation import Installation
from swarmbus.provision.layout import Layout
from swarmbus.provision.restart import Code
from swarmbus.provision.system import System

_INSTALL_TIMEOUT = 1800.0  # a Raspberry Pi Zero that builds a wheel
_COPY_TIMEOUT = 600.0
_TRY_TIMEOUT = 60.0
_SPARE_KB = 50_000

_PROBE = """
import json, swarmbus.cli, swarmbus.listener
from swarmbus.fingerprint import installed_fingerprint
from swarmbus.mailbox.store import SCHEMA_VERSION
from swarmbus.version import WIRE, __version__
print(json.dumps({"version": __version__, "wire": WIRE, "schema": SCHEMA_VERSION,
                  "fingerprint": installed_fingerprint()}))
"""

# What pip and uv put before the line that says most.
_ERROR = re.compile(r"error\b|×|\w+Error: ", re.IGNORECASE)

_VERSION = "from importlib.metadata import version; print(version('swarmbus'))"


@dataclass(frozen=True, slots=True)
class Release:
    """What an environment holds, by its own word.

    Attributes:
        schema: Of the mailbox.
    """

    version: str
    wire: int
    schema: int
    fingerprint: str

    @property
    def code(self) -> Code:
        """What listeners that run it say of themselves."""
        return Code(self.version, self.fingerprint)


@dataclass(frozen=True, slots=True)
class Kept:
    """The old environment, ready to run and to come back.

    Attributes:
        folder: Where it is.
        command: The link by which users call swarmbus, and where it pointed; None if there was none.
    """

    folder: Path
    command: tuple[Path, str] | None = None

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin/python"

    def as_json(self) -> dict[str, Any]:
        """For the record of an upgrade."""
        command = [str(self.command[0]), self.command[1]] if self.command else None
        return {"folder": str(self.folder), "command": command}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Kept:
        """The same, read again."""
        command = document["command"]
        return cls(Path(document["folder"]), (Path(command[0]), command[1]) if command else None)


class Environments:
    """Those of one installation."""

    def __init__(self, system: System, layout: Layout, here: Installation) -> None:
        self._system = system
        self._layout = layout
        self._here = here

    def look(self, python: Path | None = None) -> Release:
        """Ask an environment, in a process of its own, what it holds; this also loads all of it once.

        Args:
            python: Its interpreter; None for that of the installation.

        Raises:
            CannotRun: If it does not run.
        """
        asked = self._system.run([str(python or self._here.python), "-I", "-c", _PROBE], timeout=_TRY_TIMEOUT)
        asked.check("trying what was installed")
        try:
            return Release(**json.loads(asked.stdout))
        except (ValueError, TypeError) as error:
            raise CannotRun(f"what was installed is no swarmbus that we know: {asked.stdout!r}") from error

    def refuse_a_full_disk(self) -> None:
        """See that there is room for another environment and the copy of a mailbox.

        Raises:
            StorageError: If there is not.
        """
        size = _first_number(self._system.run(["du", "-skL", str(self._here.prefix)], timeout=60).stdout)
        mail = _first_number(self._system.run(["du", "-sk", str(self._layout.state)], timeout=60).stdout)
        needed = 2 * size + mail + _SPARE_KB
        for folder in (self._here.prefix.parent, self._layout.state):
            told = self._system.run(["df", "-Pk", str(folder)]).stdout.splitlines()
            free = int(told[-1].split()[3]) if len(told) > 1 else needed
            if free < needed:
                raise StorageError(
                    f"{folder} has {free // 1000} MB free, and an upgrade may need {needed // 1000} MB",
                    hint=f"make room: du -xh {folder} | sort -h | tail",
                )

    def keep(self, stamp: str) -> Kept:
        """Have the old one where the new one does not touch it.

        Args:
            stamp: Part of its name.
        """
        command = self._command()
        if self._here.kind == "linked-venv":
            return Kept(self._real(), command)
        shelf = self._shelf
        for folder in (*reversed(shelf.parents), shelf):
            if self._system.stat(folder) is None:
                self._system.make_dir(folder, mode=0o700)
        for other in self._system.list(shelf):
            self._system.remove_tree(shelf / other)
        folder = shelf / f"{self._here.version}-{stamp}"
        self._copy(self._here.prefix, folder)
        return Kept(folder, command)

    def bring(self, requirement: str, stamp: str) -> Path | None:
        """Install another version.

        Where it is built beside the old one, `switch` is still to be called.

        Returns:
            The folder of the new environment; None where it was changed in place.

        Raises:
            CannotRun: If that failed; built beside, nothing is left of it.
        """
        if self._here.kind == "linked-venv":
            return self._build_beside(requirement, stamp)
        argv, env = self._installer(requirement)
        self._install(argv, env)
        if self._here.kind == "venv":
            self._bring_dependencies(self._here.python)
        return None

    def switch(self, new: Path) -> None:
        """Have ``new`` in use, in one rename."""
        self._link(new.name, self._here.prefix)

    def put_back(self, kept: Kept) -> None:
        """Have the old one in use again; nothing happens where it is."""
        prefix = self._here.prefix
        if self._here.kind == "linked-venv":
            if (seen := self._system.stat(prefix)) is None or seen.target != kept.folder.name:
                self._link(kept.folder.name, prefix)
        else:
            fresh, broken = (prefix.with_name(f".{prefix.name}.{word}") for word in ("back", "broken"))
            for folder in (fresh, broken):
                self._system.remove_tree(folder)
            self._copy(kept.folder, fresh)
            if self._system.stat(prefix) is not None:
                self._system.move(prefix, broken)
            self._system.move(fresh, prefix)
            self._system.remove_tree(broken)
        if kept.command is not None and self._system.stat(kept.command[0]) is None:
            self._link(kept.command[1], kept.command[0])

    def sweep(self, kept: Kept) -> None:
        """Remove what an interrupted upgrade has built and nobody uses."""
        if self._here.kind != "linked-venv":
            return
        parent, current = self._here.prefix.parent, self._real().name
        for name in self._system.list(parent):
            if name.startswith(f"{self._here.prefix.name}-") and name not in (current, kept.folder.name):
                self._system.remove_tree(parent / name)

    # how each is made

    def _build_beside(self, requirement: str, stamp: str) -> Path:
        """A copy of the old one, so that nothing is fetched that is there; then the new release over it."""
        new = self._here.prefix.with_name(f"{self._here.prefix.name}-{stamp}")
        try:
            self._copy(self._real(), new)
            self._system.remove(new / ".installed-from")  # it is not what install.sh has made any more
            python = new / "bin/python"
            self._install(self._pip(python, requirement))
            self._bring_dependencies(python)
            self._point_scripts_at_link(new)
        except BaseException:
            self._system.remove_tree(new)
            raise
        return new

    def _bring_dependencies(self, python: Path) -> None:
        """What is satisfied stays as it is; the release itself is not fetched again."""
        told = self._system.run([str(python), "-I", "-c", _VERSION], timeout=_TRY_TIMEOUT)
        version = told.check("looking at what was installed").stdout.strip()
        extras = f"[{','.join(self._here.extras)}]" if self._here.extras else ""
        argv = [str(python), "-I", "-m", "pip", "install", *_QUIET, f"swarmbus{extras}=={version}"]
        self._install(argv)

    def _install(self, argv: list[str], env: dict[str, str] | None = None) -> None:
        done = self._system.run(argv, timeout=_INSTALL_TIMEOUT, env=env)
        if not done.ok:
            lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
            errors = [line for line in lines if _ERROR.match(line)]
            why = (errors or lines or [f"exit status {done.status}"])[-1]
            raise CannotRun(f"installing failed: {why}", hint=f"see for yourself: {shlex.join(argv)}")

    def _pip(self, python: Path, requirement: str) -> list[str]:
        # --force-reinstall: pip keeps a wheel of the same version otherwise, whatever is in it.
        how = ["--upgrade", "--no-deps", "--force-reinstall"]
        return [str(python), "-I", "-m", "pip", "install", *_QUIET, *how, requirement]

    def _installer(self, requirement: str) -> tuple[list[str], dict[str, str]]:
        """The command line that changes the environment in place, and what it needs to know."""
        prefix = self._here.prefix
        match self._here.kind:
            case "pipx":
                pipx = self._program("pipx")
                return [pipx, "install", "--force", requirement], {"PIPX_HOME": str(prefix.parent.parent)}
            case "uv-tool":
                uv = self._program("uv")
                # --reinstall-package also has uv forget what it has built of a folder before.
                install = [uv, "tool", "install", "--force", "--reinstall-package", "swarmbus"]
                newest = ["--upgrade"] if requirement.partition("[")[0] == "swarmbus" else []
                where = {"UV_TOOL_DIR": str(prefix.parent), "NO_COLOR": "1"}
                return [*install, *newest, requirement], where
            case _:
                return self._pip(self._here.python, requirement), {}

    def _program(self, name: str) -> str:
        local = f"{self._system.user.home}/.local/bin"
        found = self._system.which(name) or self._system.which(name, local)
        if found is None:
            raise CannotRun(
                f"{name}, which has installed this swarmbus, is not here any more",
                hint=f"install {name}, or remove {self._here.prefix} and use install.sh",
            )
        return str(found)

    def _point_scripts_at_link(self, new: Path) -> None:
        """Python writes the path of an environment into its scripts; this one is reached by another."""
        for name in self._system.list(new / "bin"):
            seen = self._system.stat(script := new / "bin" / name)
            if seen is not None and seen.kind == "file":
                data = self._system.read(script) or b""
                if os.fsencode(new) in data:
                    there = data.replace(os.fsencode(new), os.fsencode(self._here.prefix))
                    self._system.write_file(script, there, mode=seen.mode)

    def _command(self) -> tuple[Path, str] | None:
        found = self._system.which("swarmbus", f"{self._system.user.home}/.local/bin:/usr/local/bin")
        seen = self._system.stat(found) if found else None
        return (found, seen.target) if found and seen and seen.target else None

    def _real(self) -> Path:
        seen = self._system.stat(self._here.prefix)
        if seen is None or seen.target is None:
            raise CannotRun(f"{self._here.prefix} is no link any more", hint="run install.sh again")
        return self._here.prefix.parent / seen.target

    @property
    def _shelf(self) -> Path:
        return self._layout.data / "before-upgrade"

    def _copy(self, source: Path, target: Path) -> None:
        # Owner, times and links as they are: compiled files stay valid.
        copy = ["cp", "-a", "--", str(source), str(target)]
        self._system.run(copy, timeout=_COPY_TIMEOUT).check(f"copying {source}")

    def _link(self, target: str, link: Path) -> None:
        """Have ``link`` point to ``target``, in one rename."""
        fresh = link.with_name(f".{link.name}.{os.getpid()}")
        self._system.remove(fresh)
        self._system.run(["ln", "-s", "--", target, str(fresh)]).check(f"linking {link}")
        self._system.run(["mv", "-fT", "--", str(fresh), str(link)]).check(f"linking {link}")


_QUIET = ("--no-input", "--no-user", "--disable-pip-version-check", "--quiet")


def _first_number(text: str) -> int:
    word = next(iter(text.split()), "")
    return int(word) if word.isdecimal() else 0
