"""What could not be taken as a message, or not be handled: kept, counted, shown, never in the way."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Final

from swarmbus.mailbox.records import Quarantined

MAX_KEPT: Final = 10_000
"""Entries; beyond it the oldest unreadable ones go, so that a flood of rubbish cannot fill the disk."""

MAX_PAYLOAD: Final = 128 * 1024
"""Bytes of a payload that are kept."""


class Quarantine:
    """Methods that write are called inside `Mailbox.transaction`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add(
        self,
        kind: str,
        *,
        topic: str,
        reason: str,
        payload: bytes,
        message_id: str | None = None,
        handler: str | None = None,
    ) -> None:
        """Keep one."""
        self._connection.execute(
            "INSERT INTO quarantine (kind, at, topic, reason, payload, message_id, handler)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (kind, time.time(), topic, reason, payload[:MAX_PAYLOAD], message_id, handler),
        )
        self._connection.execute(
            "DELETE FROM quarantine WHERE kind = 'unreadable' AND id <= (SELECT max(id) FROM quarantine) - ?",
            (MAX_KEPT,),
        )

    def list(self) -> list[Quarantined]:
        """All, oldest first."""
        rows = self._connection.execute(
            "SELECT id, kind, at, topic, reason, payload, message_id, handler FROM quarantine ORDER BY id"
        )
        return [Quarantined(*row) for row in rows]

    def count(self) -> int:
        """How many there are."""
        (count,) = self._connection.execute("SELECT count(*) FROM quarantine").fetchone()
        return int(count)

    def dead_letters(self, handler: str) -> int:
        """How many messages a handler has failed on for good."""
        (count,) = self._connection.execute(
            "SELECT count(*) FROM quarantine WHERE kind = 'dead-letter' AND handler = ?", (handler,)
        ).fetchone()
        return int(count)

    def get(self, entry_id: int) -> Quarantined | None:
        """One entry, None if there is none of that number."""
        return next((entry for entry in self.list() if entry.id == entry_id), None)

    def drop(self, ids: Sequence[int] | None = None) -> int:
        """Forget entries, None for all; returns how many."""
        if ids is None:
            return self._connection.execute("DELETE FROM quarantine").rowcount
        return sum(
            self._connection.execute("DELETE FROM quarantine WHERE id = ?", (entry_id,)).rowcount
            for entry_id in ids
        )
