"""Installed: what is set up on this host, and how each thing that is ours is now. Reads only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from swarmbus.provision.conflicts import waiting
from swarmbus.provision.installation import WAYS, Installation
from swarmbus.provision.journal import Interrupted, Journal
from swarmbus.provision.layout import Layout
from swarmbus.provision.manifest import Entry, Manifest
from swarmbus.provision.planning import read_states
from swarmbus.provision.resources.base import State
from swarmbus.provision.spec import InstallSpec, load_kept
from swarmbus.provision.system import System
from swarmbus.version import __version__

SCHEMA = "swarmbus.show/1"

Condition = Literal["as-left", "changed", "gone"]


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing of the manifest.

    Attributes:
        condition: ``as-left``: as we left it, or found it if it is not ours. ``changed``: by somebody since.
            ``gone``: not there any more, or as it was before us.
    """

    entry: Entry
    condition: Condition

    @property
    def has_original(self) -> bool:
        """Whether something was there before us that comes back when we go."""
        entry = self.entry
        return not entry.adopted and entry.blob is not None and bool(entry.before.get("present"))

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        resource = self.entry.resource()
        return {
            "id": self.entry.id,
            "kind": self.entry.kind,
            "group": self.entry.group,
            "scope": resource.scope,
            "ours": not self.entry.adopted,
            "state": self.condition,
            "original_kept": self.has_original,
        }


@dataclass(frozen=True)
class Installed:
    """All of it.

    Attributes:
        here: The command that runs.
        spec: What was asked for; None if nothing was set up.
        conflicts: Files ``*.swarmbus-new`` that wait for somebody to look at them.
        interrupted: The run that was killed in the middle; None if none was.
    """

    here: Installation
    layout: Layout
    spec: InstallSpec | None
    things: tuple[Thing, ...]
    conflicts: tuple[Path, ...]
    interrupted: Interrupted | None

    def as_json(self) -> dict[str, Any]:
        """``swarmbus.show/1``."""
        spec = self.spec or InstallSpec(agents=())
        killed = self.interrupted
        return {
            "schema": SCHEMA,
            "version": __version__,
            "installation": {
                "kind": self.here.kind,
                "way": WAYS[self.here.kind],
                "prefix": str(self.here.prefix),
                "remove_command": self.here.removal,
            },
            "config": str(self.layout.config),
            "state": str(self.layout.state),
            "agents": [asdict(agent) for agent in spec.agents],
            "broker": {"host": spec.broker, "port": spec.port} if self.spec else None,
            "scope": spec.scope if self.spec else None,
            "host_types": list(spec.host_types),
            "choices": dict(spec.chosen),
            "entries": [thing.as_json() for thing in self.things],
            "conflicts": [str(path) for path in self.conflicts],
            "interrupted": killed
            and {"changes": [one.id for one in killed.changes], "owed": list(killed.pending)},
        }


def look(system: System, layout: Layout, here: Installation) -> Installed:
    """Find out.

    Raises:
        StorageError: If the manifest is damaged.
    """
    manifest = Manifest.load(system, layout.provision)
    entries = list(manifest)
    states = read_states([entry.resource() for entry in entries], system)
    return Installed(
        here,
        layout,
        load_kept(system, layout.provision),
        tuple(Thing(entry, _condition(entry, seen)) for entry, seen in zip(entries, states, strict=True)),
        waiting(system, layout, manifest),
        Journal(system, layout.provision).interrupted(),
    )


def _condition(entry: Entry, seen: State) -> Condition:
    if seen == entry.state:
        return "as-left"
    return "gone" if seen == entry.before or not seen.get("present", True) else "changed"
