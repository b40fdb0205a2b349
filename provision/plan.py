"""Plan: what would be done to the host, as data that is shown before anything is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarmbus.provision.handlers import Handler
from swarmbus.provision.manifest import Entry
from swarmbus.provision.resources.base import Comparison, Resource, Scope, State, Verb
from swarmbus.provision.root import RootStep, shell_script
from swarmbus.provision.system import System

SCHEMA = "swarmbus.plan/1"


@dataclass(frozen=True)
class Wish:
    """What a host should have, as `desired.desired` says it.

    Attributes:
        resources: In the order in which they are brought about.
        notes: What the operator has to know besides, a sentence each.
        only: Groups of which this is the whole wish; None for those of its resources.
    """

    resources: tuple[Resource, ...]
    notes: tuple[str, ...] = ()
    only: frozenset[str] | None = None

    @property
    def groups(self) -> frozenset[str]:
        """Groups of which this is the whole wish: what else is ours in them goes.

        A wish that does not speak of linger wants none.
        """
        if self.only is not None:
            return self.only
        return frozenset({"linger", *(resource.group for resource in self.resources)})


@dataclass(frozen=True)
class Action:
    """One resource and what is to be done about it.

    Attributes:
        seen: How it is.
        entry: What the manifest says of it; None if it is not ours.
        forget: With `Verb.KEEP`: it is as it was before us already, and no longer ours.
    """

    resource: Resource
    comparison: Comparison
    seen: State
    entry: Entry | None
    forget: bool = False

    @property
    def id(self) -> str:
        """Of the resource."""
        return self.resource.id

    @property
    def title(self) -> str:
        """For a human."""
        if self.verb is Verb.DELETE and self.entry is not None:
            return self.resource.undo_title(self.entry.before)
        return self.resource.title

    @property
    def verb(self) -> Verb:
        """What is to be done."""
        return self.comparison.verb

    @property
    def notify(self) -> tuple[str, ...]:
        """Handlers that it makes due; a resource made again from its record does not know its own."""
        return self.resource.notify or (self.entry.notify if self.entry is not None else ())

    @property
    def scope(self) -> Scope:
        """Whether it needs root."""
        return self.resource.scope

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "id": self.id,
            "verb": str(self.verb),
            "scope": self.scope,
            "title": self.title,
            "diff": self.comparison.diff,
            "reason": self.comparison.reason,
        }


Step = Action | Handler
"""What `swarmbus.provision.apply` carries out one by one."""


@dataclass(frozen=True)
class Plan:
    """All actions, and what follows from them.

    Attributes:
        actions: In the order of the wish.
        steps: The actions that change something and the handlers, in the order in which they are carried out.
        root_steps: What root would run for those of the steps that need it.
        unfinished: Whether an earlier run was killed in the middle: the host is as that one left it.
    """

    actions: tuple[Action, ...]
    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()
    root_steps: tuple[RootStep, ...] = ()
    unfinished: bool = False

    @property
    def changes(self) -> tuple[Action, ...]:
        """The actions after which the host is another."""
        return tuple(action for action in self.actions if action.verb.changes_host)

    @property
    def handlers(self) -> tuple[Handler, ...]:
        """What will be restarted or reloaded."""
        return tuple(step for step in self.steps if isinstance(step, Handler))

    @property
    def changed(self) -> bool:
        """Whether carrying it out changes the host."""
        return bool(self.steps)

    @property
    def conflicts(self) -> tuple[Action, ...]:
        """What the operator has to decide."""
        return tuple(action for action in self.actions if action.verb is Verb.CONFLICT)

    @property
    def blocked(self) -> bool:
        """Whether a conflict is such that nothing may be done before it is resolved."""
        return any(action.comparison.blocking for action in self.conflicts)

    @property
    def needs_root(self) -> bool:
        """Whether a step of it needs root."""
        return bool(self.root_steps)

    @property
    def root_script(self) -> str | None:
        """What root would run, to be read by a human; None if nothing."""
        return shell_script(self.root_steps, hide_secrets=True) if self.root_steps else None

    def as_json(self, *, failed: bool = False, error: str | None = None) -> dict[str, Any]:
        """``swarmbus.plan/1``."""
        return {
            "schema": SCHEMA,
            "changed": self.changed,
            "failed": failed,
            "actions": [action.as_json() for action in self.actions],
            "handlers": [handler.id for handler in self.handlers],
            "conflicts": [action.resource.id for action in self.conflicts],
            "notes": list(self.notes),
            "root_script": self.root_script,
            "error": error,
        }


def restart_made_needless(action: Action) -> str:
    """The handler that bringing about this resource spares: what is started is started afresh. Or empty."""
    return "" if action.verb is Verb.DELETE or action.seen.get("active") else restart_of(action.id)


def left_over(resource: Resource, system: System) -> list[Path]:
    """Files that a change of it which was cut off has left behind."""
    return [path for path in resource.leftovers if system.stat(path) is not None]


def runs_in(state: State) -> bool:
    """Whether something of which this is the state runs."""
    return bool(state.get("active") or state.get("running"))


def restart_of(resource_id: str) -> str:
    """The handler that restarts it; empty if it is nothing that runs."""
    kind, _, rest = resource_id.partition(":")
    if kind == "process":
        return f"process:restart:{rest}"
    if kind == "launchd":
        return f"launchd:restart:{rest}"
    if kind == "unit":
        manager, _, name = rest.partition(":")
        return f"{manager}:restart:{name}"
    return ""
