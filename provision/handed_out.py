"""Handed out: steps of root's that somebody else was asked to run, remembered so that what they did is ours.

Where root is not to be had, the script is printed and this is kept as ``.provision/handed-out.json``. When
the next run finds a thing as the script makes it, and not as it was, then the script has been run: the thing
is in the manifest from then on, with its original, and is taken back like everything else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from swarmbus.errors import StorageError
from swarmbus.provision.manifest import Entry, Manifest, entry_from_json
from swarmbus.provision.system import System

_NAME = "handed-out.json"


@dataclass(frozen=True, slots=True)
class HandedOut:
    """What was handed out.

    Attributes:
        spec: What all of it is for, as `InstallSpec.as_json` gives it.
        entries: Of root's steps: as they were, and as they are to be.
    """

    spec: dict[str, Any]
    entries: tuple[Entry, ...]

    def take_in(self, system: System, manifest: Manifest) -> None:
        """Note in the manifest what has come about; nothing is written."""
        for entry in self.come_about(system):
            manifest.entries.setdefault(entry.id, entry)

    def come_about(self, system: System) -> list[Entry]:
        """Of which root has run the steps."""
        seen = {entry.id: entry.resource().read(system) for entry in self.entries}
        return [one for one in self.entries if seen[one.id] == one.state and seen[one.id] != one.before]


def hand_out(system: System, folder: Path, spec: dict[str, Any], entries: Sequence[Entry]) -> None:
    """Remember it, and of what was handed out before that which has come about."""
    before = load(system, folder)
    done = {entry.id: entry for entry in (before.come_about(system) if before is not None else ())}
    kept = (done | {entry.id: entry for entry in entries}).values()
    document = {"spec": spec, "entries": [asdict(entry) for entry in kept]}
    system.write_file(folder / _NAME, json.dumps(document, indent=1).encode(), mode=0o600)


def load(system: System, folder: Path) -> HandedOut | None:
    """What was handed out and has not been taken in; None if nothing.

    Raises:
        StorageError: If it is damaged.
    """
    data = system.read(folder / _NAME)
    if data is None:
        return None
    try:
        document = json.loads(data)
        return HandedOut(document["spec"], tuple(entry_from_json(entry) for entry in document["entries"]))
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{folder / _NAME} is damaged: {error!r}", hint=f"remove it: rm {folder / _NAME}"
        ) from error


def load_manifest(system: System, folder: Path) -> Manifest:
    """The manifest as it is kept, with what root has done for us elsewhere."""
    manifest, handed = Manifest.load(system, folder), load(system, folder)
    if handed is not None:
        handed.take_in(system, manifest)
    return manifest


def forget(system: System, folder: Path) -> None:
    """It has been taken in, or is not wanted any more."""
    system.remove(folder / _NAME)
