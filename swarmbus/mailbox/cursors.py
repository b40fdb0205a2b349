"""How far each handler has come, and what it met there.

Readers (``read``, ``watch``, the MCP server) and handlers share the table; a handler's consumer name is its
own name with ``handler:`` before it, so that ``--consumer`` cannot move one.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

HANDLER: Final = "handler:"
"""Begins the consumer name of every handler, and of nobody else."""


@dataclass(frozen=True, slots=True)
class HandlerCursor:
    """Where a handler stands.

    Attributes:
        seq: The last message it is done with.
        attempts: How often it has failed on the next one.
        last_error: What it said the last time it failed; None after a success.
    """

    seq: int
    attempts: int
    last_error: str | None


class Cursors:
    """Methods that write are called inside `Mailbox.transaction`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @staticmethod
    def name_of(handler: str) -> str:
        """The consumer name of a handler, which no reader can have."""
        return f"{HANDLER}{handler}"

    def register(self, handler: str) -> None:
        """Give a handler that is new a cursor; it begins with the messages that come from now on."""
        self._connection.execute(
            "INSERT OR IGNORE INTO cursors (consumer, seq) SELECT ?, coalesce(max(seq), 0) FROM inbound",
            (self.name_of(handler),),
        )

    def of(self, handler: str) -> HandlerCursor:
        """Where a registered handler stands."""
        row = self._connection.execute(
            "SELECT seq, attempts, last_error FROM cursors WHERE consumer = ?",
            (self.name_of(handler),),
        ).fetchone()
        return HandlerCursor(*row)

    def advance(self, handler: str, seqs: Sequence[int]) -> None:
        """The handler is done with these, the last of which is where it now stands."""
        now = time.time()
        consumer = self.name_of(handler)
        self._connection.execute(
            "UPDATE cursors SET seq = ?, attempts = 0, last_error = NULL WHERE consumer = ?",
            (seqs[-1], consumer),
        )
        self._connection.executemany(
            "INSERT OR REPLACE INTO handled (seq, handler, at) VALUES (?, ?, ?)",
            [(seq, handler, now) for seq in seqs],
        )

    def handled(self, handler: str, seq: int) -> None:
        """The handler is done with one that it had passed over; where it stands does not change."""
        self._connection.execute(
            "INSERT OR REPLACE INTO handled (seq, handler, at) VALUES (?, ?, ?)", (seq, handler, time.time())
        )

    def failed(self, handler: str, attempts: int, error: str) -> None:
        """The handler failed on the next message and is to try again."""
        self._connection.execute(
            "UPDATE cursors SET attempts = ?, last_error = ? WHERE consumer = ?",
            (attempts, error, self.name_of(handler)),
        )

    def give_up(self, handler: str, seq: int, error: str) -> None:
        """Pass over one message; the dead letter is the caller's to record."""
        self._connection.execute(
            "UPDATE cursors SET seq = ?, attempts = 0, last_error = ? WHERE consumer = ?",
            (seq, error, self.name_of(handler)),
        )
