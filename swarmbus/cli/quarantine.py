"""``swarmbus quarantine``: what came in and could not be read, or not be handled."""

from __future__ import annotations

import click

from swarmbus import control
from swarmbus.cli import moments, options, output
from swarmbus.cli.mailboxes import existing_mailbox
from swarmbus.config import Settings
from swarmbus.errors import ExitStatus, UsageError
from swarmbus.inbox_file import one_line, visible
from swarmbus.mailbox import Mailbox, Quarantined


@click.command("quarantine")
@options.with_settings
@options.agent_id
@click.option("--retry", is_flag=True, help="Read these again, or have their handler try again.")
@click.option("--drop", is_flag=True, help="Forget these.")
@click.argument("numbers", metavar="[NUMBER…|all]", nargs=-1)
@options.as_json
def command(
    settings: Settings, retry: bool, drop: bool, numbers: tuple[str, ...], as_json: bool
) -> ExitStatus:
    """List what came in and could not be read or handled.

    With NUMBERs: show those whole.

    \b
    unreadable   is no valid message
    conflict     has the id of a message that is stored, with other content
    forged       names a sender that is not the one the broker knows
    dead-letter  a handler failed on it too often
    retry        was given back to its handler, whose turn comes

    Exit status 1: something could not be retried.
    """
    agent_id = settings.require_agent_id()
    if retry and drop:
        raise UsageError("--retry and --drop were both given", hint="give one of them")
    with existing_mailbox(agent_id) as mailbox:
        kept = [] if mailbox is None else mailbox.quarantine.list()
        chosen = _chosen(kept, numbers) if numbers or drop or retry else kept
        if mailbox is not None and retry:
            return _retry(agent_id, mailbox, chosen, as_json=as_json)
        if mailbox is not None and drop:
            with mailbox.transaction():
                mailbox.quarantine.drop([entry.id for entry in chosen])
    if as_json:
        output.write_json([entry.as_dict() for entry in chosen])
    elif drop:
        output.write_lines(f"dropped {entry.id}" for entry in chosen)
    elif numbers:
        output.write("\n".join(_whole(entry) for entry in chosen))
    elif kept:
        output.write_lines(output.columns([_row(entry) for entry in kept]))
    else:
        output.say("nothing is in quarantine")
    return ExitStatus.DONE


def _chosen(kept: list[Quarantined], numbers: tuple[str, ...]) -> list[Quarantined]:
    if numbers == ("all",):
        return kept
    if not numbers:
        raise UsageError("no entry was named", hint="give numbers as they are listed, or the word all")
    by_number = {str(entry.id): entry for entry in kept}
    for word in numbers:
        if word not in by_number:
            raise UsageError(f"there is no entry {word!r} in quarantine", hint="nothing was changed")
    return [by_number[word] for word in dict.fromkeys(numbers)]


def _retry(agent_id: str, mailbox: Mailbox, chosen: list[Quarantined], *, as_json: bool) -> ExitStatus:
    """Each by its kind; a conflict or a forgery would only end here again."""
    stays = {entry.id: _try_again(mailbox, entry) for entry in chosen}
    try:
        control.request(agent_id, {"op": "poke"}, timeout=5.0)
    except control.NoListener:
        if any(entry.handler and stays[entry.id] is None for entry in chosen):
            output.say(f"no listener of {agent_id} runs here: handlers try again at its next start")
    if as_json:
        output.write_json(
            [{"id": number, "done": why is None, "reason": why} for number, why in stays.items()]
        )
    else:
        output.write_lines(
            f"{number}  {'given back' if why is None else f'stays: {one_line(why)}'}"
            for number, why in stays.items()
        )
    return ExitStatus.DONE if all(why is None for why in stays.values()) else ExitStatus.NO


def _try_again(mailbox: Mailbox, entry: Quarantined) -> str | None:
    if entry.kind in ("dead-letter", "retry"):
        with mailbox.transaction():
            mailbox.quarantine.give_back([entry.id])
        return None
    if entry.kind != "unreadable":
        return entry.reason
    from swarmbus.second_look import take_out  # noqa: PLC0415  # to list takes less

    return take_out(mailbox, entry)


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
