"""The doctor: runs checks over facts, tells a root cause once, and never ends because one of them does.

::

    report = run_doctor(LocalSystem(), settings)
    report.as_json()          # swarmbus.doctor/1
    report.exit_status        # 0 well, or warnings; 1 something is wrong; 3 a check is at fault
"""

from __future__ import annotations

import difflib
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from swarmbus.agent_id import check_agent_id
from swarmbus.config import Settings, load_settings
from swarmbus.errors import UsageError
from swarmbus.provision.bus import Bus, LocalBus
from swarmbus.provision.checks import CATEGORIES, CHECKS, Check, Finding, Status
from swarmbus.provision.facts import CouldNotLook, Facts
from swarmbus.provision.known_agents import known_agents
from swarmbus.provision.layout import Layout
from swarmbus.provision.mutes import Mute, load_mutes
from swarmbus.provision.report import Report, Result
from swarmbus.provision.sources.memo import Looker
from swarmbus.provision.system import System

__all__ = ["Observer", "Report", "Result", "choose", "gather_facts", "run_checks", "run_doctor"]

Observer = Callable[[Result], None]


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
    chosen = choose(CHECKS, only, skip)
    facts = gather_facts(system, settings, agent_ids=agent_ids, layout=layout, bus=bus)
    return run_checks(chosen, facts, observer=observer)


def gather_facts(
    system: System,
    settings: Settings,
    *,
    agent_ids: Sequence[str] | None = None,
    layout: Layout | None = None,
    bus: Bus | None = None,
) -> Facts:
    """The facts that checks will ask for; only which agents there are is looked for now.

    Raises:
        UsageError: If there is no agent to look at.
        ConfigError: If a setting of an agent is wrong.
    """
    layout = layout or Layout.of_this_user()
    agents = list(agent_ids) if agent_ids else known_agents(system, layout)
    if not agents:
        agents = [settings.require_agent_id()]
    flags = {name: getattr(settings, name) for name, source in settings.sources.items() if source == "flag"}
    now = time.time()
    return Facts(
        system,
        bus or LocalBus(),
        layout=layout,
        settings={agent: load_settings({**flags, "agent_id": check_agent_id(agent)}) for agent in agents},
        clock=lambda: now,  # one moment for all checks: ages that are compared have to fit together
    )


def choose(
    checks: Iterable[Check],
    only: Sequence[str],
    skip: Sequence[str],
    categories: Sequence[str] = (),
    *,
    wake: bool = False,
) -> list[Check]:
    """Those that are asked for.

    Args:
        categories: Where any are given, nothing outside of them is run, whatever ``only`` says.
        wake: Also those that are run on request; without it they have to be named in ``only``.

    Raises:
        UsageError: If a word is neither a code nor a category.
    """
    checks = list(checks)
    known = [*CATEGORIES, *(check.code for check in checks)]
    for word in (*only, *skip, *categories):
        if word not in (CATEGORIES if word in categories else known):
            close = difflib.get_close_matches(word, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"categories: {', '.join(CATEGORIES)}"
            raise UsageError(f"there is no check {word!r}", hint=hint)
    return [
        check
        for check in checks
        if (not only or {check.code, check.category} & set(only))
        and (not categories or check.category in categories)
        and not {check.code, check.category} & set(skip)
        and (wake or not check.on_request or check.code in only)
    ]


def run_checks(checks: Iterable[Check], facts: Facts, *, observer: Observer | None = None) -> Report:
    """Run them, each for each of its subjects.

    Args:
        checks: Each after those that it depends on; a dependency that is not among them counts as well.
    """
    began = time.monotonic()
    run = _Run(facts, observer or (lambda result: None), load_mutes(facts.system, facts.layout))
    for check in checks:
        run.carry_out(check)
    results = sorted(run.results, key=lambda result: CATEGORIES.index(result.check.category))
    return Report(
        host=facts.system.hostname,
        agents=tuple(facts.agents),
        results=tuple(results),
        time=datetime.fromtimestamp(facts.now(), UTC),
        seconds=time.monotonic() - began,
        version=facts.version,
    )


class _Run:
    def __init__(self, facts: Facts, observer: Observer, mutes: Sequence[Mute]) -> None:
        self.results: list[Result] = []
        self._facts = facts
        self._observer = observer
        self._mutes = mutes
        self._roots: dict[tuple[str, str], str] = {}
        """For each check and subject that failed, or was skipped because of one that did, that one's code."""

    def _subjects(self, check: Check) -> list[str]:
        match check.scope:
            case "agent":
                return self._facts.agents
            case "broker":
                return self._facts.brokers()
            case _:
                return [""]

    def carry_out(self, check: Check) -> None:
        """For all of its subjects at once: what one of them waits for, the others need not wait for."""
        looks: dict[str, _Look | str] = {}
        for subject in self._subjects(check):
            root = self._root(check.after, subject)
            looks[subject] = _Look(check, self._facts, subject) if root is None else root
        for subject, look in looks.items():
            if isinstance(look, str):
                result = Result(check, Status.SKIP, subject, f"because {look} failed", because=look)
                self._add(result, subject)
                continue
            explained = self._root(check.consequence_of, subject)
            for finding in look.findings():
                self._add(_explained(_result(check, subject, finding, look.seconds), explained), subject)

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
        until = (mute.until for mute in self._mutes if mute.covers(result, self._facts.now()))
        result = replace(result, muted=max(until, default=None))
        self.results.append(result)
        self._observer(result)


class _Look:
    """One check on its way for one subject, in a thread of its own."""

    def __init__(self, check: Check, facts: Facts, subject: str) -> None:
        self.seconds = 0.0
        self._check, self._facts, self._subject = check, facts, subject
        self._found: list[Finding] = []
        self._began = time.monotonic()
        self._thread = Looker(target=self._look, name=check.code, daemon=True)
        self._thread.start()

    def findings(self) -> list[Finding]:
        """What it yields within its time; one that hangs is left behind in its thread."""
        self._thread.join(max(0.0, self._began + self._check.timeout - time.monotonic()))
        if self._thread.is_alive():
            self._thread.left_behind = True
            self.seconds = time.monotonic() - self._began
        nothing = Finding(Status.SKIP, f"no answer within {self._check.timeout:g} s")
        return list(self._found) or [nothing]

    def _look(self) -> None:
        try:
            findings = self._check.run(self._facts, self._subject)
            self._found.extend(list(findings) or [Finding(Status.OK, "")])
        except CouldNotLook as error:
            self._found.append(Finding(Status.SKIP, str(error)))
        except Exception as error:
            message = f"the check itself failed: {type(error).__name__}: {error}"
            self._found.append(Finding(Status.CRASH, message, {"traceback": traceback.format_exc()}))
        self.seconds = time.monotonic() - self._began


def _result(check: Check, subject: str, finding: Finding, seconds: float) -> Result:
    evidence = dict(finding.evidence)
    detail = str(evidence.pop("traceback", ""))
    return Result(
        check,
        finding.status,
        finding.subject or subject,
        finding.message,
        evidence,
        finding.fix,
        repair=finding.repair,
        count=finding.count,
        seconds=seconds,
        detail=detail,
    )


def _explained(result: Result, root: str | None) -> Result:
    if root is not None and result.status in (Status.WARN, Status.FAIL):
        return replace(result, status=Status.SKIP, because=root)
    return result
