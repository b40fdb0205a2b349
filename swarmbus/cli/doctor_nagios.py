"""A doctor's report as a monitoring plugin prints it, with its exit statuses (monitoring-plugins.org).

0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN: the same numbers as ours, with meanings of their own.
"""

from __future__ import annotations

from typing import Final

from swarmbus.cli.doctor_text import headline
from swarmbus.errors import ExitStatus, SwarmbusError
from swarmbus.provision.checks import Status
from swarmbus.provision.report import Report

_WORDS: Final = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


def as_nagios(report: Report, fail_on: Status) -> tuple[str, ExitStatus]:
    """What to print, and what to end with.

    Args:
        fail_on: From which status on it is critical.
    """
    seen = {result.status for result in report.problems}
    status = max((_status(one, fail_on) for one in seen), default=0)
    if status != 2 and Status.CRASH in seen:
        status = 3  # a check is at fault, and nothing is known to be broken
    counts = report.summary
    said = f"{counts['fail']} failed, {counts['warn']} warned, {counts['ok']} ok"
    if report.problems:
        first = report.problems[0]
        said += f"; {first.check.code}: {headline(first)}"
    measured = [f"{name}={counts[name]}" for name in ("fail", "warn", "crash", "skip", "muted", "ok")]
    measured.append(f"seconds={report.seconds:.3f}s")
    lines = [f"SWARMBUS {_WORDS[status]} - {_text(said)} | {' '.join(measured)}"]
    lines += [_text(f"{result.status} {result.check.code}: {headline(result)}") for result in report.problems]
    return "\n".join([*lines, ""]), ExitStatus(status)


def unknown(error: SwarmbusError) -> tuple[str, ExitStatus]:
    """The same for a run that could not be."""
    hint = f" ({error.hint})" if error.hint else ""
    return f"SWARMBUS UNKNOWN - {_text(error.message + hint)}\n", ExitStatus(3)


def _status(status: Status, fail_on: Status) -> int:
    if status is Status.CRASH:
        return 0
    return 2 if status.badness >= fail_on.badness else 1


def _text(text: str) -> str:
    """A bar begins the figures."""
    return text.replace("|", "¦").replace("\n", " ")
