"""``swarmbus upgrade``: another version in the place of this one, or this one as it was."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from swarmbus.cli import options, output
from swarmbus.errors import ExitStatus, SwarmbusError, UsageError
from swarmbus.inbox_file import one_line

if TYPE_CHECKING:
    from swarmbus.provision.upgrade import UpgradeOutcome
    from swarmbus.provision.upgrade_plan import UpgradePlan
    from swarmbus.provision.upgrade_record import Record


@click.command("upgrade")
@click.option("--to", "version", metavar="VERSION", help="This release of the package index.")
@click.option(
    "--from", "source", metavar="PATH", help="This checkout or wheel. [default: where this one came from]"
)
@click.option("--plan", "plan_only", is_flag=True, help="Print what would be done and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--go-on", is_flag=True, hidden=True)
@options.as_json
def command(
    version: str | None,
    source: str | None,
    plan_only: bool,
    yes: bool,
    go_on: bool,
    as_json: bool,
    verbose: int,
) -> ExitStatus:
    """Bring another version of swarmbus to this host, and its agents with it.

    Looks whether all is well, keeps the version that runs, installs the other the way this one was installed,
    lets it write its files, and restarts the listener daemons one at a time. Each has to answer with the new
    code and let a message of our own through. If anything fails, the old version is put back: exit status 1.
    """
    from swarmbus.provision.installation import Interpreter, detect  # noqa: PLC0415  # --help loads no engine
    from swarmbus.provision.layout import Layout  # noqa: PLC0415
    from swarmbus.provision.local_system import LocalSystem  # noqa: PLC0415
    from swarmbus.provision.upgrade_plan import Wish, look  # noqa: PLC0415
    from swarmbus.provision.upgrade_record import load_record, prepare  # noqa: PLC0415

    output.set_verbosity(verbose)
    system, layout = LocalSystem(), Layout.of_this_user()
    record = load_record(system, layout)
    if go_on:
        if record is None:
            raise UsageError("there is no upgrade to go on with", hint="swarmbus upgrade")
        return _run(record, as_json=as_json)
    if record is not None and record.stage != "kept":
        output.say("an upgrade was interrupted: putting the version before it back")
        _become(record, as_json=as_json)
    if version is not None and source is not None:
        raise UsageError("--to and --from", hint="one of them")
    wish = Wish(version, Path(source).expanduser().absolute() if source else None)
    plan = look(system, layout, detect(system, Interpreter.this()), wish)
    if plan_only:
        if as_json:
            output.write_json(plan.as_json())
        else:
            output.write_lines(_described(plan))
        return ExitStatus.NO if plan.problems else ExitStatus.DONE
    for line in _described(plan):
        output.say(line)
    if plan.is_needless:
        return ExitStatus.DONE
    if plan.problems:
        raise SwarmbusError(plan.problems[0], hint="put that in order first: swarmbus doctor")
    if not yes:
        if not (output.is_terminal(sys.stdin) and output.is_terminal(sys.stderr)):
            raise UsageError("there is no terminal to ask on", hint="look with --plan, and add --yes")
        if not click.confirm("Do this?", default=True, err=True):
            output.say("nothing was changed")
            return ExitStatus.NO
    output.say("keeping the version that runs ...")
    return _become(prepare(system, layout, plan.here, plan.requirement, plan.agents), as_json=as_json)


def _become(record: Record, *, as_json: bool) -> NoReturn:
    """Go on in the kept environment: this one's files are about to be others."""
    words = ["-I", "-m", "swarmbus", "upgrade", "--go-on", *(["--json"] if as_json else [])]
    sys.stdout.flush()
    os.execv(record.kept.python, [str(record.kept.python), *words])  # noqa: S606  # no shell is wanted


def _run(record: Record, *, as_json: bool) -> ExitStatus:
    from swarmbus.cli.init_show import Progress  # noqa: PLC0415  # as above
    from swarmbus.provision.layout import Layout  # noqa: PLC0415
    from swarmbus.provision.local_system import LocalSystem  # noqa: PLC0415
    from swarmbus.provision.upgrade import Upgrade  # noqa: PLC0415

    with Progress(sys.stderr) as progress:
        outcome = Upgrade(LocalSystem(), Layout.of_this_user(), record, observer=progress).run()
    if as_json:
        output.write_json(outcome.as_json())
    _tell(outcome, as_json=as_json)
    return outcome.exit_status


def _described(plan: UpgradePlan) -> list[str]:
    from swarmbus.provision.installation import WAYS  # noqa: PLC0415  # as above

    target = plan.target or "the newest release"
    lines = [f"swarmbus {plan.here.version} -> {target}  ({WAYS[plan.here.kind]}, {plan.here.prefix})"]
    if plan.is_needless:
        return [*lines, "it is installed already"]
    lines.append(f"  from      {plan.requirement}")
    lines += [f"  render    {path}" for path in plan.rendered]
    lines += [f"  restart   listener of {agent}" for agent in plan.agents]
    lines += [f"  problem   {problem}" for problem in plan.problems]
    return [*lines, *(f"note: {one_line(note)}" for note in plan.notes)]


def _tell(outcome: UpgradeOutcome, *, as_json: bool) -> None:
    for note in outcome.notes:
        output.note(note)
    if outcome.error is None:
        if not as_json:
            output.write_lines([f"swarmbus {outcome.old} -> {outcome.new}"])
        return
    if outcome.rolled_back:
        state = f"swarmbus {outcome.old} is in place again, and works"
    else:
        state = f"swarmbus {outcome.old} could not be put back; see swarmbus doctor"
    why = f"{state}; {outcome.error.hint}" if outcome.error.hint else state
    output.complain("swarmbus upgrade", SwarmbusError(outcome.error.message, hint=why))
