"""Farewell: what ends an uninstall when all else is done. It cannot be taken back, and so comes last."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from swarmbus.provision.mail import delete_mail, find_mail
from swarmbus.provision.resources.base import Resource
from swarmbus.provision.resources.directory import Directory
from swarmbus.provision.run import Run
from swarmbus.provision.spec import forget

Goodbye = Callable[[int | None], Sequence[str]]
"""Called when the agents are gone, with the port of their broker if that is not theirs any more; returns what
the operator should know. See `swarmbus.provision.goodbye`."""


@dataclass(frozen=True)
class Farewell:
    """Called with the run; a second time after a kill.

    Attributes:
        groups: Of which nothing is ours any more; None for all.
        shared: What the remaining agents take over of them.
        purge: Whether messages go too.
        inboxes: Inbox and outbox files that go with them.
        beside: Files that were laid beside somebody's.
        port: Of the broker, where it is not the agents' own any more.
    """

    gone: tuple[str, ...] = ()
    groups: frozenset[str] | None = None
    shared: tuple[Resource, ...] = ()
    beside: tuple[Path, ...] = ()
    purge: bool = False
    inboxes: tuple[Path, ...] = ()
    goodbye: Goodbye | None = None
    port: int | None = None

    def __call__(self, run: Run) -> None:
        """Do it."""
        if self.goodbye is not None:
            run.notes += self.goodbye(self.port)
        if self.purge:  # looked for only now: a broker writes its queue when it ends
            mail = find_mail(run.system, run.layout, None if self.groups is None else self.gone)
            run.notes += filter(None, (delete_mail(run.system, one) for one in mail))
        for path in self.inboxes:
            run.system.remove(path)
            run.system.remove_dir(path.parent)  # unless there is something else in it
        for path in self.beside:
            run.system.remove(path)
        if self.groups is None:
            _forget_everything(run)
        else:
            self._hand_over(run, self.groups)

    def _hand_over(self, run: Run, groups: Collection[str]) -> None:
        """What stays of these groups: the user's if it was changed, the other agents' if they use it too."""
        entries = run.manifest.entries
        heirs = {resource.id: resource.group for resource in self.shared}
        for entry in list(run.manifest):
            if entry.id in heirs:
                entries[entry.id] = replace(entry, group=heirs[entry.id])
            elif entry.group in groups:
                del entries[entry.id]
        run.manifest.save(run.system, run.folder)


FORGET_EVERYTHING = Farewell()
"""For a run after which nothing is ours any more."""


def _forget_everything(run: Run) -> None:
    """Spec, manifest, journal, originals, and the folders that were made for them."""
    system, layout = run.system, run.layout
    ground = run.manifest.get(Directory(group="host", path=layout.state).id)
    missing = run.blobs.get(ground.blob) if ground is not None else None
    system.remove_tree(layout.doctor)
    system.remove_tree(layout.data / "before-upgrade")
    system.remove_dir(layout.data)
    forget(system, layout.provision)
    system.remove(layout.provision / "manifest.json")
    system.remove_tree(layout.provision)
    if ground is not None and not ground.adopted:
        ground.resource().undo(system, ground.before, missing)
    else:
        system.remove_dir(layout.state)
