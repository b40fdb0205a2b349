"""What the last look at this host's health has left: when it was, and how all was then."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

from swarmbus.errors import StorageError
from swarmbus.provision.layout import Layout
from swarmbus.provision.system import System

SCHEMA: Final = "swarmbus.health/1"

INTERVAL: Final = 300.0
"""Seconds from one look to the next, by the timer's rule (swarmbus.health.timer)."""

TIMER: Final = "swarmbus.health.timer"
SERVICE: Final = "swarmbus.health.service"
"""With a dot behind ``swarmbus``, which no agent id has: no agent's unit has this name."""


@dataclass(frozen=True, slots=True)
class State:
    """How one check found one subject.

    Attributes:
        since: Unix time from which on it was so.
    """

    code: str
    subject: str
    status: str
    since: float
    message: str


@dataclass(frozen=True, slots=True)
class HealthSeen:
    """The last look.

    Attributes:
        time: When it was, in Unix time.
        untold: Of each agent whose summary the broker did not take, why.
    """

    time: float
    version: str
    interval: float = INTERVAL
    untold: Mapping[str, str] = field(default_factory=dict)
    states: tuple[State, ...] = ()

    def state(self, code: str, subject: str) -> State | None:
        """Of one check and subject."""
        return next((one for one in self.states if (one.code, one.subject) == (code, subject)), None)


def load_health(system: System, layout: Layout) -> HealthSeen | None:
    """As it was kept; None if nobody has ever looked, or it cannot be read."""
    try:
        said = json.loads(system.read(layout.doctor / "health.json") or b"{}")
        if said.pop("schema", None) != SCHEMA:
            return None
        states = tuple(State(**one) for one in said.pop("states"))
        seen = HealthSeen(**said, states=states)
        return seen if seen.time + seen.interval > 0 else None
    except (StorageError, ValueError, TypeError, KeyError, AttributeError):
        return None


def keep_health(system: System, layout: Layout, seen: HealthSeen) -> None:
    """In place of the look before."""
    text = json.dumps({"schema": SCHEMA, **asdict(seen)}, indent=1, ensure_ascii=False) + "\n"
    system.write_file(layout.doctor / "health.json", text.encode(), mode=0o600)
