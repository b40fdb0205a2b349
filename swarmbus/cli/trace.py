"""``swarmbus trace``: what happened to one message, with times."""

from __future__ import annotations

import click

from swarmbus.cli import moments, options, output
from swarmbus.cli.mailboxes import existing_mailbox
from swarmbus.config import Settings
from swarmbus.errors import ExitStatus, UsageError
from swarmbus.inbox_file import one_line
from swarmbus.mailbox import Mailbox


@click.command("trace")
@options.with_settings
@options.agent_id
@click.argument("message", metavar="ID")
@options.as_json
def command(settings: Settings, message: str, as_json: bool) -> ExitStatus:
    """Print the whole way of one message.

    ID may be the beginning of an id. Queued, accepted, stored, seen are of a message we sent; received,
    handled, read of one that came. Exit status 1: no message has this id.
    """
    agent_id = settings.require_agent_id()
    with existing_mailbox(agent_id) as mailbox:
        message_id = _whole_id(mailbox, message) if mailbox is not None else None
        if mailbox is None or message_id is None:
            output.say(f"{agent_id} knows no message {message!r}")
            return ExitStatus.NO
        events = mailbox.history.of(message_id)
    if as_json:
        output.write_json(
            {
                "id": message_id,
                "events": [{"at": event.at, "what": event.what, "detail": event.detail} for event in events],
            }
        )
        return ExitStatus.DONE
    output.write_lines([one_line(message_id)])
    begin = events[0].at
    rows = [
        (
            f"  {moments.iso(event.at)}",
            f"+{moments.lasting(event.at - begin)}",
            event.what,
            one_line(event.detail),
        )
        for event in events
    ]
    output.write_lines(output.columns(rows))
    return ExitStatus.DONE


def _whole_id(mailbox: Mailbox, beginning: str) -> str | None:
    found = mailbox.history.ids_like(beginning, limit=6)
    if beginning in found:
        return beginning
    if len(found) > 1:
        shown = ", ".join(found[:5]) + (" …" if len(found) > 5 else "")
        raise UsageError(f"several messages begin with {beginning!r}: {shown}", hint="give more of the id")
    return next(iter(found), None)
