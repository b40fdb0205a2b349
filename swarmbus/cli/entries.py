"""Messages as text: the form of the inbox file, so that what one command prints another can read.

A sample; behind the keys of the file, the last line has what else an answer needs::

    ## [2026-04-14 05:00] From: planner | hello
    Got a minute?
    <!-- swarmbus id=9f0c… priority=normal reply_to=coder -->
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from swarmbus.agent_id import BROADCAST
from swarmbus.cli import output
from swarmbus.inbox_file import Direction, encode_word, render_entry
from swarmbus.limits import CONTENT_TYPES
from swarmbus.mailbox import StoredMessage

_END: Final = " -->\n"


def received_text(message: StoredMessage) -> str:
    """A message that came in."""
    return entry_text("From", message.sender, message.as_dict())


def entry_text(direction: Direction, peer: str, fields: Mapping[str, Any]) -> str:
    """A message by the keys of its envelope, ``verified`` among them where that is known.

    It begins with a blank line. Text of the sender cannot imitate an entry, nor act on the terminal.
    """
    text = render_entry(
        direction,
        peer,
        id=fields["id"],
        ts=fields["ts"],
        subject=fields["subject"],
        body=fields["body"],
        priority=fields["priority"],
        verified=bool(fields.get("verified")),
    ).decode()
    heading, body = text[1:].split("\n", 1)
    body, last = body.removesuffix(_END).rsplit("\n", 1)
    last = f"{last}{_more(direction, fields)}{_END}"
    return f"\n{output.paint(heading, output.BOLD)}\n{body}\n{output.paint(last[:-1], output.DIM)}\n"


def _more(direction: Direction, fields: Mapping[str, Any]) -> str:
    more = {
        key: encode_word(str(value))
        for key in ("reply_to", "in_reply_to", "thread")
        if (value := fields.get(key))
    }
    if (content_type := fields["content_type"]) != "text/plain" and content_type in CONTENT_TYPES:
        more["content_type"] = content_type
    if direction == "From" and fields["to"] == BROADCAST:
        more["to"] = BROADCAST
    return "".join(f" {key}={word}" for key, word in more.items())
