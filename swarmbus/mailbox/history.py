"""Looking back: one message's whole way, and the conversation with a peer."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a message.

    Attributes:
        at: Unix time in seconds.
        what: ``queued``, ``accepted``, ``stored``, ``seen``, ``failed``; ``received``, ``read``,
            ``handled``, ``wake``, ``no wake``; or the kind of a quarantine entry.
        detail: By which handler, from whom, or why.
    """

    at: float
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation.

    Attributes:
        at: When we queued or stored it, Unix time in seconds.
        outgoing: Whether it is ours.
        peer: The other agent, or ``broadcast``.
        fields: The envelope's keys.
    """

    at: float
    outgoing: bool
    peer: str
    fields: dict[str, Any]


class History:
    """Only reads."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def of(self, message_id: str) -> list[Event]:
        """What happened to a message, in order of time; empty if we know nothing of it."""
        events: list[Event] = []
        row = self._connection.execute(
            "SELECT recipient, queued, accepted, stored, seen, failed, failure, reason, attempts"
            " FROM outbound WHERE id = ?",
            (message_id,),
        ).fetchone()
        if row is not None:
            to, queued, accepted, stored, seen, failed, failure, reason, attempts = row
            tries = f", attempt {attempts}" if attempts > 1 else ""
            steps = [
                (queued, "queued", f"for {to}"),
                (accepted, "accepted", f"by the broker{tries}"),
                (stored, "stored", f"in the mailbox of {to}"),
                (seen, "seen", f"by {to}"),
                (failed, "failed", f"{failure}: {reason}"),
            ]
            events += [Event(at, what, detail) for at, what, detail in steps if at is not None]
        row = self._connection.execute(
            "SELECT seq, sender, received, seen FROM inbound WHERE id = ?", (message_id,)
        ).fetchone()
        if row is not None:
            seq, sender, received, seen = row
            events.append(Event(received, "received", f"from {sender}"))
            if seen is not None:
                events.append(Event(seen, "read", "by the agent"))
            events += [
                Event(at, "handled", f"by {handler}")
                for handler, at in self._connection.execute(
                    "SELECT handler, at FROM handled WHERE seq = ?", (seq,)
                )
            ]
            events += self._wakes(seq)
        events += [
            Event(at, kind, f"{handler}: {reason}" if handler else reason)
            for kind, at, handler, reason in self._connection.execute(
                "SELECT kind, at, handler, reason FROM quarantine WHERE message_id = ?", (message_id,)
            )
        ]
        return sorted(events, key=lambda event: event.at)

    def _wakes(self, seq: int) -> Iterator[Event]:
        rows = self._connection.execute(
            "SELECT at, through, ended, outcome FROM wakes WHERE seq = ? ORDER BY id", (seq,)
        )
        for at, through, ended, outcome in rows:
            if through is None:
                yield Event(at, "no wake", outcome)
                continue
            yield Event(at, "wake", "begins")
            if ended is not None:
                yield Event(ended, "wake", outcome)

    def ids_like(self, beginning: str, limit: int) -> list[str]:
        """Ids of messages we know that begin with this, at most ``limit`` of them."""
        # A range, not LIKE: the indexes of the unique columns serve it.
        end = beginning + chr(0x10FFFF)
        rows = self._connection.execute(
            "SELECT id FROM inbound WHERE id >= :begin AND id < :end"
            " UNION SELECT id FROM outbound WHERE id >= :begin AND id < :end"
            " UNION SELECT message_id FROM quarantine WHERE message_id >= :begin AND message_id < :end"
            " LIMIT :limit",
            {"begin": beginning, "end": end, "limit": limit},
        )
        return [row[0] for row in rows]

    def conversation(self, peer: str | None = None, since: float | None = None) -> Iterator[Turn]:
        """Messages in both directions, in the order in which we had them.

        Args:
            peer: Only with this agent (what it broadcast included); None for all.
            since: Unix time in seconds; None for everything.
        """
        return self._turns(
            "received >= :since AND (:peer IS NULL OR sender = :peer)",
            "queued >= :since AND (:peer IS NULL OR recipient = :peer)",
            {"since": since or 0.0, "peer": peer},
        )

    def thread(self, message_id: str) -> list[Turn]:
        """The messages that answer each other and are one thread with this one, in order of time.

        Those are joined by ``in_reply_to``, or share the name that a peer gave the ``thread``; empty if we
        do not know the message.
        """
        ids = self._thread_ids(message_id)
        chosen = "id IN (SELECT value FROM json_each(:ids))"
        return list(self._turns(chosen, chosen, {"ids": json.dumps(sorted(ids))}))

    def _thread_ids(self, message_id: str) -> Collection[str]:
        rows = self._connection.execute(
            "SELECT id, json_extract(extra, '$.in_reply_to'), json_extract(extra, '$.thread') FROM inbound"
            " WHERE id = :id OR extra LIKE '%\"in_reply_to\"%' OR extra LIKE '%\"thread\"%' UNION ALL"
            " SELECT id, json_extract(envelope, '$.in_reply_to'), json_extract(envelope, '$.thread')"
            " FROM outbound"
            " WHERE id = :id OR envelope LIKE '%\"in_reply_to\"%' OR envelope LIKE '%\"thread\"%'",
            {"id": message_id},
        )
        neighbours: dict[tuple[str, object], set[tuple[str, object]]] = {}
        for known, answers, thread in rows:
            here = ("message", known)
            neighbours.setdefault(here, set())
            for there in (("message", answers), ("thread", thread)):
                if there[1] is not None:
                    neighbours[here].add(there)
                    neighbours.setdefault(there, set()).add(here)
        found: set[tuple[str, object]] = set()
        next_ones: list[tuple[str, object]] = [("message", message_id)]
        while next_ones:
            here = next_ones.pop()
            if here not in found:
                found.add(here)
                next_ones += neighbours.get(here, ())
        return {str(name) for kind, name in found if kind == "message"}

    def _turns(self, of_inbound: str, of_outbound: str, values: dict[str, Any]) -> Iterator[Turn]:
        rows = self._connection.execute(
            "SELECT received, 0, sender, json_object('id', id, 'from', sender, 'to', recipient, 'ts', ts,"  # noqa: S608
            " 'subject', subject, 'body', body, 'content_type', content_type, 'priority', priority,"
            " 'reply_to', reply_to, 'verified', verified, 'extra', json(extra)) FROM inbound"
            f" WHERE {of_inbound}"
            " UNION ALL SELECT queued, 1, recipient, envelope FROM outbound"
            f" WHERE {of_outbound} ORDER BY 1",
            values,
        )
        for at, outgoing, other, fields in rows:
            envelope = json.loads(fields)
            if not outgoing:
                # What a peer calls its own keys must not pass for what we know.
                envelope = (envelope.pop("extra") or {}) | envelope
                envelope["verified"] = bool(envelope["verified"])
            yield Turn(at, bool(outgoing), other, envelope)
