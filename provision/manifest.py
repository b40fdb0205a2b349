"""Manifest: what on this host is ours, how we left it, and how it was before us.

``~/.local/state/swarmbus/.provision/`` holds::

    manifest.json     what is ours, in the order in which it came to be
    journal.jsonl     the run that is going on, or that was killed; see `swarmbus.provision.journal`
    journal.last      the last run that was finished
    spec.json         what the operator asked for
    blobs/<sha256>    files as they were before us
    lock
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from swarmbus.errors import StorageError
from swarmbus.provision.resources.absent_file import AbsentFile
from swarmbus.provision.resources.account import Account
from swarmbus.provision.resources.base import Resource, State
from swarmbus.provision.resources.directory import Directory
from swarmbus.provision.resources.file import File
from swarmbus.provision.resources.json_key import JsonKey
from swarmbus.provision.resources.launchd_agent import LaunchdAgent
from swarmbus.provision.resources.linger import Linger
from swarmbus.provision.resources.package import Package
from swarmbus.provision.resources.process import Process
from swarmbus.provision.resources.toml_key import TomlKey
from swarmbus.provision.resources.unit import Unit
from swarmbus.provision.resources.unpacked_package import UnpackedPackage
from swarmbus.provision.system import System
from swarmbus.version import __version__

SCHEMA = "swarmbus.manifest/1"

_KINDS: dict[str, type[Resource]] = {
    kind.kind: kind
    for kind in (
        AbsentFile,
        Account,
        Directory,
        File,
        JsonKey,
        LaunchdAgent,
        Linger,
        Package,
        Process,
        TomlKey,
        Unit,
        UnpackedPackage,
    )
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that is ours.

    Attributes:
        record: What makes the resource again; see `Resource.record`.
        state: As we left it.
        before: As it was before the first of our changes.
        blob: Digest of what `Resource.original` gave then; None if nothing.
        adopted: It was there before us, as we wanted it; it stays when we go.
        notify: Handlers that must run when it is changed or taken away.
        leaving: In the journal: this change takes it away, or puts it back as it was before us; ``state`` is
            then how it was before us, ``before`` how we had it, and ``first`` the blob of what was there.
    """

    id: str
    kind: str
    group: str
    record: dict[str, Any]
    state: State
    before: State
    blob: str | None = None
    adopted: bool = False
    notify: tuple[str, ...] = ()
    leaving: bool = False
    first: str | None = None

    @property
    def title(self) -> str:
        """What this change is called for a human."""
        resource = self.resource()
        return resource.undo_title(self.state) if self.leaving else resource.title

    @property
    def as_ours(self) -> Entry:
        """For the manifest: how we had what this change takes away, or the change itself."""
        if not self.leaving:
            return self
        return replace(self, state=self.before, before=self.state, blob=self.first, leaving=False, first=None)

    def resource(self) -> Resource:
        """The thing itself, able to read and to undo.

        Raises:
            StorageError: If this is not a record that swarmbus wrote.
        """
        try:
            return _KINDS[self.kind].from_record(self.group, self.record)
        except (KeyError, ValueError, TypeError) as error:
            raise StorageError(f"cannot make out the record of {self.id}: {error!r}") from error


@dataclass
class Manifest:
    """All entries by id, in order."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    def get(self, resource_id: str) -> Entry | None:
        """The entry of a resource; None if it is not ours."""
        return self.entries.get(resource_id)

    @classmethod
    def load(cls, system: System, folder: Path) -> Manifest:
        """Read it; empty where there is none.

        Raises:
            StorageError: If it is damaged or of a newer schema.
        """
        path = folder / "manifest.json"
        data = system.read(path)
        if data is None:
            return cls()
        try:
            document = json.loads(data)
            if document["schema"] != SCHEMA:
                raise StorageError(
                    f"{path} was written by swarmbus {document.get('version')}, newer than {__version__}",
                    hint="use that version, or a newer one",
                )
            return cls({entry["id"]: entry_from_json(entry) for entry in document["entries"]})
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{path} is damaged: {error!r}", hint="restore it from a backup") from error

    def save(self, system: System, folder: Path) -> None:
        """Write it, in one step."""
        document = {
            "schema": SCHEMA,
            "version": __version__,
            "entries": [asdict(entry) for entry in self],
        }
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        system.write_file(folder / "manifest.json", text.encode(), mode=0o600)


def entry_from_json(document: dict[str, Any]) -> Entry:
    """An entry out of the manifest or the journal."""
    return Entry(**{**document, "notify": tuple(document["notify"])})


class Blobs:
    """Originals, by the digest of their content."""

    def __init__(self, system: System, folder: Path) -> None:
        self._system = system
        self._folder = folder / "blobs"

    def put(self, data: bytes | None) -> str | None:
        """Keep ``data``; the name to ask for it by."""
        if data is None:
            return None
        name = hashlib.sha256(data).hexdigest()
        if self._system.stat(self._folder / name) is None:
            self._system.make_dir(self._folder, mode=0o700)
            self._system.write_file(self._folder / name, data, mode=0o600)
        return name

    def sweep(self, needed: Container[str | None]) -> None:
        """Remove what nothing refers to any more."""
        for name in self._system.list(self._folder):
            if name not in needed:
                self._system.remove(self._folder / name)

    def get(self, name: str | None) -> bytes | None:
        """What was kept.

        Raises:
            StorageError: If it is gone, or is not what was kept.
        """
        if name is None:
            return None
        data = self._system.read(self._folder / name)
        if data is None or hashlib.sha256(data).hexdigest() != name:
            raise StorageError(f"the original kept as {self._folder / name} is lost or damaged")
        return data
