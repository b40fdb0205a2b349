"""``swarmbus list``: who is online, by the presence that the broker keeps."""

from __future__ import annotations

import asyncio

import click

from swarmbus.broker import Broker
from swarmbus.cli import moments, options, output
from swarmbus.cli.logs import log_to_stderr
from swarmbus.config import Settings
from swarmbus.errors import ExitStatus
from swarmbus.inbox_file import one_line
from swarmbus.presence import Presence, ask_presence


@click.command("list")
@options.with_settings
@options.agent_id
@click.option("--all", "everybody", is_flag=True, help="Also those who are not online.")
@click.option("--long", "in_detail", is_flag=True, help="With state, version, host, and times.")
@options.connection
@options.as_json
def command(settings: Settings, everybody: bool, in_detail: bool, as_json: bool) -> ExitStatus:
    """List the agents that are online.

    An id a line. An agent whose presence ran out without a goodbye is stale, and not online.
    """
    log_to_stderr(output.verbosity())
    everyone = asyncio.run(ask_presence(Broker.from_settings(settings), settings.agent_id))
    shown = [presence for presence in everyone if everybody or presence.status == "online"]
    if as_json:
        output.write_json([p.as_dict() if in_detail else p.agent for p in shown])
    elif in_detail:
        output.write_lines(output.columns([_HEADINGS, *map(_row, shown)]) if shown else [])
    else:
        output.write_lines(presence.agent for presence in shown)
    for presence in shown:
        if presence.paused:
            output.say(f"{presence.agent} is not woken: {one_line(presence.paused)}")
    if not shown:
        output.say("no agents" if everybody else "no agents online")
    return ExitStatus.DONE


_HEADINGS = ("agent", "state", "version", "host", "since", "last seen")


def _row(presence: Presence) -> tuple[str, ...]:
    return (
        presence.agent,
        presence.status,
        one_line(presence.version or "-"),
        one_line(presence.host or "-"),
        moments.shown(moments.from_iso(presence.since)),
        moments.shown(moments.from_iso(presence.ts)),
    )
