"""Plan: what would be done to the host, decided and shown before anything is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from swarmbus.provision.command import Command
from swarmbus.provision.handlers import Handler
from swarmbus.provision.layout import Layout
from swarmbus.provision.manifest import Blobs, Entry, Manifest
from swarmbus.provision.resources.base import ABSENT, Comparison, Owned, Resource, Scope, State, Verb
from swarmbus.provision.resources.file import unified_diff
from swarmbus.provision.resources.toml_key import TomlKey
from swarmbus.provision.root import RootStep, shell_script
from swarmbus.provision.system import System

SCHEMA = "swarmbus.plan/1"


@dataclass(frozen=True)
class Wish:
    """What a host should have, as `desired.desired` says it.

    Attributes:
        resources: In the order in which they are brought about.
        notes: What the operator has to know besides, a sentence each.
    """

    resources: tuple[Resource, ...]
    notes: tuple[str, ...] = ()

    @property
    def groups(self) -> frozenset[str]:
        """Groups of which this is the whole wish."""
        return frozenset(resource.group for resource in self.resources)


@dataclass(frozen=True)
class Action:
    """One resource and what is to be done about it.

    Attributes:
        seen: How it is.
        entry: What the manifest says of it; None if it is not ours.
    """

    resource: Resource
    comparison: Comparison
    seen: State
    entry: Entry | None

    @property
    def id(self) -> str:
        """Of the resource."""
        return self.resource.id

    @property
    def title(self) -> str:
        """For a human."""
        return f"take back: {self.resource.title}" if self.verb is Verb.DELETE else self.resource.title

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


def make_plan(
    wish: Wish,
    system: System,
    manifest: Manifest,
    layout: Layout,
    *,
    take: Collection[str] = frozenset(),
    pending: Sequence[str] = (),
) -> Plan:
    """Compare the wish with the host; reads only.

    Args:
        take: Ids or paths of resources of which ours is to win in a conflict.
        pending: Handlers that are owed: by an interrupted run, or to a listener with old code.
    """
    actions = [
        _compare(resource, seen, system, manifest, take)
        for resource, seen in zip(wish.resources, _read(wish.resources, system), strict=True)
    ]
    actions += _deletions(wish, system, manifest)
    actions = _diffs_in_order(actions, system)
    steps = _in_order(actions, pending, layout)
    remarks = tuple(
        f"{action.resource.id} {action.comparison.reason}" for action in actions if action.comparison.remark
    )
    root_steps = _root_steps(steps, system, Blobs(system, layout.provision))
    return Plan(tuple(actions), steps, (*wish.notes, *remarks), root_steps)


def _in_order(actions: Sequence[Action], pending: Sequence[str], layout: Layout) -> tuple[Step, ...]:
    """The changes, and each handler once: before what has to find it settled, or else at the end."""
    steps: list[Step] = []
    gone = {ends for action in actions if (ends := _restart_of_what_goes(action))}
    due = dict.fromkeys(pending)
    for action in actions:
        for handler_id in action.resource.settle:
            if handler_id in due:
                steps.append(Handler(handler_id, layout.processes))
                del due[handler_id]
        if action.verb.changes_host:
            steps.append(action)
            due |= dict.fromkeys(action.notify)
            due.pop(restart_made_needless(action), None)
    rest = [Handler(handler_id, layout.processes) for handler_id in due if handler_id not in gone]
    return (*steps, *sorted(rest, key=lambda handler: handler.rank))


def _root_steps(steps: Sequence[Step], system: System, blobs: Blobs) -> tuple[RootStep, ...]:
    return tuple(
        RootStep(step.id, step.title, tuple(_commands(step, system, blobs)))
        for step in steps
        if step.scope == "root"
    )


def _commands(step: Step, system: System, blobs: Blobs) -> list[Command]:
    if isinstance(step, Handler):
        return step.commands()
    if step.verb is Verb.DELETE and step.entry is not None:
        return step.resource.undo_commands(system, step.entry.before, blobs.get(step.entry.blob))
    return step.resource.commands(system)


def _compare(
    resource: Resource, seen: State, system: System, manifest: Manifest, take: Collection[str]
) -> Action:
    entry = manifest.get(resource.id)
    owned = Owned(entry.state) if entry is not None else None
    taken = resource.id in take or resource.id.partition(":")[2] in take
    return Action(resource, resource.compare(system, seen, owned, take=taken), seen, entry)


def _diffs_in_order(actions: Sequence[Action], system: System) -> list[Action]:
    """Several keys of one file: each diff begins where the one before it ends."""
    texts: dict[Path, str] = {}
    told = []
    for action in actions:
        resource = action.resource
        if isinstance(resource, TomlKey) and action.verb in (Verb.CREATE, Verb.UPDATE):
            old = texts.get(resource.path)
            if old is None:
                old = (system.read(resource.path) or b"").decode()
            texts[resource.path] = resource.edited(old)
            diff = unified_diff(old, texts[resource.path], resource.path, context=0)
            action = replace(action, comparison=replace(action.comparison, diff=diff))  # noqa: PLW2901
        told.append(action)
    return told


def _read(resources: Sequence[Resource], system: System) -> list[State]:
    """The states, asking for those of one kind together."""
    order = sorted(range(len(resources)), key=lambda index: (resources[index].kind, index))
    states: dict[int, State] = {}
    for _, group in groupby(order, key=lambda index: resources[index].kind):
        indexes = list(group)
        alike = [resources[index] for index in indexes]
        states |= dict(zip(indexes, type(alike[0]).read_all(system, alike), strict=True))
    return [states[index] for index in range(len(resources))]


def _deletions(wish: Wish, system: System, manifest: Manifest) -> list[Action]:
    """What is ours and belongs to a group that does not want it any more, last come first."""
    wanted = {resource.id for resource in wish.resources}
    actions = []
    for entry in reversed(list(manifest)):
        if entry.id in wanted or entry.group not in wish.groups or entry.adopted:
            continue
        resource = entry.resource()
        seen = resource.read(system)
        if seen == entry.before:
            continue
        comparison = Comparison(Verb.DELETE, "is not wanted any more")
        if resource.guarded and seen not in (entry.state, ABSENT):
            reason = "is not wanted any more, but was changed since; it stays"
            comparison = Comparison(Verb.KEEP, reason, remark=True)
        actions.append(Action(resource, comparison, seen, entry))
    return actions


def restart_made_needless(action: Action) -> str:
    """The handler that bringing about this resource spares: what is started is started afresh. Or empty."""
    return "" if action.verb is Verb.DELETE or action.seen.get("active") else _restart_of(action.resource)


def _restart_of_what_goes(action: Action) -> str:
    """The handler that would start again what is taken away for good. Or empty."""
    before = action.entry.before if action.entry is not None else {}
    was_there = before.get("active") or before.get("running")
    return _restart_of(action.resource) if action.verb is Verb.DELETE and not was_there else ""


def _restart_of(resource: Resource) -> str:
    """The handler that restarts it; empty if it is nothing that runs."""
    kind, _, rest = resource.id.partition(":")
    if kind == "process":
        return f"process:restart:{rest}"
    if kind == "unit":
        manager, _, name = rest.partition(":")
        return f"{manager}:restart:{name}"
    return ""
