"""Resource: one thing on a host, how it is, how it should be, and how to get from one to the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from swarmbus.errors import SwarmbusError
from swarmbus.provision.command import Command, run_commands
from swarmbus.provision.system import System

State = Mapping[str, Any]
"""How a thing is, in a form that goes into JSON; two equal states are the same state.

``{"present": False}`` or ``{"present": True, "sha256": "…", "mode": "0644"}``; each kind has its own keys.
"""

Scope = Literal["user", "root"]

ABSENT: State = {"present": False}


class Verb(StrEnum):
    """What is to be done about one resource."""

    CREATE = "create"
    UPDATE = "update"
    ADOPT = "adopt"
    """It already is as it should be, and was there before us: only noted, and left alone when we go."""
    KEEP = "keep"
    """Nothing: it is as it should be, or it was changed by somebody who has the say."""
    CONFLICT = "conflict"
    """Ours and somebody else's wish differ; theirs stays, ours is laid beside it where there is a way."""
    DELETE = "delete"

    @property
    def changes_host(self) -> bool:
        """Whether something on the host becomes different."""
        return self in (Verb.CREATE, Verb.UPDATE, Verb.DELETE)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What follows from how a thing is.

    Attributes:
        diff: Unified diff for a human; None where there is none to show, never with a secret in it.
        blocking: With `Verb.CONFLICT`: nothing at all may be done before it is resolved.
        remark: With `Verb.KEEP`: the operator should know the reason all the same.
    """

    verb: Verb
    reason: str
    diff: str | None = None
    blocking: bool = False
    remark: bool = False


@dataclass(frozen=True, slots=True)
class Owned:
    """What the manifest knows of a resource.

    Attributes:
        state: As we left it.
    """

    state: State


class Declined(SwarmbusError):
    """The host said no to a step without which the rest is still worth having."""

    code = "declined"


@dataclass(frozen=True, kw_only=True)
class Resource(ABC):
    """One thing on a host.

    Attributes:
        group: Whose it is: ``host``, ``broker`` or ``agent:<id>``; what a group no longer wants is deleted.
        notify: Handlers (`swarmbus.provision.handlers`) that must run, once, after it has changed.
        settle: Handlers that, if they are due, must run before this one's turn.
    """

    kind: ClassVar[str]
    guarded: ClassVar[bool] = True
    """Whether undo leaves it alone when it is neither as it was nor as we left it: somebody edited it."""
    goes_last: ClassVar[bool] = False
    """Whether it is taken away after everything else, because what else is to be done stands on it."""

    group: str
    notify: tuple[str, ...] = field(default=(), compare=False)
    settle: tuple[str, ...] = field(default=(), compare=False)

    @property
    @abstractmethod
    def id(self) -> str:
        """Stable name, ``<kind>:<what>``."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What bringing it about is called for a human: "write /etc/…"."""

    def undo_title(self, before: State) -> str:
        """What taking it away, or putting it back as it was, is called for a human."""
        return f"take back: {self.title}"

    @property
    def scope(self) -> Scope:
        """Whether changing it needs root."""
        return "user"

    @abstractmethod
    def read(self, system: System) -> State:
        """How it is now; changes nothing."""

    @classmethod
    def read_all(cls, system: System, resources: Sequence[Resource]) -> list[State]:
        """`read` for several of one kind; kinds that can ask for many at once do."""
        return [resource.read(system) for resource in resources]

    @abstractmethod
    def wanted(self, system: System) -> State:
        """How it should be."""

    @abstractmethod
    def compare(self, system: System, seen: State, owned: Owned | None, *, take: bool) -> Comparison:
        """Decide by what is there, what we left there and what should be there.

        Args:
            owned: What the manifest says; None if it is not ours.
            take: The operator said that in a conflict ours is to win.
        """

    def validate(self, system: System) -> None:  # noqa: B027 - most kinds have no judge
        """Have the program that will use it judge it, before anything is changed.

        Raises:
            CannotRun: If that program would not accept it.
        """

    def lay_beside(self, system: System) -> None:  # noqa: B027 - most kinds have no place beside
        """In a conflict: put our version where the operator can compare it."""

    def original(self, system: System) -> bytes | None:
        """What `undo` will need besides the state before; asked for right before the change."""
        return None

    def realise(self, system: System) -> State:
        """Make it as it should be, from whatever it is, as the user; the state afterwards.

        Raises:
            Declined: If the host refused and the run should go on.
            SwarmbusError: If it failed.
        """
        run_commands(system, self.commands(system), self.title)
        self.await_realised(system)
        return self.read(system)

    def undo(self, system: System, before: State, original: bytes | None) -> None:
        """Make it as it was, as the user: ``before`` and ``original`` are from before the first change."""
        run_commands(system, self.undo_commands(system, before, original), f"taking back: {self.title}")

    def commands(self, system: System) -> list[Command]:
        """What is run to realise it; in a script of root's, where it needs root."""
        raise NotImplementedError(f"{self.kind} is not brought about by commands")

    def undo_commands(self, system: System, before: State, original: bytes | None) -> list[Command]:
        """What is run to undo it; likewise."""
        raise NotImplementedError(f"{self.kind} is not undone by commands")

    def await_realised(self, system: System) -> None:  # noqa: B027 - most kinds are done at once
        """Wait until what was begun has come about.

        Raises:
            CannotRun: If it does not.
        """

    def await_undone(self, system: System, before: State) -> None:  # noqa: B027 - likewise
        """Wait until it is again as it was before.

        Raises:
            CannotRun: If it does not come to that.
        """

    @property
    def takes_along(self) -> tuple[str, ...]:
        """Handlers of what is gone when this is: a package takes its service along."""
        return ()

    @property
    def leftovers(self) -> tuple[Path, ...]:
        """Files that a change which was cut off may have left behind."""
        return ()

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """What `from_record` needs to make a resource that can read and undo."""

    @classmethod
    @abstractmethod
    def from_record(cls, group: str, record: Mapping[str, Any]) -> Self:
        """The resource again, from the journal or the manifest.

        Raises:
            KeyError, ValueError: If the record is not one of ours.
        """


def two_way(seen: State, wanted: State, owned: Owned | None) -> Comparison:
    """For kinds that are there or not, with nothing in between.

    A thing that was removed since comes back: whoever calls init asks for it.
    """
    if seen == wanted:
        return Comparison(Verb.KEEP, "as it should be") if owned else Comparison(Verb.ADOPT, "already there")
    return Comparison(Verb.CREATE, "was removed since" if owned else "is missing")


def three_way(seen: State, wanted: State, owned: Owned | None, *, missing: bool) -> Comparison | None:
    """The cases that are alike for every kind; None where the kind itself must decide."""
    return two_way(seen, wanted, owned) if missing or seen == wanted else None
