"""Journal: what a run is about to do, written and fsynced before it does it.

One run is one file of JSON lines; a run that was killed and taken up again goes on in the same file::

    {"event": "begin", "spec": {…}, "spec_before": null}
    {"event": "change", "entry": {"id": "file:/…", "before": {…}, "blob": "…", "state": <intended>, …}}
    {"event": "handler", "id": "system:restart:mosquitto.service", "was_active": true}
    {"event": "done-handler", "id": "system:restart:mosquitto.service"}

When the run is finished the file is renamed. So a ``journal.jsonl`` that is there belongs to a run that
did not finish, and says all that undoing it needs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from swarmbus.provision.manifest import Entry, entry_from_json
from swarmbus.provision.system import System


@dataclass(frozen=True, slots=True)
class Interrupted:
    """What a journal tells.

    Attributes:
        changes: In the order in which they were begun; the last may not have happened.
        pending: Handlers that were due and have not run, in the order in which they became due.
        was_active: For what a handler restarted: whether it ran before.
        spec: What the run was for; None if it was killed before it said so.
        spec_before: What was kept when it first began; None if nothing was.
    """

    changes: tuple[Entry, ...]
    pending: tuple[str, ...]
    was_active: dict[str, bool]
    spec: dict[str, Any] | None
    spec_before: dict[str, Any] | None = None


class Journal:
    """The journal in one folder."""

    def __init__(self, system: System, folder: Path) -> None:
        self._system = system
        self._path = folder / "journal.jsonl"
        self._last = folder / "journal.last"

    def begin(self, spec: dict[str, Any], before: dict[str, Any] | None) -> None:
        """A run starts, or takes up the one that is open."""
        cut_off = not (self._system.read(self._path) or b"\n").endswith(b"\n")
        if cut_off:
            self._system.append(self._path, b"\n")
        self._write({"event": "begin", "spec": spec, "spec_before": before})

    def change(self, entry: Entry) -> None:
        """This is about to be changed; ``entry.state`` is what it is to become."""
        self._write({"event": "change", "entry": asdict(entry)})

    def handler(self, handler_id: str, *, was_active: bool) -> None:
        """This handler is about to run."""
        self._write({"event": "handler", "id": handler_id, "was_active": was_active})

    def handler_done(self, handler_id: str) -> None:
        """It has run, or is not needed any more."""
        self._write({"event": "done-handler", "id": handler_id})

    def finish(self) -> None:
        """The run has ended well."""
        self._system.move(self._path, self._last)

    def forget(self) -> None:
        """The run has been undone."""
        self._system.remove(self._path)

    def forget_last(self) -> None:
        """The last finished run has been undone."""
        self._system.remove(self._last)

    def interrupted(self) -> Interrupted | None:
        """The run that did not finish; None if there is none."""
        return self._load(self._path)

    def last(self) -> Interrupted | None:
        """The last run that finished; None if there was none."""
        return self._load(self._last)

    def _load(self, path: Path) -> Interrupted | None:
        data = self._system.read(path)
        if data is None:
            return None
        changes: list[Entry] = []
        pending: dict[str, None] = {}
        was_active: dict[str, bool] = {}
        spec: dict[str, Any] | None = None
        before: dict[str, Any] | None = None
        begun = False
        for line in data.decode(errors="replace").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # cut off by a kill or a power cut: what it announces was not begun
            match event["event"]:
                case "begin":
                    spec, before = event["spec"], before if begun else event["spec_before"]
                    begun = True  # what is taken up again began with what was kept at first
                case "change":
                    entry = entry_from_json(event["entry"])
                    changes.append(entry)
                    pending |= dict.fromkeys(entry.notify)
                case "handler":
                    was_active.setdefault(event["id"], event["was_active"])
                case "done-handler":
                    pending.pop(event["id"], None)
        return Interrupted(tuple(changes), tuple(pending), was_active, spec, before)

    def _write(self, event: dict[str, Any]) -> None:
        self._system.append(self._path, json.dumps(event, ensure_ascii=False).encode() + b"\n")
