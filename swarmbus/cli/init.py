"""``swarmbus init``: an agent set up on this host; shown first, tried afterwards."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click

from swarmbus.cli import installing, options, output
from swarmbus.config import Settings
from swarmbus.errors import ExitStatus, SwarmbusError, UsageError

if TYPE_CHECKING:
    from swarmbus.provision.init import Outcome, Prepared

_CREDENTIALS: Final = ("username", "password", "ca_cert", "client_cert", "client_key", "tls")


@click.command("init")
@options.with_settings
@options.agent_id
@click.option(
    "--host-type",
    type=click.Choice(["cc", "openclaw", "none"]),
    help="The agent host to connect. [default: none]",
)
@options.inbox
@click.option("--outbox", metavar="FILE", help="Append what the agent sends to this file.")
@click.option(
    "--invoke", metavar="COMMAND", help="Run for each message, with the body on its standard input."
)
@click.option("--skip-broker", is_flag=True, default=None, help="Install and configure no broker.")
@click.option("--skip-plugin", is_flag=True, help="Connect no agent host, as --host-type none.")
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
@click.option("--rollback", is_flag=True, help="Only take back what an interrupted run has done.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.connection
@options.as_json
def command(
    settings: Settings,
    host_type: str | None,
    skip_broker: bool | None,
    skip_plugin: bool,
    dry_run: bool,
    rollback: bool,
    yes: bool,
    as_json: bool,
) -> ExitStatus:
    """Set up an agent on this host: broker, listener daemon, all that keeps them running.

    Without --agent-id: the agents that are set up here already, or else one named after the host. Shows what
    it would do, asks once, does it, and sends a message through all of it; if that fails, all is taken back.
    A second run changes nothing.

    Exit status 1: failed. 3: somebody else's change is in the way. 4: root is needed.
    """
    from swarmbus.cli.init_show import Progress, show_plan  # noqa: PLC0415  # --help loads no engine
    from swarmbus.provision.bus import LocalBus  # noqa: PLC0415
    from swarmbus.provision.init import carry_out, prepare  # noqa: PLC0415
    from swarmbus.provision.local_system import LocalSystem  # noqa: PLC0415
    from swarmbus.provision.precautions import check_broker  # noqa: PLC0415

    if rollback:
        return _take_back(dry_run=dry_run, yes=yes, as_json=as_json)
    _refuse_what_is_not_here(settings, None if skip_plugin else host_type)
    prepared = prepare(LocalSystem(), _flags(settings, skip_broker))
    plan = prepared.plan
    must_ask = plan.changed and not plan.blocked and not yes and not dry_run
    if must_ask and not (output.is_terminal(sys.stdin) and output.is_terminal(sys.stderr)):
        raise UsageError(
            "there is no terminal to ask on", hint="look at the plan with --dry-run, and add --yes"
        )
    try:
        check_broker(prepared, LocalBus())
    except SwarmbusError as error:
        if not dry_run:
            raise
        plan = replace(plan, notes=(*plan.notes, f"{error.message}: init would stop here"))
    if dry_run:
        return installing.show_only(plan, as_json=as_json)
    show_plan(plan, output.say_part)
    if must_ask and not click.confirm("Do this?", default=True, err=True):
        output.say("nothing was changed")
        return ExitStatus.NO
    with installing.taken_back_on_signals(), Progress(sys.stderr) as progress:
        outcome = carry_out(prepared, gate=installing.canary_gate, observer=progress)
    if as_json:
        output.write_json(outcome.as_json())
    _tell(prepared, outcome, as_json=as_json)
    return outcome.exit_status


def _take_back(*, dry_run: bool, yes: bool, as_json: bool) -> ExitStatus:
    """``--rollback``."""
    from swarmbus.cli.init_show import Progress  # noqa: PLC0415  # as above
    from swarmbus.provision.init import roll_back  # noqa: PLC0415
    from swarmbus.provision.journal import Journal  # noqa: PLC0415
    from swarmbus.provision.layout import Layout  # noqa: PLC0415
    from swarmbus.provision.local_system import LocalSystem  # noqa: PLC0415
    from swarmbus.provision.plan import Plan  # noqa: PLC0415

    system = LocalSystem()
    interrupted = Journal(system, Layout.of_this_user().provision).interrupted()
    if interrupted is None:
        output.say("no run was interrupted: there is nothing to take back")
        if as_json:
            output.write_json(Plan(()).as_json())
        return ExitStatus.DONE
    for entry in reversed(interrupted.changes):
        output.say(f"  to be taken back: {entry.resource().title}")
    if dry_run:
        return ExitStatus.DONE
    if not installing.may_go_on("Take it back?", yes=yes):
        return ExitStatus.NO
    with Progress(sys.stderr) as progress:
        outcome = roll_back(system, observer=progress)
    if outcome is None:
        return ExitStatus.DONE  # another run has done it meanwhile
    if as_json:
        output.write_json(outcome.as_json())
    for note in outcome.notes:
        output.say(f"note: {note}")
    if outcome.error is not None:
        output.complain("swarmbus init", outcome.error)
    return outcome.exit_status


def _refuse_what_is_not_here(settings: Settings, host_type: str | None) -> None:
    """Say no to what this release would have to leave out, before anything is changed."""
    if host_type in ("cc", "openclaw"):
        raise UsageError(
            f"--host-type {host_type}: this release sets up the bus only, and connects no agent host",
            hint="use --host-type none; the agent can call swarmbus send, read and watch",
        )
    if settings.broker == "tailscale" and settings.sources.get("broker") == "flag":
        raise UsageError(
            "--broker tailscale: this release does not look for the broker by Tailscale",
            hint="give its MagicDNS name or address: --broker HOST.TAILNET.ts.net",
        )
    if given := [name for name in _CREDENTIALS if settings.sources.get(name) == "flag"]:
        raise UsageError(
            f"--{given[0].replace('_', '-')}: init writes no credentials",
            hint="put them into config.toml first: username, password_file, ca_cert, client_cert, client_key",
        )


def _flags(settings: Settings, skip_broker: bool | None) -> dict[str, Any]:
    """What was asked for this time: flags, and of the environment, which no daemon has, where the bus is."""
    asked = {
        name: getattr(settings, name)
        for name in ("inbox", "outbox", "invoke")
        if settings.sources.get(name) == "flag"
    }
    for name in ("agent_id", "broker", "port"):
        if settings.sources.get(name) in ("flag", "environment"):
            asked[name] = getattr(settings, name)
    return {**asked, "skip_broker": skip_broker}


def _tell(prepared: Prepared, outcome: Outcome, *, as_json: bool) -> None:
    """What came of it, and what to do now."""
    for note in outcome.notes[len(outcome.plan.notes) :]:
        output.say(f"note: {note}")  # the plan's own were shown with it
    error = _error(outcome)
    if error is not None:
        output.complain("swarmbus init", error)
    elif not as_json:
        _tell_success(prepared, outcome)


def _error(outcome: Outcome) -> SwarmbusError | None:
    if outcome.plan.blocked:
        first = outcome.plan.conflicts[0]
        return UsageError(
            f"{first.resource.title}: {first.comparison.reason}",
            hint="nothing was changed; swarmbus init --dry-run",
        )
    if not outcome.failed:
        return None
    back = "everything was taken back" if outcome.rolled_back else "what was done before stays"
    if outcome.error is not None:
        hint = f"{back}; {outcome.error.hint}" if outcome.error.hint else back
        return SwarmbusError(outcome.error.message, hint=hint)
    summary = outcome.gate.summary if outcome.gate else "failed"
    return SwarmbusError(summary, hint=f"{back}; swarmbus doctor says more")


def _tell_success(prepared: Prepared, outcome: Outcome) -> None:
    if outcome.gate is not None:
        for result in outcome.gate.detail["canaries"]:
            hops = "  ".join(
                f"{hop} {milliseconds:.0f} ms" for hop, milliseconds in result["hops_ms"].items()
            )
            output.write_lines([f"canary of {result['agent']}: {output.paint('ok', output.GREEN)}  {hops}"])
    asked = [agent.id for agent in prepared.request.agents if agent.id]
    agent = asked[0] if asked else prepared.spec.agents[0].id
    output.write_lines(
        [
            "try next:",
            f"  swarmbus send --agent-id {agent} --to {agent} --subject hello --body 'Can you hear me?'",
            f"  swarmbus read --agent-id {agent}",
        ]
    )
