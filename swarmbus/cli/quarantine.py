"""``swarmbus quarantine``: what came in and could not be read, or not be handled."""

from __future__ import annotations

import click

from swarmbus.cli import moments, options, output
from swarmbus.cli.mailboxes import existing_mailbox
from swarmbus.config import Settings
from swarmbus.errors import ExitStatus, UsageError
from swarmbus.inbox_file import one_line, visible
from swarmbus.mailbox import Mailbox, Quarantined


@click.command("quarantine")
@options.with_settings
@options.agent_id
@click.option("--drop", is_flag=True, help="Forget these.")
@click.argument("ids", metavar="[NUMBER…|all]", nargs=-1)
@options.as_json
def command(settings: Settings, drop: bool, ids: tuple[str, ...], as_json: bool) -> ExitStatus:
    """List what could not be read or handled; with NUMBERs, show those whole.

    \b
    unreadable   is no valid message
    conflict     has the id of a message that is stored, with other content
    forged       names a sender that is not the one the broker knows
    dead-letter  a handler failed on it too often
    """
    agent_id = settings.require_agent_id()
    with existing_mailbox(agent_id) as mailbox:
        kept = [] if mailbox is None else mailbox.quarantine.list()
        chosen = _chosen(kept, ids) if ids or drop else kept
        if drop and mailbox is not None:
            _drop(mailbox, chosen)
    if as_json:
        output.write_json([entry.as_dict() for entry in chosen])
    elif drop:
        output.write_lines(f"dropped {entry.id}" for entry in chosen)
    elif ids:
        output.write("\n".join(_whole(entry) for entry in chosen))
    elif kept:
        output.write_lines(output.columns([_row(entry) for entry in kept]))
    else:
        output.say("nothing is in quarantine")
    return ExitStatus.DONE


def _chosen(kept: list[Quarantined], ids: tuple[str, ...]) -> list[Quarantined]:
    if ids == ("all",):
        return kept
    if not ids:
        raise UsageError("no entry was named", hint="give numbers as they are listed, or the word all")
    by_number = {str(entry.id): entry for entry in kept}
    for word in ids:
        if word not in by_number:
            raise UsageError(f"there is no entry {word!r} in quarantine", hint="nothing was changed")
    return [by_number[word] for word in dict.fromkeys(ids)]


def _drop(mailbox: Mailbox, chosen: list[Quarantined]) -> None:
    with mailbox.transaction():
        mailbox.quarantine.drop([entry.id for entry in chosen])


def _row(entry: Quarantined) -> tuple[str, ...]:
    who = f"{entry.handler}: " if entry.handler else ""
    return (
        str(entry.id),
        moments.shown(entry.at),
        entry.kind,
        one_line(entry.topic),
        one_line(who + entry.reason),
    )


def _whole(entry: Quarantined) -> str:
    facts = {
        "kind": entry.kind,
        "at": moments.iso(entry.at),
        "topic": one_line(entry.topic),
        "reason": one_line(entry.reason),
        "message": one_line(entry.message_id or "-"),
        "handler": one_line(entry.handler or "-"),
    }
    lines = output.columns([(f"{name}:", value) for name, value in facts.items()])
    payload = visible(entry.payload.decode("utf-8", "backslashreplace"))
    return "\n".join([output.paint(str(entry.id), output.BOLD), *lines, payload, ""])
