"""An agent's wakes: whether one would get through to its command, and what holds them back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from swarmbus.errors import TimedOut, UsageError
from swarmbus.provision.checks.commands import repair_by_restart, restart_listener, resume, swarmbus
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts

_FORGOTTEN: Final = 86_400.0
"""Seconds after which somebody may no longer remember that there is a pause."""


@check(
    "agent.wake-path",
    "a wake gets through to its command",
    after=("agent.listener-running", "mqtt.canary", "agent.control-socket"),
    consequence_of=("agent.invoke-runnable",),
    timeout=50.0,
    on_request=True,
)
def wake_path(facts: Facts, agent: str) -> Iterator[Finding]:
    """A rehearsal by the daemon: the last hop of the canary, where it is asked for."""
    if facts.word(agent, "invoke") is None:
        raise CouldNotLook("it has no wake command")
    try:
        came = facts.rehearsal(agent)
    except UsageError as error:
        raise CouldNotLook(f"its listener cannot rehearse: {error.hint or error.message}") from error
    except TimedOut as error:
        message = f"stopped at the hop 'wake': {error.message}"
        fix, repair = restart_listener(facts, agent), repair_by_restart(facts, agent)
        yield Finding(Status.FAIL, message, {"failed": "wake"}, fix, repair=repair)
        return
    if came["failure"] is not None:
        message = f"stopped at the hop 'wake': {came['failure']}"
        yield Finding(Status.FAIL, message, {"failed": "wake", **_evidence(came)})
        return
    if came["refused"] is not None:
        message = (
            f"systemd takes no unit for it, and it is a child process of the listener: {came['refused']}"
        )
        yield Finding(Status.WARN, message, _evidence(came))
        return
    message = f"its command would be started, after {came['milliseconds']:.0f} ms"
    if came["held"] is not None:
        yield Finding(Status.INFO, f"{message}; but nothing wakes it now: {came['held']}", _evidence(came))
    else:
        yield Finding(Status.OK, message, _evidence(came))


def _evidence(came: Mapping[str, Any]) -> dict[str, object]:
    return {"wake_ms": came["milliseconds"], "ran_in": came["unit"] or "a child process"}


@check("agent.wakes-paused", "its wakes are not paused", after=("agent.listener-running",))
def wakes_paused(facts: Facts, agent: str) -> Iterator[Finding]:
    """By what its listener has read at the broker."""
    pause = _wakes(facts, agent)["pause"]
    if pause is not None:
        forgotten = pause["until"] is None and facts.now() - pause["since"] > _FORGOTTEN
        message = f"nothing wakes it: {pause['words']}"
        if forgotten:
            message += f", since {_moment(pause['since'])}"
        evidence = {"scope": pause["scope"], "since": pause["since"], "until": pause["until"]}
        status = Status.WARN if forgotten else Status.INFO
        yield Finding(status, message, evidence, (resume(facts, agent, pause["scope"]),))


@check("agent.wake-budget", "it may be woken again today", after=("agent.listener-running",))
def wake_budget(facts: Facts, agent: str) -> Iterator[Finding]:
    """The wakes of this day in its ledger against wake_daily."""
    wakes = _wakes(facts, agent)
    today, daily = wakes["today"], wakes["daily"]
    if wakes["wake"] in ("high", "all") and 0 < daily <= today:
        message = (
            f"it was woken {today} times today, wake_daily allows {daily}: nothing wakes it before midnight"
        )
        yield Finding(Status.WARN, message, {"today": today, "wake_daily": daily})


@check(
    "agent.wake-quiet", "no message waits for the end of its quiet hours", after=("agent.listener-running",)
)
def wake_quiet(facts: Facts, agent: str) -> Iterator[Finding]:
    """By the message that its listener holds back."""
    held = _wakes(facts, agent)["held"]
    if held is not None and held["kind"] == "quiet":
        message = f"a message waits since {_moment(held['since'])} for the end of its {held['words']}"
        yield Finding(Status.INFO, message, {"id": held["id"], "since": held["since"]})


@check("agent.wake-loop", "no conversation wakes it in circles", after=("agent.mailbox",))
def wake_loop(facts: Facts, agent: str) -> Iterator[Finding]:
    """What was passed over within an hour for wake_hops or wake_pair_hourly, by its ledger."""
    for loop in facts.mailbox(agent).loops:
        many = "one message" if loop.count == 1 else f"{loop.count} messages"
        message = f"{many} of {loop.sender} woke nobody within the last hour; the latest: {loop.reason}"
        look = swarmbus("trace", "--agent-id", agent, loop.latest)
        evidence = {"sender": loop.sender, "count": loop.count}
        yield Finding(Status.WARN, message, evidence, (look,), loop.sender, count=loop.count)


def _wakes(facts: Facts, agent: str) -> Mapping[str, Any]:
    """What its listener says of them.

    Raises:
        CouldNotLook: If it says nothing.
    """
    status = facts.status(agent)
    if "wakes" not in status:
        raise CouldNotLook("its listener is of an older release, and says nothing of wakes")
    wakes: Mapping[str, Any] | None = status["wakes"]
    if wakes is None:
        raise CouldNotLook("it has no wake command")
    return wakes


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M")
