"""The record of an upgrade that is under way: whoever finds one puts the version before it back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from swarmbus.errors import CannotRun
from swarmbus.provision.environments import Environments, Kept
from swarmbus.provision.installation import Installation
from swarmbus.provision.layout import Layout
from swarmbus.provision.private_folder import make_private_folder
from swarmbus.provision.system import System

SCHEMA = "swarmbus.upgrade/1"

Stage = Literal["kept", "installing", "switched"]


@dataclass(frozen=True, slots=True)
class Record:
    """An upgrade that is under way, as it is on the disk.

    Attributes:
        stage: ``kept``: nothing was changed. ``installing``: the environment may be anything. ``switched``:
            the new one is in its place.
    """

    here: Installation
    requirement: str
    agents: tuple[str, ...]
    kept: Kept
    stamp: str
    stage: Stage = "kept"

    def as_json(self) -> dict[str, Any]:
        """For the disk."""
        here = {**asdict(self.here), "prefix": str(self.here.prefix)}
        return {
            "schema": SCHEMA,
            "stage": self.stage,
            "here": here,
            "requirement": self.requirement,
            "agents": list(self.agents),
            "kept": self.kept.as_json(),
            "stamp": self.stamp,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Record:
        """The same, read again."""
        here = {**document["here"], "prefix": Path(document["here"]["prefix"])}
        here["extras"] = tuple(here["extras"])
        return cls(
            Installation(**here),
            document["requirement"],
            tuple(document["agents"]),
            Kept.from_json(document["kept"]),
            document["stamp"],
            document["stage"],
        )


def prepare(
    system: System, layout: Layout, here: Installation, requirement: str, agents: tuple[str, ...]
) -> Record:
    """Keep the old version, and write down what is going to be done."""
    make_private_folder(system, layout.provision)
    stamp = datetime.now(UTC).strftime("%Y%m%d%H%M%S")
    kept = Environments(system, layout, here).keep(stamp)
    record = Record(here, requirement, agents, kept, stamp)
    save(system, layout, record)
    return record


def load_record(system: System, layout: Layout) -> Record | None:
    """The upgrade that was not finished; None if there is none.

    Raises:
        CannotRun: If its record is damaged.
    """
    path = layout.provision / "upgrade.json"
    data = system.read(path)
    if data is None:
        return None
    try:
        return Record.from_json(json.loads(data))
    except (ValueError, KeyError, TypeError) as error:
        raise CannotRun(f"{path} is damaged: {error!r}", hint=f"remove it: rm {path}") from error


def save(system: System, layout: Layout, record: Record) -> None:
    """Write it, in one step."""
    text = json.dumps(record.as_json(), indent=1) + "\n"
    system.write_file(layout.provision / "upgrade.json", text.encode(), mode=0o600)


def forget(system: System, layout: Layout) -> None:
    """The upgrade has ended, one way or the other."""
    system.remove(layout.provision / "upgrade.json")
