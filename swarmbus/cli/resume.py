"""``swarmbus resume``: the end of a pause."""

from __future__ import annotations

import asyncio

import click

from swarmbus.broker import Broker
from swarmbus.cli import options, output
from swarmbus.cli.pause import scope_of
from swarmbus.config import Settings
from swarmbus.errors import ExitStatus
from swarmbus.pause import publish_pause


@click.command("resume")
@options.with_settings
@options.agent_id
@click.option("--agent", metavar="AGENT", help="Of this agent.")
@click.option("--host", is_flag=True, help="Of all agents of this host.")
@click.option("--bus", is_flag=True, help="Of all agents.")
@options.connection
@options.as_json
def command(settings: Settings, agent: str | None, host: bool, bus: bool, as_json: bool) -> ExitStatus:
    """Take a pause back: of this agent, of this host, or of all.

    What came in meanwhile and was not read wakes now, once. An agent is woken again when no pause holds for
    it any more, neither its own nor that of its host or of the bus.
    """
    scope = scope_of(settings, agent, host=host, bus=bus)
    asyncio.run(publish_pause(Broker.from_settings(settings), scope, None))
    if as_json:
        output.write_json({"scope": scope, "paused": False})
    else:
        output.write_lines([f"resumed  {scope}"])
    return ExitStatus.DONE
