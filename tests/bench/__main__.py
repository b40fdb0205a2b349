"""Measure against swarmbus-py 0.2.0 and write docs/benchmarks.md; ``--quick`` only prints."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import track

from tests.bench import doctor, million
from tests.bench.side import Side
from tests.lab.peers import peer

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "benchmarks.md"
PEER = "0.2.0"

Measure = Callable[[Side], float]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, nothing written")
    quick = parser.parse_args().quick
    talk = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="swarmbus-bench-") as name:
        folder = Path(name)
        ours = Side("ours", Path(sys.executable).parent, folder / "ours", senders_listen=True)
        theirs = Side("theirs", peer(PEER), folder / "theirs", senders_listen=False)
        with ours, theirs:
            table = _paired(ours, theirs, quick, talk)
        looks = doctor.measure(Path(sys.executable).parent, peer(PEER), folder, 3 if quick else 15)
        stored = _stored(folder, quick, talk)
    text = _page(table, looks, stored)
    if not quick:
        PAGE.write_text(text)
    print(text)


def _paired(
    ours: Side, theirs: Side, quick: bool, talk: Console
) -> list[tuple[str, str, float, float, float]]:
    """Rows of what, unit, ours, theirs, and the median of the pairs' ratios."""
    count = 2_000 if quick else 10_000
    plan: list[tuple[str, str, Measure, int]] = [
        ("resident memory of an idle listener", "KiB", lambda side: side.resident_kib(), 3),
        ("processor time of `swarmbus send`", "ms", lambda side: side.send().cpu * 1000, 20),
        ("elapsed time of `swarmbus send`", "ms", lambda side: side.send().wall * 1000, 20),
        ("`swarmbus send` started to entry in the inbox file, median", "ms", _command_latency, 15),
        ("`bus.send()` called to entry in the inbox file, median of 200", "ms", _latency, 5),
        (
            f"{count:,} messages of 300 bytes, 500 at once, to the inbox file",
            "/s",
            _throughput(count, 500),
            5,
        ),
        (f"{count // 5:,} messages, one at a time, to the inbox file", "/s", _throughput(count // 5, 1), 3),
        ("resident memory of the listener after that", "KiB", lambda side: side.resident_kib(), 1),
    ]
    rows = []
    for what, unit, measure, repeats in track(plan, "against the peer", console=talk):
        pairs = []
        for _ in range(1 if quick else repeats):
            pairs.append((measure(ours), measure(theirs)))
        medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
        ratio = statistics.median(mine / other for mine, other in pairs)
        rows.append((what, unit, medians[0], medians[1], ratio))
        talk.print(f"{what}: {medians[0]:,.1f} {unit}, peer {medians[1]:,.1f}, ratio {ratio:.2f}")
    return rows


def _command_latency(side: Side) -> float:
    taken = []
    for _ in range(5):
        start = side.size()
        began = time.perf_counter()
        side.send()
        taken.append((side.wait_for_entries(1, start, 10) - began) * 1000)
    return statistics.median(taken)


def _latency(side: Side) -> float:
    side.send()  # the inbox file has to exist
    side.wait_for_entries(1, 0, 10)
    return statistics.median(map(float, side.python(HERE / "latency.py", str(side.inbox), "200").split()))


def _throughput(count: int, at_once: int) -> Measure:
    """From the first call of send to the last entry in the inbox file, in messages a second."""

    def measure(side: Side) -> float:
        before = side.size()
        run = subprocess.Popen(
            [side.program / "python", HERE / "burst.py", str(side.port), str(count), str(at_once)],
            env=side.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        # Counting entries costs; the size is enough to wait by until they must nearly be there.
        while side.size() - before < count * 340:
            time.sleep(0.002)
        side.wait_for_entries(count + 1, before, 60)  # the warm-up message counts too
        ended = time.monotonic()
        printed, _ = run.communicate(timeout=60)
        return count / (ended - float(printed.split()[0]))

    return measure


def _stored(folder: Path, quick: bool, talk: Console) -> list[tuple[str, float, float]]:
    """Rows of command, and milliseconds with little and with much stored."""
    little, much = (1_000, 20_000) if quick else (1_000, 1_000_000)
    program = Path(sys.executable).parent
    with talk.status(f"storing {much:,} messages"):
        few = million.measure(program, folder, little, 7)
        many = million.measure(program, folder, much, 7)
    return [(name, few[name] * 1000, many[name] * 1000) for name in few]


def _page(
    table: list[tuple[str, str, float, float, float]],
    looks: doctor.Looks,
    stored: list[tuple[str, float, float]],
) -> str:
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. Both programs in one run, in turn, on one machine and one broker; the",
        "ratio is the median of the pairs' ratios. The peer is swarmbus-py 0.2.0, which keeps nothing on the",
        "sender's disk and acknowledges before it has stored; ours commits at both ends.",
        "",
        f"Machine: {platform.machine()}, {os.cpu_count()} processors, Linux {platform.release()}, Python"
        f" {platform.python_version()}.",
        "",
        "| what | unit | swarmbus | peer | ratio |",
        "|---|---|---:|---:|---:|",
        *(f"| {what} | {unit} | {a:,.1f} | {b:,.1f} | {ratio:.2f} |" for what, unit, a, b, ratio in table),
        "",
        "## A look at a healthy host",
        "",
        f"`swarmbus doctor` with five agents, {looks.checks} findings, a message through each listener; the"
        " peer's with one",
        "agent and seven checks.",
        "",
        "| what | swarmbus | peer |",
        "|---|---:|---:|",
        f"| elapsed time | {looks.ours.wall:.0f} ms | {looks.theirs.wall:.0f} ms |",
        f"| processor time, ratio {looks.ratio:.2f} | {looks.ours.cpu:.0f} ms | {looks.theirs.cpu:.0f} ms |",
        "",
        "## What is stored costs nothing",
        "",
        "Processor time of reading ten new messages, with little and with much already there.",
        "",
        "| command | 1,000 stored | 1,000,000 stored |",
        "|---|---:|---:|",
        *(f"| `swarmbus {name}` | {few:.0f} ms | {many:.0f} ms |" for name, few, many in stored),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
