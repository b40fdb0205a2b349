"""Installation: how this command came to be on the host, and so who may bring another version of it.

::

    here = detect(system, Interpreter.this())
    here.kind, here.version      # "pipx", "1.0.0"
    here.refusal                 # None, or why it is not ours to upgrade and the command that does it
"""

from __future__ import annotations

import json
import re
import shlex
import site
import sys
import sysconfig
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from swarmbus import version
from swarmbus.provision.system import System

Kind = Literal["editable", "container", "uv-tool", "pipx", "linked-venv", "venv", "debian", "user", "system"]
"""``linked-venv``: what install.sh makes, ``venv`` being a link to ``venv-<something>`` beside it."""

WAYS: dict[Kind, str] = {
    "editable": "an editable installation",
    "container": "part of a container",
    "uv-tool": "a tool of uv",
    "pipx": "an application of pipx",
    "linked-venv": "installed by install.sh",
    "venv": "in a virtual environment",
    "debian": "a package of the distribution",
    "user": "installed by pip for this user",
    "system": "installed by pip for the whole system",
}


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What Python says of itself.

    Attributes:
        prefix: Of the environment, links not resolved.
        base_prefix: Of the Python that the environment was made with; the same where there is none.
        stdlib: Folder of the standard library, in which EXTERNALLY-MANAGED is (PEP 668).
        packages: Where the metadata of the distribution ``swarmbus`` is.
        user_site: Where ``pip install --user`` installs.
    """

    prefix: Path
    base_prefix: Path
    stdlib: Path
    packages: Path
    user_site: Path

    @classmethod
    def this(cls) -> Interpreter:
        """The one that runs us."""
        return cls(
            prefix=Path(sys.prefix),
            base_prefix=Path(sys.base_prefix),
            stdlib=Path(sysconfig.get_path("stdlib")),
            packages=_packages(),
            user_site=Path(site.getusersitepackages()),
        )


@dataclass(frozen=True, slots=True)
class Installation:
    """One of them.

    Attributes:
        version: As its metadata says; empty where there is none.
        source: Where it came from if not from the package index, as pip takes it: a path or a URL.
        extras: Extras that were asked for.
        owner: Name of the distribution's package, or of the folder that is edited.
        managed: Whether the system's Python refuses pip (PEP 668).
    """

    kind: Kind
    prefix: Path
    version: str = ""
    source: str | None = None
    extras: tuple[str, ...] = ()
    owner: str = ""
    managed: bool = False

    @property
    def python(self) -> Path:
        """The interpreter, by the path that stays the same from one version to the next."""
        return self.prefix / "bin/python"

    @property
    def refusal(self) -> tuple[str, str] | None:
        """Why an upgrade is not ours to do, and what does it; None if it is ours."""
        match self.kind:
            case "editable":
                pull = shlex.join(["git", "-C", self.owner, "pull"])
                return f"it runs from the checkout {self.owner}", f"{pull} && swarmbus restart --all"
            case "container":
                return "what is installed in a container goes with it", "build a new image, and start that"
            case "debian":
                install = f"sudo apt-get install --only-upgrade {self.owner}"
                return f"it is the package {self.owner}", f"{install} && swarmbus restart --all"
            case "user" | "system" if self.managed:
                return (
                    f"it is {WAYS[self.kind]}, whose Python is the distribution's (PEP 668)",
                    "pipx install swarmbus && ~/.local/bin/swarmbus init --yes",
                )
            case "user":
                pip = "python3 -m pip install --user --upgrade swarmbus"
                return f"it is {WAYS[self.kind]}", f"{pip} && swarmbus restart --all"
            case "system":
                pip = "sudo python3 -m pip install --upgrade swarmbus"
                return f"it is {WAYS[self.kind]}", f"{pip} && swarmbus restart --all"
        return None

    @property
    def removal(self) -> str:
        """The one command that takes the command itself off this host."""
        match self.kind:
            case "uv-tool":
                return "uv tool uninstall swarmbus"
            case "pipx":
                return "pipx uninstall swarmbus"
            case "linked-venv":
                folder = self.prefix.parent
                local = folder.parent.name == "share"
                command = folder.parents[1] / "bin/swarmbus" if local else Path("/usr/local/bin/swarmbus")
                return shlex.join(["rm", "-r", str(folder), str(command)])
            case "debian":
                return f"sudo apt-get purge {self.owner}"
            case "container":
                return "build an image without it, and start that"
            case "user" | "system":
                sudo = "sudo " if self.kind == "system" else ""
                override = " --break-system-packages" if self.managed else ""
                return f"{sudo}python3 -m pip uninstall{override} swarmbus"
            case "venv" | "editable":
                return shlex.join([str(self.python), "-m", "pip", "uninstall", "swarmbus"])

    def command_for_extra(self, extra: str, requirements: Sequence[str]) -> str:
        """What adds an extra to it.

        Args:
            extra: Its name.
            requirements: What the extra stands for, for pip in the same environment.
        """
        with_extra = shlex.quote(f"{self.source or 'swarmbus'}[{extra}]")
        match self.kind:
            case "pipx":
                return f"pipx install --force {with_extra}"
            case "uv-tool":
                return f"uv tool install --force {with_extra}"
            case "linked-venv" if self.source and self.source[0] == "/" and not self.source.endswith(".whl"):
                root = (
                    "sudo env -u SUDO_UID " if self.prefix.is_relative_to("/opt") else ""
                )  # or it is for one user
                return f"{root}{shlex.quote(f'{self.source}/install.sh')} --no-init --with-{extra}"
            case "debian":
                return f"pipx install {with_extra}"
            case "user" | "system" if self.managed:
                return f"pipx install {with_extra}"
        pip = [str(self.python), "-m", "pip", "install", *(["--user"] if self.kind == "user" else [])]
        return shlex.join([*pip, *requirements])


def _packages() -> Path:
    try:
        return Path(str(distribution("swarmbus").locate_file("")))
    except PackageNotFoundError:
        return Path(version.__file__).resolve().parents[1]


def detect(system: System, interpreter: Interpreter) -> Installation:
    """Find out; the first that fits. Reads only.

    Sources: PEP 610 (direct_url.json), PEP 668, the receipts that uv and pipx leave in an environment.
    """
    prefix, packages = interpreter.prefix, interpreter.packages
    info = _metadata(system, packages)
    number = info.name.removeprefix("swarmbus-").removesuffix(".dist-info") if info else ""
    url = _json(system, info / "direct_url.json") if info else {}
    source = _source(url)
    if _table(url.get("dir_info")).get("editable") is True:
        return Installation("editable", prefix, number, owner=source or str(packages))
    if info is None:  # on the path as a checkout, which no installer has seen
        return Installation("editable", prefix, number, owner=str(packages))
    if any(system.stat(Path(mark)) is not None for mark in ("/.dockerenv", "/run/.containerenv")):
        return Installation("container", prefix, number, source)
    if prefix != interpreter.base_prefix:
        return _in_environment(system, prefix, number, source)
    managed = system.stat(interpreter.stdlib / "EXTERNALLY-MANAGED") is not None
    if packages.is_relative_to(interpreter.user_site):
        return Installation("user", prefix, number, source, managed=managed)
    owned = system.run(["dpkg", "-S", str(packages / "swarmbus/__init__.py")], timeout=30)
    if owned.ok and ": " in owned.stdout:
        return Installation("debian", prefix, number, owner=owned.stdout.split(":", 1)[0])
    return Installation("system", prefix, number, source, managed=managed)


def _in_environment(system: System, prefix: Path, number: str, source: str | None) -> Installation:
    receipt = system.read(prefix / "uv-receipt.toml")
    if receipt is not None:
        return Installation("uv-tool", prefix, number, source, _extras_of_uv(receipt))
    if system.stat(prefix / "pipx_metadata.json") is not None:
        metadata = _json(system, prefix / "pipx_metadata.json")
        asked = str(_table(metadata.get("main_package")).get("package_or_url") or "")
        return Installation("pipx", prefix, number, source, _extras(asked))
    seen = system.stat(prefix)
    if seen is None or seen.kind != "link" or not (seen.target or "").startswith(f"{prefix.name}-"):
        return Installation("venv", prefix, number, source)
    extras = (system.read(prefix / ".extras") or b"").decode(errors="replace").split()  # by install.sh
    return Installation("linked-venv", prefix, number, source, tuple(extras))


def _metadata(system: System, packages: Path) -> Path | None:
    found = [name for name in system.list(packages) if re.fullmatch(r"swarmbus-[^-]+\.dist-info", name)]
    return packages / found[-1] if found else None


def _source(url: dict[str, Any]) -> str | None:
    """What pip can be given to fetch it again; None for the package index."""
    where = url.get("url")
    if not isinstance(where, str):
        return None
    vcs = _table(url.get("vcs_info"))
    if isinstance(name := vcs.get("vcs"), str):
        revision = vcs.get("requested_revision")
        return f"{name}+{where}" + (f"@{revision}" if isinstance(revision, str) else "")
    parts = urlsplit(where)
    return unquote(parts.path) if parts.scheme == "file" else where


def _extras_of_uv(receipt: bytes) -> tuple[str, ...]:
    """Of ``[tool] requirements = [{ name = "swarmbus", extras = ["mcp"], … }]``."""
    try:
        tool = tomllib.loads(receipt.decode()).get("tool")
    except (ValueError, tomllib.TOMLDecodeError):
        return ()
    asked = _table(tool).get("requirements")
    for one in asked if isinstance(asked, list) else []:
        if _table(one).get("name") == "swarmbus":
            return tuple(str(extra) for extra in _table(one).get("extras") or ())
    return ()


def _extras(requirement: str) -> tuple[str, ...]:
    """``("mcp",)`` of ``swarmbus[mcp]==1.0.0`` or ``/home/pi/swarmbus[mcp]``."""
    found = re.search(r"\[([a-z0-9, -]+)\]", requirement)
    return tuple(word.strip() for word in found[1].split(",")) if found else ()


def _json(system: System, path: Path) -> dict[str, Any]:
    try:
        return _table(json.loads(system.read(path) or b"{}"))
    except ValueError:
        return {}


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
