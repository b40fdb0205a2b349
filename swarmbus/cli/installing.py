"""How a command that changes this host goes about it: show the plan, ask once, do it, try it, tell."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click

from swarmbus.cli import output
from swarmbus.cli.gates import canary_gate, heard
from swarmbus.errors import ExitStatus, NeedsRoot, SwarmbusError, UsageError
from swarmbus.inbox_file import one_line

if TYPE_CHECKING:
    from swarmbus.provision.outcome import Gate, Outcome, Prepared
    from swarmbus.provision.plan import Plan
    from swarmbus.provision.request import Request

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
    from swarmbus.cli import for_account  # noqa: PLC0415  # it stands on this module
    from swarmbus.provision.layout import Layout  # noqa: PLC0415  # --help loads no engine
    from swarmbus.provision.local_system import LocalSystem  # noqa: PLC0415
    from swarmbus.provision.settled import Noting, recall, remember  # noqa: PLC0415

    if (ended := for_account.create(dry_run=dry_run, yes=yes, as_json=as_json)) is not None:
        return ended
    system, layout = LocalSystem(), Layout.of_this_user()
    folder, request = layout.provision, for_account.with_scope(system, layout, request)
    if (document := recall(system, folder, request)) is not None:
        gate = None if dry_run else heard(document)
        if dry_run or gate is not None:
            return _tell_settled(document, gate, as_json=as_json)
    from swarmbus.provision.bus import LocalBus  # noqa: PLC0415  # what is settled loads no engine
    from swarmbus.provision.precautions import check_broker  # noqa: PLC0415
    from swarmbus.provision.prepare import prepare  # noqa: PLC0415

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
    outcome = carry_out_plan(name, prepared, yes=yes, as_json=as_json, gate=canary_gate)
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


def carry_out_plan(
    name: str,
    prepared: Prepared,
    *,
    yes: bool,
    as_json: bool,
    gate: Gate | None,
    again: str = _RESUME,
    more: Mapping[str, Any] | None = None,
) -> Outcome | None:
    """Show it, ask, carry it out, and say what came of it.

    Args:
        name: What the command is called: ``swarmbus adopt``.
        gate: Tries what is there afterwards.
        again: What to call when root has done its part.
        more: For the JSON.

    Returns:
        None if the operator said no.

    Raises:
        RootStepsNeeded: If root is needed and not to be had; what it would run has been printed.
    """
    from swarmbus.cli.init_show import Progress, show_plan  # noqa: PLC0415
    from swarmbus.provision.carry_out import carry_out  # noqa: PLC0415
    from swarmbus.provision.root import RootStepsNeeded  # noqa: PLC0415

    plan = prepared.plan
    show_plan(plan, output.say_part)
    if (plan.changed or prepared.afterwards) and not plan.blocked and not may_go_on("Do this?", yes=yes):
        output.say("nothing was changed")
        return None
    try:
        with taken_back_on_signals(), Progress(sys.stderr) as progress:
            outcome = carry_out(prepared, gate=gate, observer=progress)
    except RootStepsNeeded as error:
        if not as_json:
            output.write(error.script)
        error.hint = f"{error.hint}; then: {again}"
        raise
    if as_json:
        output.write_json({**outcome.as_json(), **(more or {})})
    elif isinstance(outcome.error, RootStepsNeeded):
        output.write(outcome.error.script)
    for note in outcome.notes[len(outcome.plan.notes) :]:
        output.note(note)  # the plan's own were shown with it
    if (error_ := why_failed(name, outcome, again)) is not None:
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


def why_failed(name: str, outcome: Outcome, again: str = _RESUME) -> SwarmbusError | None:
    """What to tell of an outcome that is not what was wanted; None if it is.

    Args:
        again: What to call when root has done its part.
    """
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
            hint = f"{hint}; then: {again}"
        return SwarmbusError(outcome.error.message, hint=hint)
    summary = outcome.gate.summary if outcome.gate else "failed"
    return SwarmbusError(summary, hint=f"{back}; swarmbus doctor says more")
