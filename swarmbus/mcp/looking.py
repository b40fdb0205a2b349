"""What an MCP server shows of the agent's mailbox without handing anything out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from swarmbus.errors import UsageError
from swarmbus.mailbox import Mailbox
from swarmbus.mcp.fence import NOTICE, fenced, line
from swarmbus.mcp.reading import READER
from swarmbus.mcp.results import Answer, Event, Status, Thread, counted, fitting, published

_MOST_OF_THREAD: Final = 50
_MOST_OF_INBOX: Final = 10


def thread(mailbox: Mailbox, message_id: str) -> Answer:
    """The conversation that a message belongs to, both directions, oldest first; the latest if it is long.

    Raises:
        UsageError: If we know no such message.
    """
    with mailbox.reading():
        turns = mailbox.history.thread(message_id)
    if not turns:
        raise _unknown(message_id)
    turns = list({turn.fields["id"]: turn for turn in turns}.values())  # to ourselves: sent, and received
    latest = turns[-_MOST_OF_THREAD:]
    latest = latest[len(latest) - fitting([turn.fields["body"] for turn in reversed(latest)]) :]
    shown = [published(turn.fields) for turn in latest]
    omitted = len(turns) - len(latest)
    before = f"; {omitted} earlier ones are not shown" if omitted else ""
    text = fenced(shown, f"{counted(len(shown))} of this thread{before}.")
    return Answer(text, Thread(notice=NOTICE, result=shown, omitted=omitted))


def status(mailbox: Mailbox, message_id: str) -> Answer:
    """How far a message has come, with times.

    Raises:
        UsageError: If we know no such message.
    """
    with mailbox.reading():
        sent = mailbox.outbound.get(message_id)
        events = mailbox.history.of(message_id)
    if not events:
        raise _unknown(message_id)
    state = sent.state if sent is not None else events[-1].what
    shown = [Event(at=_iso(event.at), what=event.what, detail=line(event.detail)) for event in events]
    head = f"{line(message_id)}: {state}" + (f" ({line(sent.reason)})" if sent and sent.reason else "")
    lines = [f"{event['at']}  {event['what']}  {event['detail']}" for event in shown]
    return Answer("\n".join([head, *lines]), Status(result=state, id=message_id, events=shown))


def inbox(mailbox: Mailbox) -> str:
    """What is not acknowledged, oldest first, as text."""
    with mailbox.reading():
        count = mailbox.acknowledgements.count(READER)
        messages = mailbox.acknowledgements.pending(READER, _MOST_OF_INBOX)
    messages = messages[: fitting([message.body for message in messages])]
    if not messages:
        return "No message."
    shown = [published(message.as_dict()) for message in messages]
    return fenced(shown, f"{counted(count)} not acknowledged, {len(shown)} shown; read_inbox hands them out.")


def _unknown(message_id: str) -> UsageError:
    return UsageError(
        f"this agent has neither sent nor received a message {line(message_id)}",
        hint="give a whole id, as send_message and read_inbox show it",
    )


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
