"""What a run of the doctor has found: results, how many of each kind, and the exit status that follows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from swarmbus.errors import ExitStatus
from swarmbus.provision.checks import Check, Status

SCHEMA: Final = "swarmbus.doctor/1"

DOCTOR_FAILED: Final = ExitStatus.CONFLICT
"""3: of other commands a conflict, of the doctor, which has none, that a check of its own is at fault."""

AMISS: Final = (Status.WARN, Status.FAIL, Status.CRASH)
"""What somebody should look at."""


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the report: a finding of a check, or that it found nothing.

    Attributes:
        subject: What it is about: an agent, a broker, a file; empty for the host.
        because: Code of the check whose failure explains this one, which is then skipped.
        repair: What of the engine would mend it (`Finding`).
        count: How many of it there are; None where that is no question.
        seconds: What the check took; its whole time, with each of its findings.
        detail: Of a crash, the traceback.
        muted: Unix time until which somebody has muted it; None if nobody has.
    """

    check: Check
    status: Status
    subject: str = ""
    message: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)
    fix: tuple[str, ...] = ()
    because: str | None = None
    repair: tuple[str, ...] = ()
    count: int | None = None
    seconds: float = 0.0
    detail: str = ""
    muted: float | None = None

    @property
    def is_amiss(self) -> bool:
        """Whether somebody should look at it: a warning or worse that is not muted."""
        return self.status in AMISS and self.muted is None

    def as_json(self) -> dict[str, Any]:
        """An entry of ``checks``."""
        return {
            "code": self.check.code,
            "title": self.check.title,
            "category": self.check.category,
            "status": str(self.status),
            "subject": self.subject,
            "message": self.message,
            "evidence": self.evidence,
            "fix": list(self.fix),
            "docs": f"docs/checks/{self.check.code}.md",
            "because": self.because,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """All results, by category.

    Attributes:
        time: When it began.
        seconds: How long it took.
        version: Of the swarmbus that has looked.
    """

    host: str
    agents: tuple[str, ...]
    results: tuple[Result, ...]
    time: datetime
    seconds: float
    version: str

    @property
    def summary(self) -> dict[str, int]:
        """How many results of each status, those that are muted apart."""
        counted = [result for result in self.results if result.muted is None]
        counts = {str(status): sum(result.status is status for result in counted) for status in Status}
        return {**counts, "muted": len(self.results) - len(counted)}

    @property
    def problems(self) -> list[Result]:
        """What somebody should look at, the worst first."""
        # What is known to be broken comes before a check that is.
        order = (Status.FAIL, Status.CRASH, Status.WARN)
        return sorted(
            (result for result in self.results if result.is_amiss),
            key=lambda result: order.index(result.status),
        )

    @property
    def worst(self) -> dict[tuple[str, str], Result]:
        """By code and subject, the worst: a check may find several things about one subject."""
        worst: dict[tuple[str, str], Result] = {}
        for result in self.results:
            before = worst.setdefault((result.check.code, result.subject), result)
            if (result.is_amiss, result.status.badness) > (before.is_amiss, before.status.badness):
                worst[result.check.code, result.subject] = result
        return worst

    @property
    def exit_status(self) -> ExitStatus:
        """Where warnings do not count."""
        return self.ending(Status.FAIL)

    def ending(self, fail_on: Status) -> ExitStatus:
        """1 if anything is as bad as ``fail_on``; else 3 if a check is at fault; else 0."""
        seen = {result.status for result in self.results if result.muted is None}
        if any(fail_on.badness <= status.badness < Status.CRASH.badness for status in seen):
            return ExitStatus.NO
        return DOCTOR_FAILED if Status.CRASH in seen else ExitStatus.DONE

    def as_json(self) -> dict[str, Any]:
        """``swarmbus.doctor/1``."""
        return {
            "schema": SCHEMA,
            "host": self.host,
            "version": self.version,
            "time": self.time.isoformat(),
            "seconds": round(self.seconds, 3),
            "agents": list(self.agents),
            "summary": self.summary,
            "checks": [result.as_json() for result in self.results],
            "muted": [
                {
                    "code": result.check.code,
                    "subject": result.subject,
                    "until": datetime.fromtimestamp(result.muted, UTC).isoformat(),
                }
                for result in self.results
                if result.muted is not None
            ],
        }
