"""Rollback: undo a run from its journal, last step first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from swarmbus.errors import SwarmbusError
from swarmbus.provision.apply import reconcile
from swarmbus.provision.command import remove_commands
from swarmbus.provision.handlers import Handler
from swarmbus.provision.journal import Interrupted
from swarmbus.provision.layout import Layout
from swarmbus.provision.manifest import Entry
from swarmbus.provision.outcome import Outcome
from swarmbus.provision.plan import Plan, left_over, restart_of, runs_in
from swarmbus.provision.root import RootStep
from swarmbus.provision.run import Event, Observer, Run, Silent, one_at_a_time
from swarmbus.provision.spec import InstallSpec, forget, keep
from swarmbus.provision.system import System


def roll_back(
    system: System,
    *,
    layout: Layout | None = None,
    observer: Observer | None = None,
    finished: bool = False,
) -> Outcome | None:
    """Undo the run that was killed.

    Args:
        finished: Where none was killed, undo the last one that finished.

    Returns:
        None if there is no run to undo.

    Raises:
        Conflict: If another run holds the lock.
    """
    layout = layout or Layout.of_this_user()
    if system.stat(layout.provision) is None:
        return None
    with one_at_a_time(system, layout):
        run = Run.open(system, layout, observer or Silent())
        killed = run.journal.interrupted()
        journal = killed or (run.journal.last() if finished else None)
        if journal is None:
            return None
        if killed is not None:
            reconcile(run, killed)
        whole = _undo_run(run, journal, finished=killed is None)
    error = None if whole else SwarmbusError("not everything could be taken back", hint="the notes say what")
    return Outcome.of(run, Plan(()), changed=True, rolled_back=whole, error=error)


def take_back(run: Run) -> bool:
    """Undo what this run has done so far.

    Returns:
        Whether all of it was taken back.
    """
    journal = run.journal.interrupted()
    return True if journal is None else _undo_run(run, journal, finished=False)


def _undo_run(run: Run, journal: Interrupted, *, finished: bool) -> bool:
    whole = _undo_changes(run, journal)
    if whole:
        if journal.spec_before is not None:
            keep(InstallSpec.from_json(journal.spec_before), run.system, run.folder)
        elif journal.spec is not None:
            forget(run.system, run.folder)
        if finished:
            run.journal.forget_last()
        else:
            run.journal.forget()
    return whole


def _undo_changes(run: Run, journal: Interrupted) -> bool:
    """Take back every change of a run, and have running again what it restarted.

    What somebody has edited since stays and is noted. One failure does not stop the rest.

    Returns:
        Whether all of it was taken back.
    """
    whole = True
    notify: dict[str, None] = {}
    for scope, entries in groupby(reversed(journal.changes), key=lambda entry: entry.resource().scope):
        touched = [entry for entry in entries if _is_to_be_undone(run, entry)]
        whole = (_undo_as_root(run, touched) if scope == "root" else _undo(run, touched)) and whole
        notify |= dict.fromkeys(handler for entry in touched for handler in entry.notify)
    run.manifest.save(run.system, run.folder)
    return _rerun_handlers(run, journal, notify) and whole


def _is_to_be_undone(run: Run, entry: Entry) -> bool:
    """Whether it is as the run has left it; if it is as it was before, that is noted."""
    resource = entry.resource()
    seen = resource.read(run.system)
    if seen == entry.before and not left_over(entry.resource(), run.system):
        _forget(run, entry)
        return False
    if resource.guarded and seen not in (entry.state, entry.before):
        run.notes.append(f"{entry.id} was changed since; left as it is")
        run.observer.tell(Event(entry.id, entry.title, "left", detail="was changed since"))
        return False
    return True


def _undo(run: Run, entries: Sequence[Entry]) -> bool:
    whole = True
    for entry in entries:
        begun = run.system.monotonic()
        try:
            for path in left_over(entry.resource(), run.system):
                run.system.remove(path)
            entry.resource().undo(run.system, entry.before, run.blobs.get(entry.blob))
            _has_gone_back(run, entry, begun)
        except SwarmbusError as error:
            whole = False
            _tell_failure(run, entry, error)
    return whole


def _undo_as_root(run: Run, entries: Sequence[Entry]) -> bool:
    """In one script; where that stops, those that are left are tried again without the one that failed."""
    left, whole = list(entries), True
    started: list[str] = []
    while left:
        begun = run.system.monotonic()
        started.clear()
        try:
            steps = list(_root_steps(run, left))
            run.observer.hush()
            run.system.run_as_root(steps, lambda step: started.append(step.id))
        except SwarmbusError as error:
            whole = False
            failed = next((entry for entry in left if started and entry.id == started[-1]), None)
            for entry in left if failed is None else [failed]:
                _tell_failure(run, entry, error)
            if failed is None:
                break  # root is not to be had
            done, left = left[: left.index(failed)], left[left.index(failed) + 1 :]
        else:
            done, left = left, []
        for entry in done:
            try:
                _has_gone_back(run, entry, begun)
            except SwarmbusError as error:
                whole = False
                _tell_failure(run, entry, error)
    return whole


def _root_steps(run: Run, entries: Sequence[Entry]) -> Iterator[RootStep]:
    for entry in entries:
        resource = entry.resource()
        commands = resource.undo_commands(run.system, entry.before, run.blobs.get(entry.blob))
        litter = [
            command for path in left_over(entry.resource(), run.system) for command in remove_commands(path)
        ]
        yield RootStep(entry.id, f"take back: {entry.title}", (*litter, *commands))


def _has_gone_back(run: Run, entry: Entry, begun: float) -> None:
    resource = entry.resource()
    resource.await_undone(run.system, entry.before)
    seconds = run.system.monotonic() - begun
    stays = resource.read(run.system) != entry.before  # a folder in which there is something now
    run.observer.tell(Event(entry.id, entry.title, "left" if stays else "undone", seconds))
    _forget(run, entry)


def _tell_failure(run: Run, entry: Entry, error: SwarmbusError) -> None:
    run.notes.append(f"could not take back {entry.id}: {error.message}")
    run.observer.tell(Event(entry.id, entry.title, "failed", detail=error.message))


def _forget(run: Run, entry: Entry) -> None:
    """The manifest as it was before this step."""
    known = run.manifest.get(entry.id)
    if entry.leaving:
        run.manifest.entries[entry.id] = known or entry.as_ours
        return
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
    was_active = dict(journal.was_active)
    for entry in journal.changes:
        if entry.kind == "unit":
            active.setdefault(restart_of(entry.id), runs_in(entry.before))
            if entry.leaving:  # what is taken away has no handler that could tell
                was_active.pop(restart_of(entry.id), None)
    due: list[tuple[Handler, bool]] = []
    for handler in sorted((Handler(name, run.layout.processes) for name in notify), key=lambda one: one.rank):
        known = [told[handler.id] for told in (active, was_active) if handler.id in told]
        if known or handler.is_reload:
            due.append((handler, all(known)))
        # else it never ran: what is running has not read what was undone
    whole = True
    for scope, together in groupby(due, key=lambda one: one[0].scope):
        handlers = list(together)
        whole = (_back_as_root(run, handlers) if scope == "root" else _back(run, handlers)) and whole
    return whole


def _back(run: Run, handlers: Sequence[tuple[Handler, bool]]) -> bool:
    whole = True
    for handler, was_active in handlers:
        try:
            handler.run_back(run.system, was_active=was_active)
        except SwarmbusError as error:
            whole = False
            run.notes.append(f"{handler.title} failed after the rollback: {error.message}")
    return whole


def _back_as_root(run: Run, handlers: Sequence[tuple[Handler, bool]]) -> bool:
    steps = [
        RootStep(handler.id, handler.title, tuple(handler.commands_back(was_active=was_active)))
        for handler, was_active in handlers
    ]
    try:
        run.system.run_as_root(steps, lambda step: None)
        for handler, was_active in handlers:
            if was_active:
                handler.await_up(run.system)
    except SwarmbusError as error:
        run.notes.append(f"{handlers[-1][0].title} failed after the rollback: {error.message}")
        return False
    return True
