"""Planning: compare a wish with the host and with what is ours there. Only reads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Final

from swarmbus.provision.command import Command, remove_commands
from swarmbus.provision.handlers import Handler
from swarmbus.provision.layout import Layout
from swarmbus.provision.manifest import Blobs, Manifest
from swarmbus.provision.plan import (
    Action,
    Plan,
    Step,
    Wish,
    left_over,
    restart_made_needless,
    restart_of,
    runs_in,
)
from swarmbus.provision.resources.base import ABSENT, Comparison, Owned, Resource, State, Verb
from swarmbus.provision.resources.directory import Directory
from swarmbus.provision.resources.file import unified_diff
from swarmbus.provision.resources.toml_key import TomlKey
from swarmbus.provision.root import RootStep
from swarmbus.provision.system import System

_RUNNING: Final = ("unit", "process", "launchd")


def make_plan(
    wish: Wish,
    system: System,
    manifest: Manifest,
    layout: Layout,
    *,
    take: Collection[str] = frozenset(),
    pending: Sequence[str] = (),
    only: Collection[str] | None = None,
) -> Plan:
    """Compare the wish with the host; reads only.

    Args:
        take: Ids or paths of resources of which ours is to win in a conflict.
        pending: Handlers that are owed: by an interrupted run, or to a listener with old code.
        only: Ids and groups of the resources that may be touched, with the folders that they lie in; None
            for all.
    """
    actions = [
        _compare(resource, seen, system, manifest, take)
        for resource, seen in zip(wish.resources, read_states(wish.resources, system), strict=True)
    ]
    actions = _with_deletions(actions, _deletions(wish, system, manifest, layout))
    if only is not None:
        actions = _restricted(actions, only)
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
    gone = {ends for action in actions for ends in _restarts_of_what_goes(action)}
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
    rest: list[Handler] = [Handler(name, layout.processes) for name in due if name not in gone]
    rest.sort(key=lambda handler: handler.rank)
    return (*steps, *rest)


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
        litter = [one for path in left_over(step.resource, system) for one in remove_commands(path)]
        undo = step.resource.undo_commands(system, step.entry.before, blobs.get(step.entry.blob))
        return [*litter, *undo]
    return step.resource.commands(system)


def _compare(
    resource: Resource, seen: State, system: System, manifest: Manifest, take: Collection[str]
) -> Action:
    entry = manifest.get(resource.id)
    owned = Owned(entry.state) if entry is not None else None
    taken = resource.id in take or resource.id.partition(":")[2] in take
    return Action(resource, resource.compare(system, seen, owned, take=taken), seen, entry)


def _restricted(actions: Sequence[Action], only: Collection[str]) -> list[Action]:
    named = [action for action in actions if {action.resource.id, action.resource.group} & set(only)]
    paths = [path for action in named if isinstance(path := getattr(action.resource, "path", None), Path)]
    return [
        action
        for action in actions
        if action in named
        or (
            isinstance(action.resource, Directory)
            and any(path.is_relative_to(action.resource.path) for path in paths)
        )
    ]


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


def read_states(resources: Sequence[Resource], system: System) -> list[State]:
    """The states, asking for those of one kind together."""
    order = sorted(range(len(resources)), key=lambda index: (resources[index].kind, index))
    states: dict[int, State] = {}
    for _, group in groupby(order, key=lambda index: resources[index].kind):
        indexes = list(group)
        alike = [resources[index] for index in indexes]
        states |= dict(zip(indexes, type(alike[0]).read_all(system, alike), strict=True))
    return [states[index] for index in range(len(resources))]


def _deletions(wish: Wish, system: System, manifest: Manifest, layout: Layout) -> list[Action]:
    """What is ours and belongs to a group that does not want it any more, last come first."""
    wanted = {resource.id for resource in wish.resources}
    leaving = [entry for entry in reversed(list(manifest)) if entry.group in wish.groups]
    leaving = [entry for entry in leaving if entry.id not in wanted and not entry.adopted]
    resources = [entry.resource() for entry in leaving]
    actions = []
    for entry, resource, seen in zip(leaving, resources, read_states(resources, system), strict=True):
        if seen == entry.before and not left_over(resource, system):
            keep = Comparison(Verb.KEEP, "is as it was before us")
            actions.append(Action(resource, keep, seen, entry, forget=True))
            continue
        comparison = Comparison(Verb.DELETE, "is not wanted any more")
        if resource.guarded and seen not in (entry.state, ABSENT):
            reason = "is not wanted any more, but was changed since; it stays"
            comparison = Comparison(Verb.KEEP, reason, remark=True)
        actions.append(Action(resource, comparison, seen, entry))
    return _roots_last(actions, layout)


def _roots_last(actions: Sequence[Action], layout: Layout) -> list[Action]:
    """The user's steps, with the handlers that they make due, then those of root, which make one script."""
    changing = [action for action in actions if action.verb is Verb.DELETE]
    gone = {ends for action in actions for ends in _restarts_of_what_goes(action)}
    due = {name for action in changing for name in action.notify} - gone
    handlers = sorted((Handler(name, layout.processes) for name in due), key=lambda handler: handler.rank)
    settle = tuple(handler.id for handler in handlers if handler.scope == "user")
    order = sorted(actions, key=lambda action: (action.resource.goes_last, action.scope == "root"))
    return [
        replace(action, resource=replace(action.resource, settle=settle))
        if action.verb is Verb.DELETE and (action.scope == "root" or action.resource.goes_last)
        else action
        for action in order
    ]


def _with_deletions(actions: Sequence[Action], deletions: Sequence[Action]) -> list[Action]:
    """What runs ends right before what takes its place starts; all else that is deleted comes last."""
    starting = {action.resource.group for action in actions if action.resource.kind in _RUNNING}
    replaced = [one for one in deletions if one.resource.kind in _RUNNING and one.resource.group in starting]
    together: list[Action] = []
    for action in actions:
        if action.resource.kind in _RUNNING:
            together += [one for one in replaced if one.resource.group == action.resource.group]
            replaced = [one for one in replaced if one not in together]
        together.append(action)
    return [*together, *(one for one in deletions if one not in together)]


def _restarts_of_what_goes(action: Action) -> tuple[str, ...]:
    """The handlers that would start again what is taken away for good, or is gone already."""
    leaves = action.verb is Verb.DELETE or action.forget
    if not leaves or action.entry is None or runs_in(action.entry.before):
        return ()
    return (restart_of(action.id), *action.resource.takes_along)
