"""Whether somebody looks at the health of this host all the time."""

from __future__ import annotations

from collections.abc import Iterator

from swarmbus.provision.checks.commands import init
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts
from swarmbus.provision.health_state import INTERVAL, SERVICE, TIMER

_MISSED = 3
"""Looks that may be missed: one is, when the host was asleep, or busy."""


@check("own.health-overdue", "health is looked at all the time", scope="host")
def health_overdue(facts: Facts, _: str) -> Iterator[Finding]:
    """By what the last look has left, and the timer."""
    seen, timer = facts.health(), _timer(facts)
    evidence: dict[str, object] = {"timer": timer}
    repair: tuple[str, ...] = (f"unit:user:{TIMER}", f"user:restart:{SERVICE}") if timer != "none" else ()
    if seen is None and timer == "active":
        yield Finding(Status.INFO, "not looked at yet: the timer has only just been set up", evidence)
    elif seen is None and timer == "none":
        yield Finding(Status.INFO, "nothing here looks at health by itself", evidence, (_set_up(facts),))
    elif seen is None:
        message = f"health was never looked at: {TIMER} is {timer}"
        yield Finding(Status.WARN, message, evidence, (_start(),), repair=repair)
    else:
        age = max(0.0, facts.now() - seen.time)
        evidence |= {"age_s": round(age), "every_s": round(seen.interval), "version": seen.version}
        # A host that was off could not look.
        if min(age, facts.uptime()) > _MISSED * seen.interval:
            message = f"last looked at {_span(age)} ago, and should be every {_span(seen.interval)}"
            fix = _set_up(facts) if timer == "none" else _start()
            yield Finding(Status.WARN, message, evidence, (fix,), repair=repair)
        else:
            yield Finding(Status.OK, f"last looked at {_span(age)} ago", evidence)


def _timer(facts: Facts) -> str:
    try:
        unit = facts.units().get(TIMER)  # where all agents are the system's, the user's systemd is not asked
    except CouldNotLook:
        return "none"
    return "none" if unit is None or unit["LoadState"] == "not-found" else unit["ActiveState"]


def _start() -> str:
    return f"systemctl --user enable --now {TIMER} && systemctl --user start {SERVICE}"


def _set_up(facts: Facts) -> str:
    if facts.has_systemd():
        return init(facts.agents[0])
    line = f"*/{INTERVAL / 60:.0f} * * * * $(command -v swarmbus) doctor --all --health"
    return f'(crontab -l 2>/dev/null; echo "{line}") | crontab -'


def _span(seconds: float) -> str:
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"
