"""``swarmbus send``: one message, and what became of it.

Through the agent's listener daemon where one runs, which costs little; this module therefore imports
nothing at its top that the way through the daemon does not need.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from swarmbus import control
from swarmbus.agent_id import BROADCAST, check_agent_id, check_recipient
from swarmbus.cli import options, output
from swarmbus.cli.body import body_of
from swarmbus.config import Settings
from swarmbus.errors import ExitStatus, InvalidMessage, SwarmbusError, TimedOut, UsageError
from swarmbus.hops import inherited
from swarmbus.inbox_file import one_line
from swarmbus.limits import PRIORITIES
from swarmbus.message_id import new_id

if TYPE_CHECKING:
    from swarmbus.journal_file import JournalFile
    from swarmbus.spool import Wait

WAITS: Final = ("accepted", "stored", "seen")

_LONGEST_ID: Final = 200  # of swarmbus.envelope.AgentMessage

_ON_THE_WAY: Final = ("queued", *WAITS)


@click.command("send")
@options.with_settings
@options.agent_id
@click.option("--to", required=True, metavar="AGENT", help="Who gets it; 'broadcast' for everybody.")
@click.option("--subject", required=True, metavar="LINE", help="One line, at most 256 bytes.")
@click.option("--body", metavar="TEXT", help="The message itself, at most 64 KiB.")
@click.option("--body-file", metavar="FILE", help="The same from a file; '-' is standard input.")
@click.option(
    "--content-type",
    default="text/plain",
    metavar="TYPE",
    help="text/plain, text/markdown or application/json.",
)
@click.option(
    "--priority", type=click.Choice(PRIORITIES), default="normal", help="High ones may wake an agent."
)
@click.option("--reply-to", metavar="AGENT", help="Who is to be answered, if not this agent.")
@click.option("--in-reply-to", metavar="MESSAGE", help="Id of the message that this one answers.")
@click.option(
    "--outbox",
    metavar="FILE",
    help="Append the message to this file; {agent_id} is filled in."
    " [env: SWARMBUS_OUTBOX_<ID>, SWARMBUS_OUTBOX]",
)
@click.option(
    "--wait",
    type=click.Choice(WAITS),
    default="accepted",
    help="Until the broker has it, or the receiver's mailbox, or the receiver has read it."
    " [default: accepted]",
)
@click.option(
    "--timeout",
    type=options.Seconds(86_400),
    default=10.0,
    metavar="SECONDS",
    help="How long. [default: 10]",
)
@options.connection
@options.as_json
def command(
    settings: Settings,
    to: str,
    subject: str,
    body: str | None,
    body_file: str | None,
    content_type: str,
    priority: str,
    reply_to: str | None,
    in_reply_to: str | None,
    wait: Wait,
    timeout: float,
    as_json: bool,
) -> ExitStatus:
    """Send a message.

    It is kept on this host until the receiver has it. Prints how far it has come, its id, and the receiver:

    \b
    queued    kept here; goes out when the broker is back: do not send it again
    accepted  the broker has it
    stored    it is in the receiver's mailbox
    seen      the receiver has read it

    Exit status 1: not delivered, or not as far as --wait in time. 2: the broker cannot be reached.
    """
    agent_id = settings.require_agent_id()
    check_recipient(to)
    if reply_to is not None:
        check_agent_id(reply_to)
    if to == BROADCAST and wait != "accepted":
        raise UsageError(f"nobody confirms a broadcast: --wait {wait}", hint="leave --wait out")
    if in_reply_to is not None and not 0 < len(in_reply_to) <= _LONGEST_ID:
        raise InvalidMessage(f"--in-reply-to: no message has an id of {len(in_reply_to)} characters")
    # The id is made here: when the listener dies over the message, it is sent by another way as the same one.
    message = {
        "id": new_id(),
        "to": to,
        "subject": subject,
        "body": body_of(body, body_file),
        "content_type": content_type,
        "priority": priority,
        "reply_to": reply_to,
        "extra": inherited() | ({"in_reply_to": in_reply_to} if in_reply_to is not None else {}),
    }
    outbox = _outbox(settings)
    try:
        delivery = _through_listener(settings, agent_id, message, wait, timeout)
    except control.NoListener:
        from swarmbus.cli.one_shot import send_without_listener  # noqa: PLC0415  # see the module

        output.detail(f"no listener of {agent_id} here: connecting to {settings.broker}:{settings.port}")
        delivery = send_without_listener(settings, message, wait, timeout)
    _print(delivery, as_json=as_json)
    if delivery.get("paused"):
        output.say(f"{delivery['to']} is not woken at present: {one_line(delivery['paused'])}")
    if outbox is not None:
        _archive(outbox, delivery, message)
    if reached(delivery, wait):
        return ExitStatus.DONE
    from swarmbus.cli.undelivered import explain  # noqa: PLC0415  # a message that arrives needs none of it

    error = explain(settings, delivery, wait, timeout)
    output.complain("swarmbus send", error)
    return error.exit_status


def reached(delivery: Mapping[str, Any], wait: str) -> bool:
    """Whether a message has come as far as was asked."""
    state = delivery["state"]
    return state in _ON_THE_WAY and _ON_THE_WAY.index(state) >= _ON_THE_WAY.index(wait)


def _outbox(settings: Settings) -> JournalFile | None:
    """The outbox, looked at before anything is sent: a message is not sent that could not be archived."""
    path = settings.outbox_path
    if path is None:
        return None
    from swarmbus.journal_file import JournalFile  # noqa: PLC0415  # not everybody keeps an outbox

    outbox = JournalFile(path, max_bytes=settings.inbox_max_bytes, keep=settings.inbox_keep, sync=False)
    outbox.check_writable()
    return outbox


def _through_listener(
    settings: Settings, agent_id: str, message: Mapping[str, Any], wait: str, timeout: float
) -> dict[str, Any]:
    options.check_same_broker(settings, agent_id)
    question = {"op": "send", **message, "wait": wait, "timeout": timeout}
    try:
        delivery = control.request(agent_id, question, timeout=timeout + 5.0)
    except TimedOut as error:
        hint = f"do not send again what is kept: swarmbus trace --agent-id {agent_id} {message['id']}"
        raise TimedOut(error.message, hint=hint) from error
    if delivery["state"] == "queued":
        status = control.request(agent_id, {"op": "status"})
        delivery["unreachable"] = None if status["connected"] else status["last_error"] or delivery["reason"]
    return delivery | {"by_listener": True}


def _print(delivery: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        facts = {key: delivery[key] for key in ("id", "state", "to", "ts")}
        output.write_json(facts | {"reason": delivery.get("unreachable") or delivery["reason"]})
        return
    state = delivery["state"]
    colour = output.GREEN if state in WAITS else output.YELLOW
    output.write_lines([f"{output.paint(state, colour)}  {delivery['id']}  {delivery['to']}"])


def _archive(outbox: JournalFile, delivery: Mapping[str, Any], message: Mapping[str, Any]) -> None:
    from swarmbus.inbox_file import render_entry  # noqa: PLC0415  # as above

    entry = render_entry(
        "To",
        delivery["to"],
        id=delivery["id"],
        ts=delivery["ts"],
        subject=message["subject"],
        body=message["body"],
        priority=message["priority"],
    )
    try:
        outbox.append([entry])
    except SwarmbusError as error:
        # It is on its way: an exit status that says otherwise would have it sent twice.
        output.warn(f"sent, but not written to the outbox: {error.message}")
