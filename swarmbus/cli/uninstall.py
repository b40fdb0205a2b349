"""``swarmbus uninstall``: agents, or everything of ours, off this host; shown first."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from swarmbus.agent_id import check_agent_id
from swarmbus.cli import for_account, installing, options, output
from swarmbus.cli.gates import canary_gate
from swarmbus.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from swarmbus.provision.installation import Installation
    from swarmbus.provision.outcome import Prepared


@click.command("uninstall")
@click.option(
    "--agent-id", "agent_ids", metavar="ID", multiple=True, help="Only this agent; may be repeated."
)
@click.option("--all", "every", is_flag=True, help="All agents, and everything that was set up for them.")
@click.option("--keep-data", is_flag=True, help="Leave the messages of agents where they are. [default]")
@click.option("--purge", is_flag=True, help="Delete the messages of agents too, for good.")
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.as_json
def command(
    agent_ids: tuple[str, ...],
    every: bool,
    keep_data: bool,
    purge: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    verbose: int,
) -> ExitStatus:
    """Take agents, or all of swarmbus, off this host: as it was before.

    Files, units and packages are again as they were before `swarmbus init` or `adopt`; what somebody has
    changed since stays, and is named. With the last agent everything goes. Inbox files stay in any case.

    Exit status 1: failed, and taken back. 2: no such agent. 4: root is needed.
    """
    from swarmbus.provision.bus import LocalBus  # noqa: PLC0415  # --help loads no engine
    from swarmbus.provision.goodbye import Goodbye  # noqa: PLC0415
    from swarmbus.provision.installation import Interpreter, detect  # noqa: PLC0415
    from swarmbus.provision.local_system import LocalSystem  # noqa: PLC0415
    from swarmbus.provision.uninstall import prepare_uninstall  # noqa: PLC0415

    output.set_verbosity(verbose)
    if keep_data and purge:
        raise UsageError("--keep-data and --purge", hint="one of them")
    if every and agent_ids:
        raise UsageError("--all and --agent-id", hint="one of them")
    ids = [check_agent_id(agent_id) for agent_id in agent_ids]
    system = LocalSystem()
    goodbye = partial(Goodbye.to, system, LocalBus())
    account = for_account.asked()
    ours = account is not None and account.created
    prepared = prepare_uninstall(system, ids, everything=every, purge=purge, nobodys=ours, goodbye=goodbye)
    here = detect(system, Interpreter.this())
    if prepared is None:
        status = _nothing(here, as_json=as_json)
        goes = account is not None and account.created and not ids and not dry_run
        return for_account.take_away(account.name, yes=yes) if account and goes else status
    if dry_run:
        if ours and not prepared.spec.agents:
            output.say("note: and then the account, if there is nothing else in its home")
        return installing.show_only(prepared.plan, as_json=as_json)
    outcome = installing.carry_out_plan(
        "swarmbus uninstall",
        prepared,
        yes=yes,
        as_json=as_json,
        gate=canary_gate if prepared.spec.agents else None,
        again="swarmbus uninstall, as before",
        more={"remaining": [agent.id for agent in prepared.spec.agents], "remove_command": here.removal},
    )
    if outcome is None:
        return ExitStatus.NO
    if not outcome.failed and not as_json:
        output.write_lines(_told(prepared, here))
    if account is not None and ours and not outcome.failed and not prepared.spec.agents:
        return for_account.take_away(account.name, yes=yes)
    return outcome.exit_status


def _nothing(here: Installation, *, as_json: bool) -> ExitStatus:
    from swarmbus.provision.plan import Plan  # noqa: PLC0415

    if as_json:
        output.write_json({**Plan(()).as_json(), "remaining": [], "remove_command": here.removal})
        return ExitStatus.DONE
    output.say("nothing of swarmbus is set up on this host for this user")
    output.write_lines(_command_itself(here))
    return ExitStatus.DONE


def _told(prepared: Prepared, here: Installation) -> list[str]:
    gone = [f"{agent.id} is gone from this host" for agent in prepared.request.agents]
    if prepared.spec.agents:
        return [*gone, f"still here: {', '.join(agent.id for agent in prepared.spec.agents)}"]
    return [*gone, *_command_itself(here)]


def _command_itself(here: Installation) -> list[str]:
    return ["to remove the command itself:", f"  {here.removal}"]
