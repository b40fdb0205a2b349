"""Apply: carry out a plan so that it can be stopped at any instant, and taken back.

For each step: the journal says what is about to change, then it is changed, then the manifest says that
it is ours. Handlers run once. Whoever kills us finds an open journal at the next start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from swarmbus.errors import Conflict
from swarmbus.provision.handlers import Handler
from swarmbus.provision.journal import Interrupted, Journal
from swarmbus.provision.layout import Layout
from swarmbus.provision.manifest import Blobs, Entry, Manifest
from swarmbus.provision.plan import Action, Plan, restart_made_needless
from swarmbus.provision.resources.base import Declined, Verb
from swarmbus.provision.root import RootStepsNeeded
from swarmbus.provision.system import System

Stage = Literal["begun", "changed", "done", "declined", "failed", "undone", "left"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a step.

    Attributes:
        step: Id of a resource or handler, or ``gate``.
        stage: ``begun`` (in the journal, not yet changed), ``changed`` (not yet in the manifest), ``done``,
            ``declined`` (the host refused, the run goes on), ``failed``; when rolling back ``undone``, or
            ``left`` (somebody changed it since, and theirs stays).
        seconds: Since it was begun.
        number: Which of how many, from 1; 0 while rolling back.
    """

    step: str
    title: str
    stage: Stage
    seconds: float = 0.0
    detail: str | None = None
    number: int = 0
    total: int = 0


class Observer(Protocol):
    """Told what happens while it happens."""

    def tell(self, event: Event) -> None:
        """Something happened."""
        ...

    def hush(self) -> None:
        """The terminal may be needed for a question (sudo's) now: stop drawing until the next event."""
        ...


class Silent:
    """An observer that does nothing."""

    def tell(self, event: Event) -> None:
        """Nothing."""

    def hush(self) -> None:
        """Nothing."""


@dataclass
class Run:
    """One run over a host: what it needs at hand.

    Attributes:
        has_root: Whether sudo has already let us in.
        notes: Sentences for the operator that came up on the way.
        handlers: Ids of those that have run.
    """

    system: System
    layout: Layout
    manifest: Manifest
    journal: Journal
    blobs: Blobs
    observer: Observer
    has_root: bool = False
    notes: list[str] = field(default_factory=list)
    handlers: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, system: System, layout: Layout, observer: Observer) -> Run:
        """With the manifest as it is on disk; take the lock first."""
        folder = layout.provision
        return cls(
            system,
            layout,
            Manifest.load(system, folder),
            Journal(system, folder),
            Blobs(system, folder),
            observer,
        )

    @property
    def folder(self) -> Path:
        """Where manifest and journal are."""
        return self.layout.provision


def reconcile(run: Run, interrupted: Interrupted) -> None:
    """Make the manifest tell the truth about what a killed run left behind."""
    for entry in interrupted.changes:
        resource = entry.resource()
        seen = resource.read(run.system)
        known = run.manifest.get(entry.id)
        if seen == entry.before:
            continue  # not begun
        if seen == entry.state or not resource.guarded:
            first = known if known is not None and not known.adopted else entry
            if seen == first.before:
                run.manifest.entries.pop(entry.id, None)  # it was being taken back
                continue
            run.manifest.entries[entry.id] = replace(entry, state=seen, before=first.before, blob=first.blob)
    run.manifest.save(run.system, run.folder)


def validate(plan: Plan, system: System) -> None:
    """Have what will be written judged by the programs that will read it, before anything is changed."""
    for action in plan.changes:
        if action.verb is not Verb.DELETE:
            action.resource.validate(system)


def apply_plan(run: Run, plan: Plan) -> None:
    """Carry it out.

    Raises:
        RootStepsNeeded: If root is needed and not to be had.
        SwarmbusError: If a step failed; nothing is undone here.
    """
    for action in plan.conflicts:
        action.resource.lay_beside(run.system)
    due = dict.fromkeys(plan.owed)
    count = _Count(len(plan.changes) + len(plan.handlers))
    for action in plan.actions:
        for handler_id in action.resource.settle:
            if handler_id in due:
                _handle(run, plan, handler_id, count)
                del due[handler_id]
        if action.verb is Verb.ADOPT:
            _note(run, action)
        elif action.verb.changes_host:
            _step(run, plan, action, count)
            due |= dict.fromkeys(action.resource.notify)
            if (needless := restart_made_needless(action)) in due:
                run.journal.handler_done(needless)
                del due[needless]
    for handler_id in sorted(due, key=lambda name: Handler(name, run.layout.processes).rank):
        _handle(run, plan, handler_id, count)
    run.manifest.save(run.system, run.folder)


@dataclass
class _Count:
    total: int
    number: int = 0


def _become_root(run: Run, plan: Plan) -> None:
    """Ask for the password, if it must be asked for, at the first step that needs root."""
    if run.has_root:
        return
    run.observer.hush()
    if not run.system.become_root():
        raise RootStepsNeeded("some steps need root, and sudo did not let us", commands=plan.root_commands)
    run.has_root = True


def _note(run: Run, action: Action) -> None:
    """In the manifest as it is: seen by us, and nothing of ours."""
    resource = action.resource
    run.manifest.entries[resource.id] = Entry(
        id=resource.id,
        kind=resource.kind,
        group=resource.group,
        record=resource.record(),
        state=action.seen,
        before=action.seen,
        adopted=True,
        notify=resource.notify,
    )


def _step(run: Run, plan: Plan, action: Action, count: _Count) -> None:
    resource, system = action.resource, run.system
    if action.scope == "root":
        _become_root(run, plan)
    seen = resource.read(system)
    if resource.guarded and seen != action.seen:
        raise Conflict(f"{resource.id} was changed by somebody while the plan was shown", hint="run it again")
    known = action.entry if action.entry is not None and not action.entry.adopted else None
    deleting = action.verb is Verb.DELETE and known is not None
    entry = Entry(
        id=resource.id,
        kind=resource.kind,
        group=resource.group,
        record=resource.record(),
        state=known.before if deleting and known is not None else resource.wanted(system),
        before=seen,
        blob=run.blobs.put(resource.original(system)),
        notify=resource.notify or (known.notify if known else ()),
    )
    with _told(run, resource.id, resource.title, count) as tell:
        run.journal.change(entry)
        tell("begun", action.comparison.reason)
        if deleting and known is not None:
            resource.undo(system, known.before, run.blobs.get(known.blob))
            tell("changed")
            run.manifest.entries.pop(resource.id, None)
        else:
            try:
                state = resource.realise(system)
            except Declined:
                _note(run, action)  # so that the next run does not ask again
                run.manifest.save(system, run.folder)
                raise
            tell("changed")
            first = known or entry
            run.manifest.entries[resource.id] = replace(
                entry, state=state, before=first.before, blob=first.blob
            )
        run.manifest.save(system, run.folder)


def _handle(run: Run, plan: Plan, handler_id: str, count: _Count) -> None:
    handler = Handler(handler_id, run.layout.processes)
    if handler.scope == "root":
        _become_root(run, plan)
    with _told(run, handler_id, handler.title, count) as tell:
        run.journal.handler(handler_id, was_active=handler.is_active(run.system))
        tell("begun")
        handler.run(run.system)
        tell("changed")
        run.journal.handler_done(handler_id)
        run.handlers.append(handler_id)


@contextmanager
def _told(run: Run, step: str, title: str, count: _Count) -> Iterator[Callable[..., None]]:
    """Number the step, and tell the observer how it went."""
    begun = run.system.monotonic()
    count.number += 1
    number, total = count.number, max(count.number, count.total)

    def tell(stage: Stage, detail: str | None = None) -> None:
        seconds = run.system.monotonic() - begun
        run.observer.tell(Event(step, title, stage, seconds, detail, number, total))

    try:
        yield tell
    except Declined as refusal:
        run.notes.append(f"{refusal.message}; {refusal.hint}" if refusal.hint else refusal.message)
        tell("declined", refusal.message)
    except Exception as error:
        tell("failed", str(error))
        raise
    else:
        tell("done")
