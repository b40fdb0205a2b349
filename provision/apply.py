"""Apply: carry out a plan so that it can be stopped at any instant, and taken back.

For each step: the journal says what is about to change, then it is changed, then the manifest says that
it is ours. Handlers run once. Whoever kills us finds an open journal at the next start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby

from swarmbus.errors import Conflict
from swarmbus.provision.handlers import Handler
from swarmbus.provision.journal import Interrupted
from swarmbus.provision.manifest import Entry, Manifest
from swarmbus.provision.plan import Action, Plan, Step, left_over, restart_made_needless
from swarmbus.provision.resources.base import Declined, Verb
from swarmbus.provision.root import RootStep
from swarmbus.provision.run import Event, Run, Stage
from swarmbus.provision.system import System


def reconcile(run: Run, interrupted: Interrupted) -> None:
    """Make the manifest tell the truth about what a killed run left behind."""
    tell_the_truth(run.manifest, run.system, interrupted)
    run.manifest.save(run.system, run.folder)


def tell_the_truth(manifest: Manifest, system: System, interrupted: Interrupted) -> None:
    """The same, not saved."""
    for entry in interrupted.changes:
        if entry.leaving and entry.state == entry.before:
            manifest.entries.pop(entry.id, None)  # it was as before us, and was only forgotten
            continue
        resource = entry.resource()
        seen = resource.read(system)
        known = manifest.get(entry.id)
        if seen == entry.before:
            continue  # not begun
        if seen == entry.state or not resource.guarded:
            first = known if known is not None and not known.adopted else entry.as_ours
            if seen == first.before:
                manifest.entries.pop(entry.id, None)  # it was being taken back
                continue
            manifest.entries[entry.id] = replace(
                entry.as_ours, state=seen, before=first.before, blob=first.blob
            )


def validate(plan: Plan, system: System) -> None:
    """Have what will be written judged by the programs that will read it, before anything is changed."""
    for action in plan.changes:
        if action.verb is not Verb.DELETE:
            action.resource.validate(system)


def apply_plan(run: Run, plan: Plan) -> None:
    """Carry it out: the user's steps one by one, those of root that stand together in one script.

    Raises:
        RootStepsNeeded: If root is needed and not to be had.
        SwarmbusError: If a step failed; nothing is undone here.
    """
    for action in plan.conflicts:
        action.resource.lay_beside(run.system)
    for action in plan.actions:
        if action.verb is Verb.ADOPT:
            run.manifest.entries[action.id] = _adopted(action)
        elif action.forget and action.entry is not None:
            _forget(run, action.entry)
    telling = _Telling(run, len(plan.steps))
    for scope, steps in groupby(plan.steps, key=lambda step: step.scope):
        if scope == "root":
            _as_root(run, plan, list(steps), telling)
            continue
        for step in steps:
            with telling.of(step):
                if isinstance(step, Handler):
                    _handle(run, step, telling)
                else:
                    _change(run, step, telling)
    run.manifest.save(run.system, run.folder)


def entry_of(run: Run, action: Action) -> Entry:
    """What the journal says before this is done.

    Raises:
        Conflict: If somebody has changed it since it was looked at.
    """
    resource, system = action.resource, run.system
    seen = resource.read(system)
    if resource.guarded and seen != action.seen:
        raise Conflict(f"{resource.id} was changed by somebody while the plan was shown", hint="run it again")
    known = _ours(action)
    deleting = action.verb is Verb.DELETE and known is not None
    return Entry(
        id=resource.id,
        kind=resource.kind,
        group=resource.group,
        record=resource.record(),
        state=known.before if deleting and known is not None else resource.wanted(system),
        before=seen,
        blob=run.blobs.put(resource.original(system)),
        notify=action.notify,
        leaving=deleting,
        first=known.blob if deleting and known is not None else None,
    )


def _forget(run: Run, entry: Entry) -> None:
    """No longer ours; in the journal, so that a rollback finds what ran, and whose it was."""
    run.journal.change(
        replace(entry, state=entry.before, blob=None, notify=(), leaving=True, first=entry.blob)
    )
    run.manifest.entries.pop(entry.id, None)  # on the disk with the next step


def _change(run: Run, action: Action, telling: _Telling) -> None:
    resource, system = action.resource, run.system
    entry, known = entry_of(run, action), _ours(action)
    run.journal.change(entry)
    telling.begun(action.comparison.reason)
    if action.verb is Verb.DELETE and known is not None:
        for path in left_over(resource, system):
            system.remove(path)
        resource.undo(system, known.before, run.blobs.get(known.blob))
        telling.changed()
        _settle(run, action, entry)
        return
    try:
        state = resource.realise(system)
    except Declined:
        run.manifest.entries[resource.id] = _adopted(action)  # so that the next run does not ask again
        run.manifest.save(system, run.folder)
        raise
    telling.changed()
    _settle(run, action, replace(entry, state=state))


def _handle(run: Run, handler: Handler, telling: _Telling) -> None:
    run.journal.handler(handler.id, was_active=handler.is_active(run.system))
    telling.begun()
    handler.run(run.system)
    telling.changed()
    _has_run(run, handler)


def _as_root(run: Run, plan: Plan, steps: Sequence[Step], telling: _Telling) -> None:
    """Announce all of them in the journal, run them in one script, and see what became of each."""
    entries: dict[str, Entry] = {}
    for step in steps:
        if isinstance(step, Handler):
            run.journal.handler(step.id, was_active=step.is_active(run.system))
        else:
            entries[step.id] = entry_of(run, step)
            run.journal.change(entries[step.id])
    ids = {step.id for step in steps}
    run.observer.hush()
    with telling.following() as follow:
        run.system.run_as_root([one for one in plan.root_steps if one.id in ids], follow)
        follow(None)
        for step in steps:
            follow(step)
            if isinstance(step, Handler):
                step.await_up(run.system)
                _has_run(run, step)
            elif step.verb is Verb.DELETE:
                _settle(run, step, entries[step.id])
            else:
                step.resource.await_realised(run.system)
                _settle(run, step, replace(entries[step.id], state=step.resource.read(run.system)))


class _Telling:
    """Numbers the steps, and tells the observer how each goes."""

    def __init__(self, run: Run, total: int) -> None:
        self._run = run
        self._total = total
        self._numbers: dict[str, int] = {}
        self._step: Step | RootStep | None = None
        self._began = 0.0

    @contextmanager
    def of(self, step: Step) -> Iterator[None]:
        """While one is carried out."""
        self._take(step)
        try:
            yield
        except Declined as refusal:
            hint = f"; {refusal.hint}" if refusal.hint else ""
            self._run.notes.append(f"{refusal.message}{hint}")
            self._tell("declined", refusal.message)
        except Exception as error:
            self._tell("failed", str(error))
            raise
        else:
            self._tell("done")

    @contextmanager
    def following(self) -> Iterator[Callable[[Step | RootStep | None], None]]:
        """While several are done elsewhere: call what it gives with each as it is begun, and then None.

        After that, call it with those that are looked at once more: only if one fails is it told of again.
        """
        under_way = True

        def follow(step: Step | RootStep | None) -> None:
            nonlocal under_way
            if under_way and self._step is not None:
                self._tell("changed")
                self._tell("done")
            self._take(step)
            under_way = under_way and step is not None
            if under_way:
                self._tell("begun")

        self._take(None)
        try:
            yield follow
        except Exception as error:
            self._tell("failed", str(error))
            raise

    def begun(self, detail: str | None = None) -> None:
        """It is in the journal."""
        self._tell("begun", detail)

    def changed(self) -> None:
        """It has been done, and the manifest does not say so yet."""
        self._tell("changed")

    def _take(self, step: Step | RootStep | None) -> None:
        self._step = step
        if step is not None:
            self._numbers.setdefault(step.id, len(self._numbers) + 1)
        self._began = self._run.system.monotonic()

    def _tell(self, stage: Stage, detail: str | None = None) -> None:
        if self._step is not None:
            seconds = self._run.system.monotonic() - self._began
            number = self._numbers[self._step.id]
            self._run.observer.tell(
                Event(self._step.id, self._step.title, stage, seconds, detail, number, self._total)
            )


def _settle(run: Run, action: Action, entry: Entry) -> None:
    """It has been changed: the manifest says so."""
    known = _ours(action)
    if action.verb is Verb.DELETE:
        run.manifest.entries.pop(action.id, None)
    else:
        first = known or entry
        run.manifest.entries[action.id] = replace(entry, before=first.before, blob=first.blob)
        if needless := restart_made_needless(action):
            run.journal.handler_done(needless)
    run.manifest.save(run.system, run.folder)


def _has_run(run: Run, handler: Handler) -> None:
    run.journal.handler_done(handler.id)
    run.handlers.append(handler.id)


def _ours(action: Action) -> Entry | None:
    """What the manifest says of it, unless that is only that it was there before us."""
    return action.entry if action.entry is not None and not action.entry.adopted else None


def _adopted(action: Action) -> Entry:
    """In the manifest as it is: seen by us, and nothing of ours."""
    resource = action.resource
    return Entry(
        id=resource.id,
        kind=resource.kind,
        group=resource.group,
        record=resource.record(),
        state=action.seen,
        before=action.seen,
        adopted=True,
        notify=resource.notify,
    )
