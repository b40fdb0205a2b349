"""How a command that changes this host goes about it: show the plan, ask once, do it, try it, tell."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Final

import click

from swarmbus.cli import output
from swarmbus.config import load_settings
from swarmbus.errors import ExitStatus, SwarmbusError, UsageError

if TYPE_CHECKING:
    from swarmbus.provision.outcome import GateReport, Outcome, Prepared
    from swarmbus.provision.plan import Plan

_CANARY_PATIENCE: Final = 15.0
"""Seconds until the listeners, all of them, that were only just started have to be there."""

_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


def show_only(plan: Plan, *, as_json: bool) -> ExitStatus:
    """``--dry-run``."""
    from swarmbus.cli.init_show import show_plan  # noqa: PLC0415  # --help loads no engine

    if as_json:
        output.write_json(plan.as_json())
    else:
        show_plan(plan, output.write)
    return ExitStatus.CONFLICT if plan.conflicts else ExitStatus.DONE


def may_go_on(question: str, *, yes: bool) -> bool:
    """Whether the operator agrees.

    Raises:
        UsageError: If there is nobody to ask, and ``--yes`` was not given.
    """
    if yes:
        return True
    if not (output.is_terminal(sys.stdin) and output.is_terminal(sys.stderr)):
        raise UsageError(
            "there is no terminal to ask on", hint="look at the plan with --dry-run, and add --yes"
        )
    return click.confirm(question, default=True, err=True)


def carry_out_plan(name: str, prepared: Prepared, *, yes: bool, as_json: bool) -> Outcome | None:
    """Show it, ask, carry it out with a canary as the gate, and say what came of it.

    Args:
        name: What the command is called: ``swarmbus adopt``.

    Returns:
        None if the operator said no.
    """
    from swarmbus.cli.init_show import Progress, show_plan  # noqa: PLC0415
    from swarmbus.provision.init import carry_out  # noqa: PLC0415

    plan = prepared.plan
    if plan.changed and not plan.blocked and not yes:
        show_plan(plan, output.say_part)
        if not may_go_on("Do this?", yes=False):
            output.say("nothing was changed")
            return None
    else:
        show_plan(plan, output.say_part)
    with taken_back_on_signals(), Progress(sys.stderr) as progress:
        outcome = carry_out(prepared, gate=canary_gate, observer=progress)
    if as_json:
        output.write_json(outcome.as_json())
    for note in outcome.notes[len(outcome.plan.notes) :]:
        output.say(f"note: {note}")  # the plan's own were shown with it
    if (error := _error(name, outcome)) is not None:
        output.complain(name, error)
    return outcome


@contextmanager
def taken_back_on_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP interrupt what is done, as Ctrl-C does, and then end this process."""
    ended_by: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        for one in _ENDING:
            signal.signal(one, signal.SIG_IGN)  # what is being taken back is not to be cut off
        ended_by.append(number)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if ended_by:
            os.kill(os.getpid(), ended_by[0])


def canary_gate(prepared: Prepared) -> GateReport:
    """One message for each agent, from it to itself, through broker, listener, mailbox and receipt."""
    from swarmbus.provision.canary import canary  # noqa: PLC0415
    from swarmbus.provision.outcome import GateReport  # noqa: PLC0415

    results = []
    give_up = time.monotonic() + _CANARY_PATIENCE
    for agent in prepared.spec.agents:
        patience = max(0.0, give_up - time.monotonic())
        results.append(canary(load_settings({"agent_id": agent.id}), patience=patience))
        if not results[-1].ok:
            break  # that is enough to take all of it back
    first = next((result for result in results if not result.ok), results[0])
    return GateReport(
        ok=first.ok, summary=first.summary, detail={"canaries": [result.as_dict() for result in results]}
    )


def _error(name: str, outcome: Outcome) -> SwarmbusError | None:
    if outcome.plan.blocked:
        first = outcome.plan.conflicts[0]
        return UsageError(
            f"{first.resource.title}: {first.comparison.reason}",
            hint=f"nothing was changed; {name} --dry-run",
        )
    if not outcome.failed:
        return None
    back = "everything was taken back" if outcome.rolled_back else "what was done before stays"
    if outcome.error is not None:
        hint = f"{back}; {outcome.error.hint}" if outcome.error.hint else back
        return SwarmbusError(outcome.error.message, hint=hint)
    summary = outcome.gate.summary if outcome.gate else "failed"
    return SwarmbusError(summary, hint=f"{back}; swarmbus doctor says more")
