"""Readers that acknowledge: what they were given stays theirs until they say, id by id, that they are done.

Such a reader has a handler's cursor (`Cursors`), below which it is done with everything; of what is above,
``handled`` says what it is done with. One cursor serves all processes that read for the same reader.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Sequence

from swarmbus.mailbox.cursors import Cursors
from swarmbus.mailbox.inbound import Inbound
from swarmbus.mailbox.records import StoredMessage

_PENDING = (
    "SELECT seq FROM inbound WHERE seq > :cursor AND seq NOT IN"
    " (SELECT seq FROM handled WHERE handler = :reader AND seq > :cursor) ORDER BY seq"
)


class Acknowledgements:
    """Methods that write are called inside `Mailbox.transaction`."""

    def __init__(self, connection: sqlite3.Connection, cursors: Cursors, inbound: Inbound) -> None:
        self._connection = connection
        self._cursors = cursors
        self._inbound = inbound

    def begin(self, reader: str) -> None:
        """Give a reader that is new a cursor; it begins with what the agent has not seen by any way."""
        row = self._connection.execute(
            "SELECT 1 FROM cursors WHERE consumer = ?", (self._cursors.name_of(reader),)
        ).fetchone()
        if row is not None:
            return
        self._cursors.register(reader)
        self._connection.execute(
            "UPDATE cursors SET seq = coalesce((SELECT min(seq) - 1 FROM inbound WHERE seen IS NULL), seq)"
            " WHERE consumer = ?",
            (self._cursors.name_of(reader),),
        )
        self._connection.execute(
            "INSERT OR IGNORE INTO handled (seq, handler, at) SELECT seq, ?, seen FROM inbound"
            " WHERE seq > ? AND seen IS NOT NULL",
            (reader, self._cursors.of(reader).seq),
        )

    def pending(self, reader: str, limit: int, *, without: Collection[int] = ()) -> list[StoredMessage]:
        """What the reader is not done with, oldest first.

        Args:
            reader: One that has a cursor.
            limit: How many at most.
            without: Places of messages to pass over.
        """
        found: list[StoredMessage] = []
        for (seq,) in self._connection.execute(_PENDING, self._at(reader)):
            if len(found) == limit:
                break
            if seq not in without:
                found += self._inbound.after(seq - 1, 1)
        return found

    def count(self, reader: str) -> int:
        """How many messages the reader is not done with."""
        # Places are given without gaps and never taken back, as `Inbound.unread` has it.
        cursor = self._cursors.of(reader).seq
        (done,) = self._connection.execute(
            "SELECT count(*) FROM handled WHERE handler = ? AND seq > ?", (reader, cursor)
        ).fetchone()
        return self._inbound.last_seq() - cursor - int(done)

    def acknowledge(self, reader: str, message_ids: Sequence[str]) -> list[str]:
        """The reader is done with these, and the agent has seen them.

        Returns:
            The ids among them that were pending.
        """
        done: list[str] = []
        cursor = self._cursors.of(reader).seq
        for message_id in dict.fromkeys(message_ids):
            message = self._inbound.get(message_id)
            if message is None or message.seq <= cursor:
                continue
            added = self._connection.execute(
                "INSERT OR IGNORE INTO handled (seq, handler, at) VALUES (?, ?, ?)",
                (message.seq, reader, time.time()),
            )
            if added.rowcount:
                done.append(message_id)
        self._inbound.mark_seen(done)
        self._close_gap(reader)
        return done

    def _close_gap(self, reader: str) -> None:
        """Move the cursor up to the first message that the reader is not done with."""
        first = self._connection.execute(f"{_PENDING} LIMIT 1", self._at(reader)).fetchone()
        seq = self._inbound.last_seq() if first is None else first[0] - 1
        self._connection.execute(
            "UPDATE cursors SET seq = ? WHERE consumer = ?", (seq, self._cursors.name_of(reader))
        )

    def _at(self, reader: str) -> dict[str, object]:
        return {"cursor": self._cursors.of(reader).seq, "reader": reader}
