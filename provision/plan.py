"""Plan: what would be done to the host, decided and shown before anything is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from swarmbus.provision.handlers import Handler
from swarmbus.provision.layout import Layout
from swarmbus.provision.manifest import Entry, Manifest
from swarmbus.provision.resources.base import ABSENT, Comparison, Owned, Resource, Scope, State, Verb
from swarmbus.provision.resources.file import unified_diff
from swarmbus.provision.resources.toml_key import TomlKey
from swarmbus.provision.root import RootCommand, shell_script
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
    def verb(self) -> Verb:
        """What is to be done."""
        return self.comparison.verb

    @property
    def scope(self) -> Scope:
        """Whether it needs root."""
        return self.resource.scope

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "id": self.resource.id,
            "verb": str(self.verb),
            "scope": self.scope,
            "title": self.resource.title,
            "diff": self.comparison.diff,
            "reason": self.comparison.reason,
        }


@dataclass(frozen=True)
class Plan:
    """All actions, in order, and what follows from them.

    Attributes:
        handlers: What will be restarted or reloaded.
        root_commands: What root would run for the actions that need it.
        owed: Ids of those handlers that are due whatever the actions change.
        unfinished: Whether an earlier run was killed in the middle: the host is as that one left it.
    """

    actions: tuple[Action, ...]
    handlers: tuple[Handler, ...] = ()
    notes: tuple[str, ...] = ()
    root_commands: tuple[RootCommand, ...] = ()
    owed: tuple[str, ...] = ()
    unfinished: bool = False

    @property
    def changes(self) -> tuple[Action, ...]:
        """The actions after which the host is another."""
        return tuple(action for action in self.actions if action.verb.changes_host)

    @property
    def changed(self) -> bool:
        """Whether carrying it out changes the host."""
        return bool(self.changes or self.handlers)

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
        return any(action.scope == "root" for action in self.changes) or any(
            handler.scope == "root" for handler in self.handlers
        )

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
            "root_script": shell_script(self.root_commands) if self.root_commands else None,
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
    due = dict.fromkeys(pending)
    for action in actions:
        if action.verb.changes_host:
            due |= dict.fromkeys(action.resource.notify)
    started = {
        spared
        for action in actions
        if action.verb.changes_host
        and (spared := restart_made_needless(action)) not in action.resource.settle
    }
    handlers = [Handler(handler_id, layout.processes) for handler_id in due if handler_id not in started]
    commands = [
        command
        for action in actions
        if action.verb.changes_host and action.scope == "root"
        for command in action.resource.commands(system)
    ]
    commands += [command for handler in handlers for command in handler.commands()]
    handlers.sort(key=lambda handler: handler.rank)
    remarks = tuple(
        f"{action.resource.id} {action.comparison.reason}" for action in actions if action.comparison.remark
    )
    return Plan(tuple(actions), tuple(handlers), (*wish.notes, *remarks), tuple(commands), tuple(pending))


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
    kind, _, rest = action.resource.id.partition(":")
    if kind == "process":
        return f"process:restart:{rest}"
    if kind == "unit" and not action.seen.get("active"):
        manager, _, name = rest.partition(":")
        return f"{manager}:restart:{name}"
    return ""
