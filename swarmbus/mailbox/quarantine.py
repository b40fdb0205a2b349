"""What could not be taken as a message, or not be handled: kept, counted, shown, never in the way."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Final

from swarmbus.mailbox.records import Quarantined

MAX_KEPT: Final = 1_000
"""Entries; beyond it the oldest of what anybody can send go, so that a flood of it cannot fill the disk.
Dead letters stay: they are messages. Together with `MAX_PAYLOAD` this is 128 MiB at the very most."""

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
            "DELETE FROM quarantine WHERE kind IN ('unreadable', 'conflict', 'forged')"
            " AND id <= (SELECT max(id) FROM quarantine) - ?",
            (MAX_KEPT,),
        )

    def list(self) -> list[Quarantined]:
        """All, oldest first."""
        return [*self._select("")]

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

    def give_back(self, ids: Sequence[int]) -> None:
        """Have the handlers of these dead letters try once more."""
        self._connection.executemany(
            "UPDATE quarantine SET kind = 'retry' WHERE id = ? AND kind = 'dead-letter'",
            [(entry_id,) for entry_id in ids],
        )

    def given_back(self, handler: str) -> Sequence[Quarantined]:
        """What a handler is to try once more, oldest first."""
        return [entry for entry in self._select("WHERE kind = 'retry'") if entry.handler == handler]

    def failed_again(self, entry_id: int, reason: str) -> None:
        """What was given back is a dead letter as before."""
        self._connection.execute(
            "UPDATE quarantine SET kind = 'dead-letter', at = ?, reason = ? WHERE id = ?",
            (time.time(), reason, entry_id),
        )

    def drop(self, ids: Sequence[int] | None = None) -> int:
        """Forget entries, None for all; returns how many."""
        if ids is None:
            return self._connection.execute("DELETE FROM quarantine").rowcount
        return sum(
            self._connection.execute("DELETE FROM quarantine WHERE id = ?", (entry_id,)).rowcount
            for entry_id in ids
        )

    def _select(self, clause: str) -> Sequence[Quarantined]:
        columns = "id, kind, at, topic, reason, payload, message_id, handler"
        rows = self._connection.execute(f"SELECT {columns} FROM quarantine {clause} ORDER BY id")  # noqa: S608
        return [Quarantined(*row) for row in rows]
