"""``swarmbus log``: the conversation, both directions in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from swarmbus.agent_id import check_recipient
from swarmbus.cli import entries, moments, options, output
from swarmbus.cli.mailboxes import existing_mailbox
from swarmbus.config import Settings
from swarmbus.errors import ExitStatus
from swarmbus.mailbox.history import Turn


@click.command("log")
@options.with_settings
@options.agent_id
@click.option("--peer", metavar="AGENT", help="Only with this agent.")
@click.option(
    "--since", "since_text", metavar="TIME", help="Not before: 10m, 2h, 3d (ago), or an ISO 8601 time."
)
@options.as_json
def command(settings: Settings, peer: str | None, since_text: str | None, as_json: bool) -> ExitStatus:
    """Print what was sent and received, oldest first.

    Reads the mailbox of this host; nothing counts as read by it.
    """
    agent_id = settings.require_agent_id()
    if peer is not None:
        check_recipient(peer)
    since = None if since_text is None else moments.since(since_text)
    with existing_mailbox(agent_id) as mailbox:
        turns: Iterator[Turn] = iter(()) if mailbox is None else mailbox.history.conversation(peer, since)
        if as_json:
            output.write_json_array(_as_dict(turn) for turn in turns)
            return ExitStatus.DONE
        for number, turn in enumerate(turns):
            text = entries.entry_text("To" if turn.outgoing else "From", turn.peer, turn.fields)
            output.write(text if number else text[1:])
    return ExitStatus.DONE


def _as_dict(turn: Turn) -> dict[str, Any]:
    fields = {key: value for key, value in turn.fields.items() if key != "wire"}
    return {"at": turn.at, "direction": "out" if turn.outgoing else "in", **fields}
