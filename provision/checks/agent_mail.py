"""What an agent's mailbox holds that nobody would otherwise notice."""

from __future__ import annotations

from collections.abc import Iterator

from swarmbus.provision.checks.commands import swarmbus
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import Facts

STUCK_AFTER = 900.0
"""Seconds; a receiver that is away for less is an ordinary thing."""


@check("agent.quarantine", "all that came in could be read", after=("agent.mailbox",))
def quarantine(facts: Facts, agent: str) -> Iterator[Finding]:
    """By the mailbox."""
    piles = [pile for pile in facts.mailbox(agent).quarantine if pile.kind != "dead-letter"]
    if piles:
        count = sum(pile.count for pile in piles)
        message = f"{_messages(count)} could not be read; the latest: {piles[0].kind}, {piles[0].reason}"
        yield Finding(
            Status.WARN,
            message,
            {pile.kind: pile.count for pile in piles},
            _look_or_drop(agent),
            count=count,
        )


@check(
    "agent.dead-letters",
    "all that came in was handled",
    after=("agent.mailbox",),
    consequence_of=("agent.invoke-runnable", "agent.inbox-writable"),
)
def dead_letters(facts: Facts, agent: str) -> Iterator[Finding]:
    """By the mailbox."""
    for pile in facts.mailbox(agent).quarantine:
        if pile.kind == "dead-letter":
            message = f"{pile.handler} gave up on {_messages(pile.count)}; the latest {pile.reason}"
            yield Finding(
                Status.WARN,
                message,
                {"handler": pile.handler, "count": pile.count},
                _look_or_drop(agent),
                count=pile.count,
            )


@check(
    "agent.outbound-stuck",
    "all that it sent was delivered",
    after=("agent.mailbox",),
    consequence_of=("broker.running", "mqtt.connect", "agent.listener-running", "agent.listener-connected"),
)
def outbound_stuck(facts: Facts, agent: str) -> Iterator[Finding]:
    """By the mailbox."""
    for stuck in facts.mailbox(agent).undelivered:
        age = facts.now() - stuck.oldest
        if stuck.state == "waiting" and age < STUCK_AFTER:
            continue
        reason = f": {stuck.reason}" if stuck.reason else ""
        if stuck.state == "waiting":
            message = f"{_messages(stuck.count)} to {stuck.to} not delivered for {age / 60:.0f} min{reason}"
        else:
            message = f"{_messages(stuck.count)} to {stuck.to} given up ({stuck.state}){reason}"
        yield Finding(
            Status.WARN,
            message,
            {"to": stuck.to, "state": stuck.state, "count": stuck.count, "oldest_s": round(age)},
            (
                swarmbus("outbox", "--agent-id", agent, "--retry", "all"),
                swarmbus("outbox", "--agent-id", agent, "--drop", "all"),
            ),
            count=stuck.count,
        )


@check(
    "agent.wake-failing",
    "its handlers succeed",
    after=("agent.listener-running",),
    consequence_of=("agent.invoke-runnable", "agent.inbox-writable"),
)
def wake_failing(facts: Facts, agent: str) -> Iterator[Finding]:
    """By what the listener daemon says of each handler."""
    for handler in facts.status(agent).get("handlers", ()):
        if handler["attempts"] > 0:
            times, error = handler["attempts"], handler["last_error"]
            message = f"{handler['name']} has failed {times} times on one message: {error}"
            yield Finding(Status.WARN, message, handler)


def _look_or_drop(agent: str) -> tuple[str, ...]:
    look = swarmbus("quarantine", "--agent-id", agent)
    return (look, swarmbus("quarantine", "--agent-id", agent, "--drop", "all"))


def _messages(count: int) -> str:
    return "one message" if count == 1 else f"{count} messages"
