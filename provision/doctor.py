"""The doctor: runs checks over facts, tells a root cause once, and never ends because one of them does.

::

    report = run_doctor(LocalSystem(), settings)
    report.as_json()          # swarmbus.doctor/1
    report.exit_status        # 0 well, or warnings; 1 something is wrong; 3 a check is at fault
"""

from __future__ import annotations

import difflib
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from swarmbus.agent_id import check_agent_id
from swarmbus.config import Settings, load_settings
from swarmbus.errors import ExitStatus, UsageError
from swarmbus.provision.bus import Bus, LocalBus
from swarmbus.provision.checks import CATEGORIES, CHECKS, Check, Finding, Status
from swarmbus.provision.facts import CouldNotLook, Facts, known_agents
from swarmbus.provision.layout import Layout
from swarmbus.provision.system import System
from swarmbus.version import __version__

SCHEMA: Final = "swarmbus.doctor/1"

DOCTOR_FAILED: Final = ExitStatus.CONFLICT
"""3: of other commands a conflict, of the doctor, which has none, that a check of its own is at fault."""

Observer = Callable[["Result"], None]


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the report: a finding of a check, or that it found nothing.

    Attributes:
        subject: What it is about: an agent, a broker, a file; empty for the host.
        because: Code of the check whose failure explains this one, which is then skipped.
        seconds: What the check took; its whole time, with each of its findings.
        detail: Of a crash, the traceback.
    """

    check: Check
    status: Status
    subject: str = ""
    message: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)
    fix: tuple[str, ...] = ()
    because: str | None = None
    seconds: float = 0.0
    detail: str = ""

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
    """

    host: str
    agents: tuple[str, ...]
    results: tuple[Result, ...]
    time: datetime
    seconds: float

    @property
    def summary(self) -> dict[str, int]:
        """How many results of each status."""
        return {str(status): sum(result.status is status for result in self.results) for status in Status}

    @property
    def exit_status(self) -> ExitStatus:
        """1 if anything is wrong; else 3 if a check is at fault; else 0, warnings or not."""
        seen = {result.status for result in self.results}
        if Status.FAIL in seen:
            return ExitStatus.NO
        return DOCTOR_FAILED if Status.CRASH in seen else ExitStatus.DONE

    def as_json(self) -> dict[str, Any]:
        """``swarmbus.doctor/1``."""
        return {
            "schema": SCHEMA,
            "host": self.host,
            "version": __version__,
            "time": self.time.isoformat(),
            "seconds": round(self.seconds, 3),
            "agents": list(self.agents),
            "summary": self.summary,
            "checks": [result.as_json() for result in self.results],
        }


def run_doctor(
    system: System,
    settings: Settings,
    *,
    agent_ids: Sequence[str] | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    layout: Layout | None = None,
    bus: Bus | None = None,
    observer: Observer | None = None,
) -> Report:
    """Look at this host and its agents; changes nothing.

    Args:
        settings: As of this call; what its flags said holds for every agent.
        agent_ids: Which agents; None for all that are set up here or run here, or else the settings' one.
        only: Codes or categories to run; none means all.
        skip: Codes or categories to leave out.
        observer: Told each result as it is found.

    Raises:
        UsageError: If there is no agent to look at, or a code is unknown.
        ConfigError: If a setting of an agent is wrong.
    """
    layout = layout or Layout.of_this_user()
    chosen = choose(CHECKS, only, skip)
    agents = list(agent_ids) if agent_ids else known_agents(system, layout)
    if not agents:
        agents = [settings.require_agent_id()]
    flags = {name: getattr(settings, name) for name, source in settings.sources.items() if source == "flag"}
    facts = Facts(
        system,
        bus or LocalBus(),
        layout=layout,
        settings={agent: load_settings({**flags, "agent_id": check_agent_id(agent)}) for agent in agents},
    )
    return run_checks(chosen, facts, observer=observer)


def choose(checks: Iterable[Check], only: Sequence[str], skip: Sequence[str]) -> list[Check]:
    """Those that are asked for.

    Raises:
        UsageError: If a word is neither a code nor a category.
    """
    checks = list(checks)
    known = [*CATEGORIES, *(check.code for check in checks)]
    for word in (*only, *skip):
        if word not in known:
            close = difflib.get_close_matches(word, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"categories: {', '.join(CATEGORIES)}"
            raise UsageError(f"there is no check {word!r}", hint=hint)
    wanted = [check for check in checks if not only or {check.code, check.category} & set(only)]
    return [check for check in wanted if not {check.code, check.category} & set(skip)]


def run_checks(checks: Iterable[Check], facts: Facts, *, observer: Observer | None = None) -> Report:
    """Run them, each for each of its subjects.

    Args:
        checks: Each after those that it depends on; a dependency that is not among them counts as well.
    """
    began, clock = datetime.now(UTC), time.monotonic()
    run = _Run(facts, observer or (lambda result: None))
    for check in checks:
        for subject in run.subjects(check):
            run.carry_out(check, subject)
    results = sorted(run.results, key=lambda result: CATEGORIES.index(result.check.category))
    return Report(facts.system.hostname, tuple(facts.agents), tuple(results), began, time.monotonic() - clock)


class _Run:
    def __init__(self, facts: Facts, observer: Observer) -> None:
        self.results: list[Result] = []
        self._facts = facts
        self._observer = observer
        self._roots: dict[tuple[str, str], str] = {}
        """For each check and subject that failed, or was skipped because of one that did, that one's code."""

    def subjects(self, check: Check) -> list[str]:
        match check.scope:
            case "agent":
                return self._facts.agents
            case "broker":
                return self._facts.brokers()
            case _:
                return [""]

    def carry_out(self, check: Check, subject: str) -> None:
        root = self._root(check.after, subject)
        if root is not None:
            self._add(Result(check, Status.SKIP, subject, f"because {root} failed", because=root), subject)
            return
        began = time.monotonic()
        results = [self._result(check, subject, finding) for finding in self._findings(check, subject)]
        explained = self._root(check.consequence_of, subject)
        for result in results:
            self._add(_finished(result, explained, time.monotonic() - began), subject)

    def _findings(self, check: Check, subject: str) -> list[Finding]:
        """What it yields within its time; a check that hangs is left behind in its thread."""
        found: list[Finding] = []

        def look() -> None:
            try:
                found.extend(list(check.run(self._facts, subject)) or [Finding(Status.OK, "")])
            except CouldNotLook as error:
                found.append(Finding(Status.SKIP, str(error)))
            except Exception as error:
                message = f"the check itself failed: {type(error).__name__}: {error}"
                found.append(Finding(Status.CRASH, message, {"traceback": traceback.format_exc()}))

        worker = threading.Thread(target=look, name=check.code, daemon=True)
        worker.start()
        worker.join(check.timeout)
        return list(found) or [Finding(Status.SKIP, f"no answer within {check.timeout:g} s")]

    def _result(self, check: Check, subject: str, finding: Finding) -> Result:
        evidence = dict(finding.evidence)
        detail = str(evidence.pop("traceback", ""))
        return Result(
            check,
            finding.status,
            finding.subject or subject,
            finding.message,
            evidence,
            finding.fix,
            detail=detail,
        )

    def _root(self, codes: Iterable[str], subject: str) -> str | None:
        """The failure that stands behind one of these checks, for this subject or what it belongs to."""
        places = [subject, ""]
        if subject in self._facts.settings:
            places.insert(1, self._facts.broker_of(subject))
        roots = (self._roots.get((code, place)) for code in codes for place in places)
        return next((root for root in roots if root is not None), None)

    def _add(self, result: Result, subject: str) -> None:
        if result.because is not None:
            self._roots[result.check.code, subject] = result.because
        elif result.status is Status.FAIL:
            self._roots[result.check.code, subject] = result.check.code
        self.results.append(result)
        self._observer(result)


def _finished(result: Result, explained: str | None, seconds: float) -> Result:
    status, because = result.status, None
    if explained is not None and status in (Status.WARN, Status.FAIL):
        status, because = Status.SKIP, explained
    return Result(
        result.check,
        status,
        result.subject,
        result.message,
        result.evidence,
        result.fix,
        because,
        seconds,
        result.detail,
    )
