"""A doctor's report in as few lines as it takes: what is amiss, the worst first, and a summary."""

from __future__ import annotations

from swarmbus.cli import output
from swarmbus.cli.doctor_text import COLOURS, headline, summary
from swarmbus.inbox_file import one_line
from swarmbus.provision.report import Report


def as_short(report: Report) -> str:
    """A line a problem with the first command that mends it; what is muted is only counted."""
    lines = []
    for result in report.problems:
        mark = output.paint(f"{result.status:<5}", COLOURS[result.status])
        fix = f"  [{one_line(result.fix[0])}]" if result.fix else ""
        lines.append(f"{mark} {result.check.code}  {headline(result)}{fix}")
    return "\n".join([*lines, summary(report), ""])
