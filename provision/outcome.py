"""Outcome: what came of an installation, and what came before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from swarmbus.errors import ExitStatus, SwarmbusError
from swarmbus.provision.host import Host, Inspector
from swarmbus.provision.layout import Layout
from swarmbus.provision.plan import Plan, Wish
from swarmbus.provision.request import Request
from swarmbus.provision.root import RootStepsNeeded
from swarmbus.provision.run import Run
from swarmbus.provision.spec import InstallSpec
from swarmbus.provision.system import System

Amend = Callable[[Wish], Wish]
"""What else is wanted, put among what follows from the spec."""


@dataclass(frozen=True)
class Prepared:
    """What is there, what is wanted, and what would be done.

    Attributes:
        resumed: Whether an earlier run was killed in the middle, which this one takes up.
        amend: What was wanted besides; None if nothing.
        only: Ids and groups of what may be touched; None for all.
        replan: Looks again, under the lock; None for `swarmbus.provision.prepare`.
        afterwards: What is done once the run has ended well, and is never taken back.
    """

    system: System
    layout: Layout
    request: Request
    spec: InstallSpec
    host: Host
    plan: Plan
    resumed: bool = False
    inspector: Inspector | None = None
    amend: Amend | None = None
    only: frozenset[str] | None = None
    replan: Callable[[], Prepared] | None = None
    afterwards: Callable[[Run], None] | None = None


@dataclass(frozen=True)
class GateReport:
    """What the gate found after everything was done.

    Attributes:
        ok: Whether it may stay as it is.
        summary: One line: "a message from planner to planner took 41 ms".
        detail: For programs.
    """

    ok: bool
    summary: str
    detail: Mapping[str, Any] = field(default_factory=dict)


Gate = Callable[[Prepared], GateReport]
"""Tries what was set up. A `SwarmbusError` that it raises counts as no."""


@dataclass(frozen=True)
class Outcome:
    """How it ended.

    Attributes:
        plan: What was carried out: the prepared one, or what was left of it.
        handlers: Ids of those that ran.
        rolled_back: Whether the host is again as it was before.
        error: Why it failed; None if it did not.
    """

    plan: Plan
    changed: bool = False
    rolled_back: bool = False
    gate: GateReport | None = None
    handlers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: SwarmbusError | None = None

    @classmethod
    def of(cls, run: Run, plan: Plan, **facts: Any) -> Outcome:
        """What came of a run: with the notes of both."""
        notes = (*plan.notes, *run.notes)
        return cls(plan, handlers=tuple(run.handlers), notes=notes, **facts)

    @property
    def failed(self) -> bool:
        """Whether what was wanted is not there."""
        return self.error is not None or (self.gate is not None and not self.gate.ok)

    @property
    def exit_status(self) -> ExitStatus:
        """Failed 1 (or the error's own, when nothing was begun), conflicts 3, else 0."""
        if self.error is not None and not self.rolled_back:
            return self.error.exit_status
        if self.failed:
            return ExitStatus.NEEDS_ROOT if isinstance(self.error, RootStepsNeeded) else ExitStatus.NO
        return ExitStatus.CONFLICT if self.plan.conflicts else ExitStatus.DONE

    def as_json(self) -> dict[str, Any]:
        """``swarmbus.plan/1`` with what became of it."""
        error = self.error.message if self.error else None
        document = self.plan.as_json(failed=self.failed, error=error)
        document["changed"] = self.changed
        if isinstance(self.error, RootStepsNeeded):
            document["root_script"] = self.error.script  # to be run: with what is not shown otherwise
        document["rolled_back"] = self.rolled_back
        document["handlers"] = list(self.handlers)
        document["notes"] = list(self.notes)
        gate = self.gate
        document["gate"] = gate and {"ok": gate.ok, "summary": gate.summary, **gate.detail}
        return document
