"""What a check is: a record with a stable code, a function that looks at facts, and a page of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from graphlib import TopologicalSorter
from typing import Literal

from swarmbus.provision.facts import Facts

Scope = Literal["host", "broker", "agent"]
"""What it is run for: once, for each broker, or for each agent."""


class Status(StrEnum):
    """How a check ends, from best to worst."""

    OK = "ok"
    INFO = "info"
    SKIP = "skip"
    """Could not look, or follows from something that is told already."""
    WARN = "warn"
    FAIL = "fail"
    CRASH = "crash"
    """The check itself is at fault."""

    @property
    def badness(self) -> int:
        """The higher the worse."""
        return list(Status).index(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check yields; one that yields nothing is ok.

    Attributes:
        message: One line with the value that was seen.
        evidence: What was measured, by name.
        fix: Commands for a shell, as they are to be typed; the first is preferred.
        subject: What it is about, where that is more exact than the broker or agent the check was run for.
        repair: What ``--fix`` has the engine put in order again: ids or groups of resources
            (``linger:pi``, ``agent:coder``), or ``restart:AGENT`` for its listener daemon; empty where a
            human has to decide.
        count: How many of it there are, where more is worse: a mute ends when it grows.
    """

    status: Status
    message: str
    evidence: Mapping[str, object] = field(default_factory=dict)
    fix: tuple[str, ...] = ()
    subject: str = ""
    repair: tuple[str, ...] = ()
    count: int | None = None


Run = Callable[[Facts, str], Iterable[Finding]]
"""``(facts, subject)``; the subject is a broker's name, an agent's id, or empty."""


@dataclass(frozen=True, slots=True)
class Check:
    """One of them.

    Attributes:
        code: ``category.kebab``; never given to another check, also when this one is gone.
        title: What is so when all is well.
        after: Codes of checks without which this one means nothing: if one fails, this one is not run.
        consequence_of: Codes of checks that explain a failure of this one: if both fail, the other is told.
        timeout: Seconds; then it could not look.
        on_request: Whether it is left out unless it is asked for.
    """

    code: str
    title: str
    run: Run
    scope: Scope
    after: tuple[str, ...] = ()
    consequence_of: tuple[str, ...] = ()
    timeout: float = 10.0
    on_request: bool = False

    @property
    def category(self) -> str:
        """The part before the dot."""
        return self.code.partition(".")[0]


class Registry:
    """Checks by code."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}

    def check(
        self,
        code: str,
        title: str,
        *,
        scope: Scope = "agent",
        after: tuple[str, ...] = (),
        consequence_of: tuple[str, ...] = (),
        timeout: float = 10.0,
        on_request: bool = False,
    ) -> Callable[[Run], Run]:
        """Decorator: the function below is the check of this code.

        Raises:
            ValueError: If the code is taken.
        """
        if code in self._checks:
            raise ValueError(f"two checks with the code {code}")

        def register(run: Run) -> Run:
            self._checks[code] = Check(code, title, run, scope, after, consequence_of, timeout, on_request)
            return run

        return register

    def in_order(self) -> tuple[Check, ...]:
        """Every check, each after those that it depends on.

        Raises:
            ValueError: If one depends on a code that there is not, on itself, or, being for a broker or the
                host, on one that is for each agent.
        """
        graph = {code: (*one.after, *one.consequence_of) for code, one in self._checks.items()}
        for code, others in graph.items():
            for other in others:
                if other not in graph:
                    raise ValueError(f"{code} depends on {other}, which there is not")
                if _BREADTH[self._checks[other].scope] < _BREADTH[self._checks[code].scope]:
                    raise ValueError(f"{code} depends on {other}, which is for fewer")
        return tuple(self._checks[code] for code in TopologicalSorter(graph).static_order())


_BREADTH = {"agent": 0, "broker": 1, "host": 2}

REGISTRY = Registry()
check = REGISTRY.check
