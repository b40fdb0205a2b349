"""Health: a look at this host every five minutes; what changed is kept, and the bus is told how all is.

The retained summary of each agent is a lease, as presence is: it says when it was given and how often it is
renewed, so that whoever reads it sees that a monitor is dead, and does not take its last word for today's.
A sample::

    {"agent": "coder", "host": "pi4", "ts": "2026-04-14T05:00:00+00:00", "interval": 300.0,
     "version": "1.0.0", "status": "fail", "summary": {"ok": 29, "fail": 1, …}, "worst": ["broker.running"]}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from swarmbus import topics
from swarmbus.provision.bus import Bus
from swarmbus.provision.checks import Status
from swarmbus.provision.facts import Facts
from swarmbus.provision.health_state import INTERVAL, HealthSeen, State, keep_health, load_health
from swarmbus.provision.known_agents import known_agents
from swarmbus.provision.layout import Layout
from swarmbus.provision.private_folder import make_private_folder
from swarmbus.provision.report import AMISS, Report
from swarmbus.provision.system import System

OWN_CHECK: Final = "own.health-overdue"
"""The one that says when this last ran, which says nothing while it runs."""

_WORST: Final = 5
_LARGEST_HISTORY: Final = 1024 * 1024
_GONE: Final = "gone"


@dataclass(frozen=True, slots=True)
class Change:
    """A state that became another, one of them amiss.

    Attributes:
        before, after: Statuses; ``gone`` for a subject that is no longer there, or was not before.
        since: Unix time from which on it had been as before.
    """

    time: float
    code: str
    subject: str
    before: str
    after: str
    message: str
    since: float

    def as_json(self) -> dict[str, Any]:
        """An entry of ``--history --json``."""
        times = {name: _iso(getattr(self, name)) for name in ("time", "since")}
        return {**asdict(self), **times}


def watch_over(system: System, layout: Layout, bus: Bus, facts: Facts, report: Report) -> list[Change]:
    """Keep what changed since the last look, and tell each agent's broker how all is.

    Args:
        facts: Those of the report.

    Raises:
        StorageError: If nothing can be kept.
    """
    make_private_folder(system, layout.doctor)
    now = report.time.timestamp()
    before = load_health(system, layout)
    states = _states(report, before, now)
    apart = _not_looked_at(before, report, set(known_agents(system, layout)) - set(facts.agents))
    changes = list(_changes(before, [*states, *apart], now))
    _append(system, layout, changes)
    untold = bus.tell(
        [
            (own, topics.health(agent), json.dumps(summary_of(report, facts, agent)).encode())
            for agent, own in facts.settings.items()
        ]
    )
    kept = {agent: reason for agent, reason in zip(facts.settings, untold, strict=True) if reason is not None}
    keep_health(system, layout, HealthSeen(now, report.version, INTERVAL, kept, (*states, *apart)))
    return changes


def summary_of(report: Report, facts: Facts, agent: str) -> dict[str, Any]:
    """What an agent's broker is told: of the agent, its broker and its host."""
    strangers = {*facts.agents, *facts.brokers()} - {agent, facts.broker_of(agent)}
    own = replace(report, results=tuple(one for one in report.results if one.subject not in strangers))
    problems = own.problems
    return {
        "agent": agent,
        "host": report.host,
        "ts": report.time.isoformat(timespec="seconds"),
        "interval": INTERVAL,
        "version": report.version,
        "status": str(problems[0].status) if problems else "ok",
        "summary": own.summary,
        "worst": list(dict.fromkeys(result.check.code for result in problems))[:_WORST],
    }


def history(system: System, layout: Layout, since: float | None = None) -> list[Change]:
    """What has changed, oldest first; lines that cannot be read are passed over.

    Raises:
        StorageError: If the file is there and cannot be read.
    """
    told = []
    for line in (system.read(layout.doctor / "history.jsonl") or b"").splitlines():
        try:
            change = Change(**json.loads(line))
            if since is None or change.time >= since:
                told.append(change)
        except (ValueError, TypeError):
            continue  # half a line: the power went
    return told


def _states(report: Report, before: HealthSeen | None, now: float) -> list[State]:
    states = []
    for (code, subject), result in report.worst.items():
        known = before.state(code, subject) if before is not None else None
        same = known is not None and known.status == str(result.status)
        since = known.since if known is not None and same else now
        states.append(State(code, subject, str(result.status), since, result.message))
    return states


def _not_looked_at(before: HealthSeen | None, report: Report, others: set[str]) -> list[State]:
    """What a look at some of the checks, or some of the agents, says nothing of."""
    run = {result.check.code for result in report.results}
    kept = before.states if before is not None else ()
    return [one for one in kept if one.code not in run or one.subject in others]


def _changes(before: HealthSeen | None, states: list[State], now: float) -> Iterator[Change]:
    """Those that somebody has to know of: from or to what is amiss."""
    was = {(one.code, one.subject): one for one in before.states} if before is not None else {}
    for state in states:
        old = was.pop((state.code, state.subject), None)
        status, since = (old.status, old.since) if old is not None else (_GONE, now)
        if status != state.status and (_is_amiss(status) or _is_amiss(state.status)):
            yield Change(now, state.code, state.subject, status, state.status, state.message, since)
    for old in was.values():
        # An agent that was taken away; or a check that names its subjects only where something is amiss.
        if _is_amiss(old.status):
            yield Change(now, old.code, old.subject, old.status, _GONE, "", old.since)


def _is_amiss(status: str) -> bool:
    return status != _GONE and Status(status) in AMISS


def _append(system: System, layout: Layout, changes: list[Change]) -> None:
    """And forget the older half when it is too much."""
    path = layout.doctor / "history.jsonl"
    if changes:
        cut_off = not (system.read(path) or b"\n").endswith(b"\n")
        lines = [json.dumps(asdict(change), ensure_ascii=False) for change in changes]
        system.append(path, "\n".join([*([""] if cut_off else []), *lines, ""]).encode())
    seen = system.stat(path)
    if seen is not None and seen.size > _LARGEST_HISTORY:
        kept = (system.read(path) or b"").splitlines(keepends=True)
        system.write_file(path, b"".join(kept[len(kept) // 2 :]), mode=0o600)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
