"""Reading again what could not be read: after an upgrade it may be a message."""

from __future__ import annotations

import time

from swarmbus.envelope import CANARY, AgentMessage, Unreadable, read_payload
from swarmbus.mailbox import Mailbox, Quarantined


def take_out(mailbox: Mailbox, entry: Quarantined) -> str | None:
    """Store the messages of an ``unreadable`` entry, and remove it; in a transaction of its own.

    Who sent them nobody vouches for any more.

    Returns:
        Why the entry stays, None if it is gone.
    """
    messages: list[AgentMessage] = []
    for item in read_payload(entry.payload):
        if isinstance(item, Unreadable):
            return item.reason
        if item.kind != CANARY:
            messages.append(item)
    with mailbox.transaction():
        if "conflict" in mailbox.inbound.store(messages, time.time()):
            # A message of a batch may be new: it stays stored, and the entry says what is left.
            return "its id is that of a stored message with other content"
        mailbox.quarantine.drop([entry.id])
    return None
