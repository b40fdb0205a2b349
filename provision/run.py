"""Run: one run over a host, what it needs at hand, and who is told what happens in it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from swarmbus.provision.journal import Journal
from swarmbus.provision.layout import Layout
from swarmbus.provision.manifest import Blobs, Manifest
from swarmbus.provision.system import System

_LOCK_WAIT = 60.0

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
        notes: Sentences for the operator that came up on the way.
        handlers: Ids of those that have run.
    """

    system: System
    layout: Layout
    manifest: Manifest
    journal: Journal
    blobs: Blobs
    observer: Observer
    notes: list[str] = field(default_factory=list)
    handlers: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, system: System, layout: Layout, observer: Observer) -> Run:
        """With the manifest as it is on disk; `one_at_a_time` first."""
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

    def sweep(self) -> None:
        """Forget the originals that neither the manifest nor the last run can need any more."""
        last = self.journal.last()
        changes = last.changes if last else ()
        self.blobs.sweep({blob for entry in (*self.manifest, *changes) for blob in (entry.blob, entry.first)})


def one_at_a_time(system: System, layout: Layout) -> AbstractContextManager[None]:
    """While it is held no other run is under way; one that comes waits for a minute.

    Raises:
        Conflict: If another holds it for longer.
    """
    return system.locked(layout.provision / "lock", _LOCK_WAIT)
