"""``swarmbus outbox``: what was sent and is not delivered, and why."""

from __future__ import annotations

import click

from swarmbus import control
from swarmbus.cli import moments, options, output
from swarmbus.cli.mailboxes import existing_mailbox, whole_ids
from swarmbus.config import Settings
from swarmbus.errors import ExitStatus, SwarmbusError, UsageError
from swarmbus.inbox_file import one_line
from swarmbus.mailbox import Mailbox, Outbound


@click.command("outbox")
@options.with_settings
@options.agent_id
@click.option("--retry", is_flag=True, help="Send these again.")
@click.option("--drop", is_flag=True, help="Forget these; what the broker has already may still arrive.")
@click.argument("ids", metavar="[ID…|all]", nargs=-1)
@options.as_json
def command(settings: Settings, retry: bool, drop: bool, ids: tuple[str, ...], as_json: bool) -> ExitStatus:
    """List what was sent and is not delivered.

    With --retry or --drop: the messages with these IDs, or beginnings of ids, or all.
    """
    agent_id = settings.require_agent_id()
    if retry and drop:
        raise UsageError("--retry and --drop were both given", hint="give one of them")
    if ids and not (retry or drop):
        raise UsageError("ids were given, but not what to do with them", hint="add --retry or --drop")
    done: list[str] = []
    with existing_mailbox(agent_id) as mailbox:
        waiting = [] if mailbox is None else mailbox.outbound.undelivered()
        if retry or drop:
            chosen = whole_ids(ids, [message.id for message in waiting], "undelivered message")
            done = [] if mailbox is None else _change(mailbox, chosen, retry=retry)
    if not (retry or drop):
        _list(waiting, as_json=as_json)
        return ExitStatus.DONE
    word = "queued" if retry else "dropped"
    if as_json:
        output.write_json([{"id": message_id, "done": word} for message_id in done])
    else:
        output.write_lines(f"{word}  {message_id}" for message_id in done)
    if done:
        _tell_listener(agent_id, retry=retry)
    return ExitStatus.DONE


def _change(mailbox: Mailbox, ids: list[str] | None, *, retry: bool) -> list[str]:
    with mailbox.transaction():
        return mailbox.outbound.retry(ids) if retry else mailbox.outbound.drop(ids)


def _tell_listener(agent_id: str, *, retry: bool) -> None:
    try:
        control.request(agent_id, {"op": "poke"}, timeout=5.0)
    except control.NoListener:
        if retry:
            output.say(f"no listener of {agent_id} runs here: they go out with its next start, send or read")
    except SwarmbusError as error:
        output.warn(error.message)


def _list(waiting: list[Outbound], *, as_json: bool) -> None:
    if as_json:
        output.write_json([message.as_dict() for message in waiting])
    elif waiting:
        output.write_lines(output.columns([_row(message) for message in waiting]))
    else:
        output.say("everything sent was delivered")


def _row(message: Outbound) -> tuple[str, ...]:
    why = f": {message.reason}" if message.reason else ""
    return (
        message.id,
        moments.shown(message.queued),
        message.to,
        f"{message.state}{one_line(why)}",
        one_line(message.message()["subject"]),
    )
