"""Rollback: undo a run from its journal, last step first."""

from __future__ import annotations

from swarmbus.errors import SwarmbusError
from swarmbus.provision.apply import Event, Run
from swarmbus.provision.handlers import USER_RELOAD, Handler
from swarmbus.provision.journal import Interrupted
from swarmbus.provision.manifest import Entry


def undo_run(run: Run, journal: Interrupted) -> bool:
    """Take back every change of a run, and have running again what it restarted.

    What somebody has edited since stays and is noted. One failure does not stop the rest.

    Returns:
        Whether all of it was taken back.
    """
    whole = True
    notify: dict[str, None] = {}
    for entry in reversed(journal.changes):
        try:
            changed = _undo(run, entry)
        except SwarmbusError as error:
            whole = False
            run.notes.append(f"could not take back {entry.id}: {error.message}")
            run.observer.tell(Event(entry.id, entry.resource().title, "failed", detail=error.message))
            continue
        if changed:
            notify |= dict.fromkeys(entry.notify)
    run.manifest.save(run.system, run.folder)
    return _rerun_handlers(run, journal, notify) and whole


def _undo(run: Run, entry: Entry) -> bool:
    resource = entry.resource()
    begun = run.system.monotonic()
    seen = resource.read(run.system)
    touched = seen != entry.before
    if touched and resource.guarded and seen != entry.state:
        run.notes.append(f"{entry.id} was changed since; left as it is")
        run.observer.tell(Event(entry.id, resource.title, "left", detail="was changed since"))
        return False
    if touched:
        if resource.scope == "root" and not run.has_root:
            run.observer.hush()
            run.has_root = run.system.become_root()
        resource.undo(run.system, entry.before, run.blobs.get(entry.blob))
        seconds = run.system.monotonic() - begun
        stays = resource.read(run.system) != entry.before  # a folder in which there is something now
        run.observer.tell(Event(entry.id, resource.title, "left" if stays else "undone", seconds))
    _forget(run, entry)
    return touched


def _forget(run: Run, entry: Entry) -> None:
    """The manifest as it was before this step."""
    known = run.manifest.get(entry.id)
    if known is None or known.before == entry.before:
        run.manifest.entries.pop(entry.id, None)
        return
    # It was ours before this run already: its first original stays the one to go back to in the end.
    run.manifest.entries[entry.id] = Entry(
        id=known.id,
        kind=known.kind,
        group=known.group,
        record=known.record,
        state=entry.before,
        before=known.before,
        blob=known.blob,
        notify=known.notify,
    )


def _rerun_handlers(run: Run, journal: Interrupted, notify: dict[str, None]) -> bool:
    """Reload, and restart what was running when the run began."""
    active: dict[str, bool] = {}
    for entry in journal.changes:
        if entry.kind == "unit":
            restart = f"{entry.record['manager']}:restart:{entry.record['name']}"
            active.setdefault(restart, bool(entry.before["active"]))
    whole = True
    for handler in sorted((Handler(name, run.layout.processes) for name in notify), key=lambda one: one.rank):
        handler_id = handler.id
        known = [told[handler_id] for told in (active, journal.was_active) if handler_id in told]
        if not known and handler_id != USER_RELOAD:
            continue  # it never ran: what is running has not read what was undone
        try:
            handler.run_back(run.system, was_active=all(known))
        except SwarmbusError as error:
            whole = False
            run.notes.append(f"{handler.title} failed after the rollback: {error.message}")
    return whole
