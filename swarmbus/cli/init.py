"""``swarmbus init``: agents set up on this host; shown first, tried afterwards."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import click

from swarmbus.cli import installing, options, output, spec_file
from swarmbus.config import Settings
from swarmbus.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from swarmbus.provision.outcome import Outcome, Prepared
    from swarmbus.provision.request import Request

_CREDENTIALS: Final = ("username", "password", "ca_cert", "client_cert", "client_key", "tls")


@click.command("init")
@options.with_settings
@click.option(
    "--agent-id",
    "agent_ids",
    metavar="ID",
    multiple=True,
    help="The agent to set up; may be repeated. [env: SWARMBUS_AGENT_ID]",
)
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
@click.option(
    "--scope",
    type=click.Choice(["user", "system"]),
    help="Whose units run the listeners: yours, or the system's. [default: as before, or user]",
)
@click.option("--skip-broker", is_flag=True, default=None, help="Install and configure no broker.")
@click.option("--skip-plugin", is_flag=True, help="Connect no agent host, as --host-type none.")
@spec_file.option
@spec_file.take
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
@click.option("--resume", is_flag=True, help="Go on where an earlier run was killed, or needed root.")
@click.option("--rollback", is_flag=True, help="Only take back what an interrupted run has done.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.connection
@options.as_json
def command(
    settings: Settings,
    agent_ids: tuple[str, ...],
    host_type: str | None,
    scope: str | None,
    skip_broker: bool | None,
    skip_plugin: bool,
    spec: str | None,
    take: tuple[str, ...],
    dry_run: bool,
    resume: bool,
    rollback: bool,
    yes: bool,
    as_json: bool,
) -> ExitStatus:
    """Set up agents on this host: broker, listener daemons, all that keeps them running.

    Without --agent-id: the agents that are set up here already, or else one named after the host. Shows what
    it would do, asks once, does it, and sends a message through all of it; if that fails, all is taken back.
    A second run changes nothing.

    Exit status 1: failed. 3: somebody else's change is in the way. 4: root is needed; the script for it is
    printed.
    """
    if rollback:
        return _take_back(dry_run=dry_run, yes=yes, as_json=as_json)
    _refuse_what_is_not_here(settings, None if skip_plugin else host_type)
    flags = _flags(settings, agent_ids, scope, skip_broker)
    said = [name for name, value in flags.items() if value is not None]
    if resume and (said or spec):
        raise UsageError("--resume goes on with what was asked for before", hint="give it no other option")
    if spec and said:
        raise UsageError(
            f"--spec and --{said[0].replace('_', '-')}: the spec is the whole of what is asked for",
            hint="put it into the spec, or leave --spec out",
        )
    request = _request(flags, spec, take, resume=resume)
    done = installing.install("swarmbus init", request, dry_run=dry_run, yes=yes, as_json=as_json)
    if isinstance(done, ExitStatus):
        return done
    prepared, outcome = done
    if not outcome.failed and not outcome.plan.blocked and not as_json:
        _tell_success(prepared, outcome)
    return outcome.exit_status


def _request(flags: dict[str, Any], spec: str | None, take: tuple[str, ...], *, resume: bool) -> Request:
    from swarmbus.provision.request import request_from_flags  # noqa: PLC0415  # --help loads no engine

    if spec is not None:
        return spec_file.request_of(spec, take)
    if resume:
        from swarmbus.provision.layout import Layout  # noqa: PLC0415
        from swarmbus.provision.local_system import LocalSystem  # noqa: PLC0415
        from swarmbus.provision.resume import request_to_resume  # noqa: PLC0415

        return request_to_resume(LocalSystem(), Layout.of_this_user(), frozenset(take))
    return request_from_flags({**flags, "take": take})


def _take_back(*, dry_run: bool, yes: bool, as_json: bool) -> ExitStatus:
    """``--rollback``."""
    from swarmbus.cli.init_show import Progress  # noqa: PLC0415  # as above
    from swarmbus.provision.journal import Journal  # noqa: PLC0415
    from swarmbus.provision.layout import Layout  # noqa: PLC0415
    from swarmbus.provision.local_system import LocalSystem  # noqa: PLC0415
    from swarmbus.provision.plan import Plan  # noqa: PLC0415
    from swarmbus.provision.rollback import roll_back  # noqa: PLC0415

    system = LocalSystem()
    interrupted = Journal(system, Layout.of_this_user().provision).interrupted()
    if interrupted is None:
        output.say("no run was interrupted: there is nothing to take back")
        if as_json:
            output.write_json(Plan(()).as_json())
        return ExitStatus.DONE
    for entry in reversed(interrupted.changes):
        output.say(f"  to be taken back: {entry.title}")
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
        output.note(note)
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


def _flags(
    settings: Settings, agent_ids: tuple[str, ...], scope: str | None, skip_broker: bool | None
) -> dict[str, Any]:
    """What was asked for this time: flags, and of the environment, which no daemon has, where the bus is."""
    asked = {
        name: getattr(settings, name)
        for name in ("inbox", "outbox", "invoke")
        if settings.sources.get(name) == "flag"
    }
    for name in ("broker", "port"):
        if settings.sources.get(name) in ("flag", "environment"):
            asked[name] = getattr(settings, name)
    if agent_ids:
        asked["agent_id"] = list(agent_ids)
    elif settings.sources.get("agent_id") == "environment":
        asked["agent_id"] = settings.agent_id
    return {**asked, "scope": scope, "skip_broker": skip_broker}


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
