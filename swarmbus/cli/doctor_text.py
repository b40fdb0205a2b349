"""A doctor's report for a human: by category, each problem with what was measured and what to type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import groupby
from typing import Final

from swarmbus.cli import output
from swarmbus.inbox_file import one_line
from swarmbus.provision.checks import Status
from swarmbus.provision.report import AMISS, Report, Result

COLOURS: Final = {
    Status.OK: output.GREEN,
    Status.INFO: output.DIM,
    Status.SKIP: output.DIM,
    Status.WARN: output.YELLOW,
    Status.FAIL: output.RED,
    Status.CRASH: output.RED,
}
_WITH_TIMES: Final = ("mqtt.canary", "agent.wake-path")
"""Checks whose measure is shown also where all is well: what each hop took."""
_INDENT: Final = " " * 6


def as_text(report: Report, *, verbose: bool = False) -> str:
    """The whole report.

    Args:
        verbose: Also each skipped check by itself, evidence of what is well, and tracebacks.
    """
    lines = [one_line(f"swarmbus doctor on {report.host}: {', '.join(report.agents)}")]
    for category, results in groupby(report.results, key=lambda result: result.check.category):
        lines += ["", output.paint(category, output.BOLD), *_category(list(results), verbose=verbose)]
    return "\n".join([*lines, "", summary(report), ""])


def _category(results: list[Result], *, verbose: bool) -> Iterator[str]:
    told = [result for result in results if verbose or result.status is not Status.SKIP]
    width = max((len(result.check.code) for result in told), default=0)
    for result in told:
        yield from _result(result, width, verbose=verbose)
    if not verbose:
        yield from _skipped(result for result in results if result.status is Status.SKIP)


def _result(result: Result, width: int, *, verbose: bool) -> Iterator[str]:
    mark = output.paint(f"{result.status:<5}", COLOURS[result.status])
    if result.muted is not None:
        until = datetime.fromtimestamp(result.muted).astimezone().strftime("%Y-%m-%d %H:%M")
        line = f"{result.status:<5} {result.check.code:<{width}}  {headline(result)} (muted until {until})"
        yield output.paint(line, output.DIM)
        return
    yield f"{mark} {result.check.code:<{width}}  {headline(result)}"
    if result.status in AMISS or result.check.code in _WITH_TIMES or verbose:
        yield from _evidence(result)
    if result.status in AMISS or (verbose and result.fix):
        for number, command in enumerate(result.fix):
            yield f"{_INDENT}{'or: ' if number else 'fix:'} {one_line(command)}"
        yield f"{_INDENT}more: swarmbus doctor --explain {result.check.code}"
    if verbose and result.detail:
        yield from (f"{_INDENT}{one_line(line)}" for line in result.detail.splitlines())


def headline(result: Result) -> str:
    """What it is about and what was found, in one line that does nothing to a terminal."""
    subject = f"{one_line(result.subject)}: " if result.subject else ""
    return f"{subject}{one_line(result.message) if result.message else result.check.title}"


def _evidence(result: Result) -> Iterator[str]:
    if result.evidence:
        pairs = [f"{name} {_value(value)}" for name, value in result.evidence.items() if value is not None]
        yield f"{_INDENT}{', '.join(pairs)}"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return one_line(str(value)) or "-"


def _skipped(results: Iterable[Result]) -> Iterator[str]:
    """One line a reason."""
    by_reason: dict[str, list[Result]] = {}
    for result in results:
        reason = f"because of {result.because}" if result.because else one_line(result.message)
        by_reason.setdefault(reason, []).append(result)
    for reason, same in by_reason.items():
        codes = ", ".join(dict.fromkeys(result.check.code for result in same))
        yield output.paint(f"skip  {codes}: {reason}", output.DIM)


def summary(report: Report) -> str:
    """How many of each, in one line."""
    words = {
        "fail": "failed",
        "crash": "crashed",
        "warn": "warned",
        "ok": "ok",
        "info": "to know",
        "skip": "skipped",
        "muted": "muted",
    }
    counts = [f"{report.summary[status]} {word}" for status, word in words.items() if report.summary[status]]
    consequences: dict[str, int] = {}
    for result in report.results:
        if result.because is not None:
            consequences[result.because] = consequences.get(result.because, 0) + 1
    roots = [f"{count} because of {code}" for code, count in consequences.items()]
    last = f" ({', '.join(roots)})" if roots else ""
    return f"{', '.join(counts)}{last}, in {report.seconds:.1f} s"
