"""Folders of one user's own, into which nobody else may look."""

from __future__ import annotations

from pathlib import Path

from swarmbus.provision.system import System


def make_private_folder(system: System, path: Path) -> None:
    """Have it, and those that it lies in: where nothing was set up yet, ~/.local/state may be missing too.

    Raises:
        StorageError: If that cannot be.
    """
    for folder in (*reversed(path.parents), path):
        if system.stat(folder) is None:
            system.make_dir(folder, mode=0o700)
