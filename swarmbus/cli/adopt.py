"""``swarmbus adopt``: what swarmbus-py has set up on this host, taken over."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from swarmbus.agent_id import check_agent_id
from swarmbus.cli import installing, options, output
from swarmbus.cli.gates import canary_gate
from swarmbus.errors import ExitStatus, SwarmbusError

if TYPE_CHECKING:
    from swarmbus.provision.adopt import Adoption
    from swarmbus.provision.outcome import Prepared
    from swarmbus.provision.system import System


@click.command("adopt")
@click.option("--agent-id", "agent_ids", metavar="ID", multiple=True, help="Only this one; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.as_json
def command(agent_ids: tuple[str, ...], dry_run: bool, yes: bool, as_json: bool, verbose: int) -> ExitStatus:
    """Take over the agents that swarmbus-py 0.1 or 0.2 runs on this host, with all they have.

    Agent id, inbox, outbox, wake command, broker, credentials and what waits for them stay. Shows what it
    would do, asks once, does it, and sends a message through each agent; if that fails, all is taken back and
    the old listeners run again.

    Exit status 1: failed. 2: something is not understood. 3: something is in the way. 4: root is needed.
    """
    from swarmbus.provision.adopt import prepare_adoption  # noqa: PLC0415  # --help loads no engine
    from swarmbus.provision.local_system import LocalSystem  # noqa: PLC0415

    output.set_verbosity(verbose)
    ids = [check_agent_id(agent_id) for agent_id in agent_ids]
    system = LocalSystem()
    if not dry_run and not _took_back_what_was_begun(system, yes=yes):
        return ExitStatus.NO
    adoption = prepare_adoption(system, ids)
    if adoption.prepared is None:
        return _nothing(adoption, as_json=as_json)
    if dry_run:
        return installing.show_only(adoption.prepared.plan, as_json=as_json)
    outcome = installing.carry_out_plan(
        "swarmbus adopt", adoption.prepared, yes=yes, as_json=as_json, gate=canary_gate
    )
    if outcome is None:
        return ExitStatus.NO
    if not outcome.failed and not outcome.plan.blocked and not as_json:
        output.write_lines(_told(adoption.prepared))
    return outcome.exit_status


def _took_back_what_was_begun(system: System, *, yes: bool) -> bool:
    """Undo a run that was killed in the middle; False if the operator does not want that."""
    from swarmbus.cli.init_show import Progress  # noqa: PLC0415
    from swarmbus.provision.adopt import was_interrupted  # noqa: PLC0415
    from swarmbus.provision.layout import Layout  # noqa: PLC0415
    from swarmbus.provision.rollback import roll_back  # noqa: PLC0415

    if not was_interrupted(system, Layout.of_this_user()):
        return True
    output.say("an earlier run was killed in the middle, and must be taken back first")
    if not installing.may_go_on("Take it back?", yes=yes):
        return False
    with Progress(sys.stderr) as progress:
        outcome = roll_back(system, observer=progress)
    if outcome is not None and outcome.failed:
        raise outcome.error or SwarmbusError("not everything could be taken back")
    return True


def _nothing(adoption: Adoption, *, as_json: bool) -> ExitStatus:
    from swarmbus.provision.plan import Plan  # noqa: PLC0415

    if as_json:
        output.write_json(Plan((), notes=adoption.notes).as_json())
        return ExitStatus.DONE
    output.say("there is nothing to adopt: no unit of this user runs swarmbus-py")
    for note in adoption.notes:
        output.note(note)
    return ExitStatus.DONE


def _told(prepared: Prepared) -> list[str]:
    """What is where now, an agent a line."""
    asked = {agent.id for agent in prepared.request.agents}
    lines = [
        f"adopted {agent.id}: its inbox is {agent.inbox}, as before"
        for agent in prepared.spec.agents
        if agent.id in asked
    ]
    return [*lines, "try next:", "  swarmbus doctor"]
