"""What a look at a healthy host costs: ours with five agents, the peer's seven checks with one."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from tests.bench.side import Cost, Side

AGENTS = ("coder", "planner", "writer", "reviewer", "tester")


@dataclass(frozen=True)
class Looks:
    """Medians of several looks, in milliseconds.

    Attributes:
        checks: How many checks were run, each for each of its subjects.
        ratio: Of the processor times: the median of the pairs' ratios.
    """

    checks: int
    ours: Cost
    theirs: Cost
    ratio: float


def measure(program: Path, peer: Path, folder: Path, repeats: int) -> Looks:
    """In turn, in one run, on one machine, each with its own broker."""
    with (
        Side("ours", program, folder / "doctor-ours", senders_listen=True, more=AGENTS[2:]) as ours,
        Side("theirs", peer, folder / "doctor-theirs", senders_listen=False) as theirs,
    ):
        port = ("--port", str(ours.port))
        report = json.loads(ours.output("doctor", "--all", "--json", *port))
        if sorted(report["agents"]) != sorted(AGENTS) or report["summary"]["fail"]:
            raise ValueError(f"this is no healthy host with five agents: {report['summary']}")
        pairs = [
            (
                ours.run("doctor", "--all", *port),
                theirs.run("doctor", "--agent-id", "coder", "--port", str(theirs.port), fails=True),
            )
            for _ in range(repeats)
        ]
    return Looks(
        len(report["checks"]),
        _median([mine for mine, _ in pairs]),
        _median([other for _, other in pairs]),
        statistics.median(mine.cpu / other.cpu for mine, other in pairs),
    )


def _median(costs: list[Cost]) -> Cost:
    return Cost(
        statistics.median(cost.cpu for cost in costs) * 1000,
        statistics.median(cost.wall for cost in costs) * 1000,
    )
