"""The rows of a mailbox as plain records: readers of the mailbox need no pydantic."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

State = Literal[
    "queued", "accepted", "stored", "seen", "no-subscriber", "not-authorized", "rejected", "expired"
]
"""What is known of a message we sent, in the order of the way it travels, and then the ways it can fail.

``queued``: in our spool. ``accepted``: the broker acknowledged it. ``stored``: the receiver's mailbox has
committed it. ``seen``: the receiving agent took it from its mailbox.
"""


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message in the mailbox.

    Attributes:
        seq: Its place in the order of arrival.
        ts: When the sender wrote it, ISO 8601 with zone, as it came.
        verified: Whether the broker vouched for the sender.
        received: When it was committed here, Unix time in seconds.
        seen: When the agent took it, Unix time; None if not yet.
    """

    seq: int
    id: str
    sender: str
    to: str
    ts: str
    subject: str
    body: str
    content_type: str
    priority: str
    reply_to: str | None
    extra: dict[str, Any]
    verified: bool
    received: float
    seen: float | None

    def as_dict(self) -> dict[str, Any]:
        """The envelope's keys, and what we know beside them."""
        return {
            "id": self.id,
            "from": self.sender,
            "to": self.to,
            "ts": self.ts,
            "subject": self.subject,
            "body": self.body,
            "content_type": self.content_type,
            "priority": self.priority,
            "reply_to": self.reply_to,
            **{key: value for key, value in self.extra.items() if key != "wire"},
            "verified": self.verified,
            "received": self.received,
        }


@dataclass(frozen=True, slots=True)
class Outbound:
    """A message we sent, or mean to.

    Attributes:
        envelope: The JSON object that goes over the wire.
        queued: When it was committed to the spool; this and the other times are Unix seconds, None for
            what has not happened.
        failed: When it was given up; ``state`` then says how.
        reason: Why, in words; or what the last attempt met.
        attempts: How often the broker acknowledged it.
        done: Whether nothing more will be done about it.
    """

    seq: int
    id: str
    to: str
    envelope: str
    state: State
    queued: float
    accepted: float | None
    stored: float | None
    seen: float | None
    failed: float | None
    reason: str | None
    attempts: int
    done: bool

    def message(self) -> dict[str, Any]:
        """The envelope's keys."""
        fields: dict[str, Any] = json.loads(self.envelope)
        return fields

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``: the envelope without its body, and the state with its times."""
        fields = self.message()
        return {
            "id": self.id,
            "to": self.to,
            "ts": fields["ts"],
            "subject": fields["subject"],
            "priority": fields["priority"],
            "state": self.state,
            "queued": self.queued,
            "accepted": self.accepted,
            "stored": self.stored,
            "seen": self.seen,
            "failed": self.failed,
            "reason": self.reason,
            "attempts": self.attempts,
        }


@dataclass(frozen=True, slots=True)
class Quarantined:
    """What came in and could not be taken as a message, or could not be handled.

    Attributes:
        kind: ``unreadable``: no valid envelope. ``conflict``: an id that is already stored, with other
            content. ``forged``: the envelope's sender is not the topic's. ``dead-letter``: a handler
            failed on it too often. ``retry``: one that was given back to its handler, which has not had
            its turn yet.
        at: Unix time in seconds.
        payload: The bytes as they came; of a dead letter, the body.
        handler: Of a dead letter, whose.
    """

    id: int
    kind: Literal["unreadable", "conflict", "forged", "dead-letter", "retry"]
    at: float
    topic: str
    reason: str
    payload: bytes
    message_id: str | None
    handler: str | None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``; bytes that are not UTF-8 are shown escaped."""
        return {
            "id": self.id,
            "kind": self.kind,
            "at": self.at,
            "topic": self.topic,
            "reason": self.reason,
            "payload": self.payload.decode("utf-8", "backslashreplace"),
            "message_id": self.message_id,
            "handler": self.handler,
        }
