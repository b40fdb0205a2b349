"""How a command that changes this host goes about it: show the plan, ask once, do it, try it, tell."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click

from swarmbus.cli import output
from swarmbus.config import load_settings
from swarmbus.errors import ExitStatus, NeedsRoot, SwarmbusError, UsageError
from swarmbus.inbox_file import one_line

if TYPE_CHECKING:
    from swarmbus.provision.outcome import GateReport, Outcome, Prepared
    from swarmbus.provision.plan import Plan
    from swarmbus.provision.request import Request

_CANARY_PATIENCE: Final = 15.0
"""Seconds until the listeners, all of them, that were only just started have to be there."""

_HEARD_LATELY: Final = 60.0
"""Seconds; a listener sends itself a marker every 20."""

_RESUME: Final = "swarmbus init --resume"

_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


def install(
    name: str, request: Request, *, dry_run: bool, yes: bool, as_json: bool
) -> tuple[Prepared, Outcome] | ExitStatus:
    """Plan what is asked for, show it, and carry it out if the operator agrees.

    Args:
        name: What the command is called: ``swarmbus init``.

    Returns:
        What came of it; the exit status where nothing was to be done, or was not agreed to.
    """
    from swarmbus.provision.layout import Layout  # noqa: PLC0415  # --help loads no engine
    from swarmbus.provision.local_system import LocalSystem  # noqa: PLC0415
    from swarmbus.provision.settled import Noting, recall, remember  # noqa: PLC0415

    system, folder = LocalSystem(), Layout.of_this_user().provision
    if (document := recall(system, folder, request)) is not None:
        gate = None if dry_run else heard_gate(document)
        if dry_run or gate is not None:
            return _tell_settled(document, gate, as_json=as_json)
    from swarmbus.provision.bus import LocalBus  # noqa: PLC0415  # what is settled loads no engine
    from swarmbus.provision.init import prepare  # noqa: PLC0415
    from swarmbus.provision.precautions import check_broker  # noqa: PLC0415

    noting = Noting(system)
    prepared = prepare(noting.as_system, request)
    plan, noted = prepared.plan, noting.noted
    if plan.changed and not plan.blocked and not yes and not dry_run:
        refuse_to_ask_nobody()
    try:
        check_broker(prepared, LocalBus())
    except SwarmbusError as error:
        if not dry_run:
            raise
        plan = replace(plan, notes=(*plan.notes, f"{error.message}: init would stop here"))
    if dry_run:
        return show_only(plan, as_json=as_json)
    outcome = carry_out_plan(name, prepared, yes=yes, as_json=as_json)
    if outcome is None:
        return ExitStatus.NO
    if not outcome.failed and outcome.changed:
        noting = Noting(system)
        plan, noted = prepare(noting.as_system, request).plan, noting.noted
    if not outcome.failed and noted is not None and not (plan.changed or plan.conflicts or plan.unfinished):
        remember(system, folder, request, noted, _settled_document(prepared, plan))
    return prepared, outcome


def _settled_document(prepared: Prepared, plan: Plan) -> dict[str, Any]:
    from swarmbus.fingerprint import installed_fingerprint  # noqa: PLC0415

    agents = [agent.id for agent in prepared.spec.agents]
    return {**plan.as_json(), "agents": agents, "code": installed_fingerprint()}


def heard_gate(document: dict[str, Any]) -> dict[str, Any] | None:
    """Whether each listener has lately heard itself through the broker, with the code that is installed.

    Returns:
        The gate for ``--json``; None where one has not, and the canary has to say why.
    """
    from swarmbus import control  # noqa: PLC0415  # --help has no use for it

    heard = {}
    for agent in document["agents"]:
        try:
            status = control.request(agent, {"op": "status"}, timeout=2.0)
        except (control.NoListener, SwarmbusError):
            return None
        ago = time.time() - (status.get("heard") or 0.0)
        if (
            status.get("fingerprint") != document["code"]
            or not status.get("connected")
            or ago > _HEARD_LATELY
        ):
            return None
        heard[agent] = round(ago, 1)
    told = ", ".join(f"{agent} {ago:.0f} s ago" for agent, ago in heard.items())
    return {"ok": True, "summary": f"heard themselves through the broker: {told}", "heard": heard}


def _tell_settled(document: dict[str, Any], gate: dict[str, Any] | None, *, as_json: bool) -> ExitStatus:
    """Nothing has changed since a run that had nothing to change."""
    del document["agents"], document["code"]
    if gate is not None:
        document |= {"rolled_back": False, "gate": gate}
    if as_json:
        output.write_json(document)
        return ExitStatus.DONE
    lines = ["everything is as it should be", *(f"note: {one_line(note)}" for note in document["notes"])]
    if gate is not None:
        lines.append(gate["summary"])
    output.write_lines(lines)
    return ExitStatus.DONE


def show_only(plan: Plan, *, as_json: bool) -> ExitStatus:
    """``--dry-run``: the plan, and to the letter what root would run."""
    from swarmbus.cli.init_show import show_plan  # noqa: PLC0415  # --help loads no engine

    if as_json:
        output.write_json(plan.as_json())
        return ExitStatus.DONE
    show_plan(plan, output.write)
    if plan.root_script is not None:
        script = "".join(f"      {one_line(line)}\n" for line in plan.root_script.splitlines())
        output.write(f"the steps marked (root) are one script:\n{script}")
    return ExitStatus.DONE


def refuse_to_ask_nobody() -> None:
    """See that there is somebody to ask.

    Raises:
        UsageError: If not.
    """
    if not (output.is_terminal(sys.stdin) and output.is_terminal(sys.stderr)):
        raise UsageError(
            "there is no terminal to ask on", hint="look at the plan with --dry-run, and add --yes"
        )


def may_go_on(question: str, *, yes: bool) -> bool:
    """Whether the operator agrees.

    Raises:
        UsageError: If there is nobody to ask, and ``--yes`` was not given.
    """
    if yes:
        return True
    refuse_to_ask_nobody()
    return click.confirm(question, default=True, err=True)


def carry_out_plan(name: str, prepared: Prepared, *, yes: bool, as_json: bool) -> Outcome | None:
    """Show it, ask, carry it out with a canary as the gate, and say what came of it.

    Args:
        name: What the command is called: ``swarmbus adopt``.

    Returns:
        None if the operator said no.

    Raises:
        RootStepsNeeded: If root is needed and not to be had; what it would run has been printed.
    """
    from swarmbus.cli.init_show import Progress, show_plan  # noqa: PLC0415
    from swarmbus.provision.init import carry_out  # noqa: PLC0415
    from swarmbus.provision.root import RootStepsNeeded  # noqa: PLC0415

    plan = prepared.plan
    show_plan(plan, output.say_part)
    if plan.changed and not plan.blocked and not may_go_on("Do this?", yes=yes):
        output.say("nothing was changed")
        return None
    try:
        with taken_back_on_signals(), Progress(sys.stderr) as progress:
            outcome = carry_out(prepared, gate=canary_gate, observer=progress)
    except RootStepsNeeded as error:
        if not as_json:
            output.write(error.script)
        error.hint = f"{error.hint}; then: {_RESUME}"
        raise
    if as_json:
        output.write_json(outcome.as_json())
    elif isinstance(outcome.error, RootStepsNeeded):
        output.write(outcome.error.script)
    for note in outcome.notes[len(outcome.plan.notes) :]:
        output.say(f"note: {note}")  # the plan's own were shown with it
    if (error_ := _error(name, outcome)) is not None:
        output.complain(name, error_)
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
        if isinstance(outcome.error, NeedsRoot):
            hint = f"{hint}; then: {_RESUME}"
        return SwarmbusError(outcome.error.message, hint=hint)
    summary = outcome.gate.summary if outcome.gate else "failed"
    return SwarmbusError(summary, hint=f"{back}; swarmbus doctor says more")
