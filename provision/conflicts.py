"""Conflicts: what init has laid beside files that were not its to change, and nobody has looked at yet."""

from __future__ import annotations

from pathlib import Path

from swarmbus.provision.layout import Layout
from swarmbus.provision.manifest import Manifest
from swarmbus.provision.resources.file import BESIDE
from swarmbus.provision.system import System


def waiting(system: System, layout: Layout, manifest: Manifest) -> tuple[Path, ...]:
    """The files ``<path>.swarmbus-new`` in folders in which something is ours."""
    paths = [Path(entry.record["path"]) for entry in manifest if "path" in entry.record]
    folders = dict.fromkeys([layout.units, layout.config.parent, *(path.parent for path in paths)])
    return tuple(
        folder / name for folder in sorted(folders) for name in system.list(folder) if name.endswith(BESIDE)
    )


def meant_for(path: Path) -> Path:
    """The file beside which it lies."""
    return path.with_name(path.name.removesuffix(BESIDE))
