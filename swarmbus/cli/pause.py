"""``swarmbus pause``: no new wakes, while messages keep arriving."""

from __future__ import annotations

import asyncio
import getpass
import socket
from datetime import UTC, datetime, timedelta

import click

from swarmbus.agent_id import check_agent_id
from swarmbus.broker import Broker
from swarmbus.cli import moments, options, output
from swarmbus.config import Settings
from swarmbus.errors import ExitStatus, UsageError
from swarmbus.pause import BUS_SCOPE, Pause, agent_scope, host_scope, publish_pause


@click.command("pause")
@options.with_settings
@options.agent_id
@click.option("--agent", metavar="AGENT", help="Of this agent.")
@click.option("--host", is_flag=True, help="Of all agents of this host.")
@click.option("--bus", is_flag=True, help="Of all agents.")
@click.option("--reason", default="", metavar="LINE", help="Shown to whoever asks or sends.")
@click.option("--for", "span", metavar="TIME", help="How long: 30m, 2h, 1d. [default: until resumed]")
@options.connection
@options.as_json
def command(
    settings: Settings,
    agent: str | None,
    host: bool,
    bus: bool,
    reason: str,
    span: str | None,
    as_json: bool,
) -> ExitStatus:
    """Have no agent woken from now on: this one, all of this host, or all.

    Messages keep arriving and are stored. A wake that runs is not ended. swarmbus resume takes it back.
    """
    scope = scope_of(settings, agent, host=host, bus=bus)
    now = datetime.now(UTC)
    until = None if span is None else now + timedelta(seconds=moments.span(span, "--for"))
    pause = Pause(scope, f"{getpass.getuser()}@{socket.gethostname()}", reason, now, until)
    asyncio.run(publish_pause(Broker.from_settings(settings), scope, pause))
    if as_json:
        end = None if until is None else until.isoformat()
        output.write_json({"scope": scope, "paused": True, "by": pause.by, "reason": reason, "until": end})
    else:
        output.write_lines([f"paused  {scope}"])
    return ExitStatus.DONE


def scope_of(settings: Settings, agent: str | None, *, host: bool, bus: bool) -> str:
    """What is meant: one of the options, else the agent itself.

    Raises:
        UsageError: If more than one was given.
    """
    if (agent is not None) + host + bus > 1:
        raise UsageError("--agent, --host and --bus exclude each other", hint="call it once for each")
    if bus:
        return BUS_SCOPE
    if host:
        return host_scope(socket.gethostname())
    return agent_scope(check_agent_id(agent) if agent is not None else settings.require_agent_id())
