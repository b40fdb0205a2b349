"""``swarmbus doctor --fix``: what the engine behind init can put in order, and then another look."""

from __future__ import annotations

import sys
from typing import Any

from swarmbus.cli import installing, output
from swarmbus.cli.doctor_look import Asked, examine, show
from swarmbus.cli.doctor_text import headline
from swarmbus.cli.gates import still_working
from swarmbus.cli.init_show import Progress, show_plan
from swarmbus.cli.restart import tell
from swarmbus.errors import ExitStatus, UsageError
from swarmbus.inbox_file import one_line
from swarmbus.provision.bus import LocalBus
from swarmbus.provision.carry_out import carry_out
from swarmbus.provision.layout import Layout
from swarmbus.provision.local_system import LocalSystem
from swarmbus.provision.mending import Repairs, Tried, must_work, repairs_for, restart_each
from swarmbus.provision.outcome import Outcome, Prepared
from swarmbus.provision.prepare import prepare
from swarmbus.provision.report import Report
from swarmbus.provision.restart import Restarted, Restarting, code_of_this_process
from swarmbus.provision.spec import load_kept


def fix(asked: Asked, *, dry_run: bool, yes: bool) -> ExitStatus:
    """Look, say what would be done, ask once, do it, look again.

    Raises:
        UsageError: If there is nobody to ask, or the report was asked for in a format that is for programs.
        Conflict, RootStepsNeeded: As `swarmbus init` does.
    """
    if asked.format not in ("text", "short", "json"):
        raise UsageError(f"--fix and --format {asked.format}", hint="text, short or json")
    system, layout, bus = LocalSystem(), Layout.of_this_user(), LocalBus()
    report = examine(asked)
    tried = Tried(system, layout, bus)
    repairs = repairs_for(report, load_kept(system, layout.provision), tried.in_vain())
    prepared = prepare(system, {}, layout=layout, only=repairs.words) if repairs.words else None
    _say(prepared)
    if prepared is not None and not prepared.plan.changed and not prepared.resumed:
        repairs, prepared = repairs.without_engine(report), None
    _say_rest(repairs)
    if dry_run or repairs.nothing:
        return _finish(report, asked, repairs, prepared)
    if not installing.may_go_on("Do this?", yes=yes):
        output.say("nothing was changed")
        return ExitStatus.NO
    outcome = _carry_out(prepared, report) if prepared is not None else None
    restarting = Restarting(system, layout, bus, code_of_this_process())
    restarted = restart_each(restarting, repairs.restarts)
    if asked.format != "json":
        for one in restarted:
            tell(one)
    after = examine(asked)
    tried.keep(after, repairs.restarts)
    status = _finish(after, asked, repairs, prepared, outcome, restarted)
    return outcome.exit_status if outcome is not None and outcome.failed else status


def _say(prepared: Prepared | None) -> None:
    """What the engine would do, on standard error: standard output is the report's."""
    if prepared is not None:
        show_plan(prepared.plan, output.say_part)


def _say_rest(repairs: Repairs) -> None:
    """What else would be done, and what is left."""
    for agent in repairs.restarts:
        output.say(f"  {output.paint('>', output.YELLOW, stream=sys.stderr)} restart the listener of {agent}")
    if repairs.nothing:
        output.say("there is nothing here that the engine could put in order")
    for result in repairs.by_hand:
        command = f": {one_line(result.fix[0])}" if result.fix else ""
        output.say(f"by hand: {result.check.code} {headline(result)}{command}")


def _carry_out(prepared: Prepared, report: Report) -> Outcome:
    with installing.taken_back_on_signals(), Progress(sys.stderr) as progress:
        outcome = carry_out(prepared, gate=still_working(must_work(report)), observer=progress)
    for note in outcome.notes[len(outcome.plan.notes) :]:
        output.note(note)
    if (error := installing.why_failed("swarmbus doctor --fix", outcome)) is not None:
        output.complain("swarmbus doctor", error)
    return outcome


def _finish(
    report: Report,
    asked: Asked,
    repairs: Repairs,
    prepared: Prepared | None,
    outcome: Outcome | None = None,
    restarted: list[Restarted] | None = None,
) -> ExitStatus:
    if asked.format != "json":
        return show(report, asked)
    done = outcome.as_json() if outcome is not None else prepared and prepared.plan.as_json()
    by_hand: list[dict[str, Any]] = [
        {"code": one.check.code, "subject": one.subject, "commands": list(one.fix)} for one in repairs.by_hand
    ]
    told = {
        "plan": done,
        "restarts": list(repairs.restarts),
        "restarted": [one.as_json() for one in restarted or ()],
        "by_hand": by_hand,
    }
    output.write_json({**report.as_json(), "fix": told})
    return report.ending(asked.fail_on)
