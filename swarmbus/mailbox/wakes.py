"""The ledger of wakes: which message woke the agent, which did not and why, and how each wake ended."""

from __future__ import annotations

import sqlite3
import time

# Beside the numbered schema: a release that does not know the table is not disturbed by it.
TABLE = """
CREATE TABLE IF NOT EXISTS wakes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    seq INTEGER NOT NULL,
    sender TEXT NOT NULL,
    at REAL NOT NULL,
    through INTEGER,
    ended REAL,
    outcome TEXT
);
CREATE INDEX IF NOT EXISTS wakes_of_message ON wakes (seq);
CREATE INDEX IF NOT EXISTS wakes_that_ran ON wakes (at) WHERE through IS NOT NULL
"""


class Wakes:
    """Methods that write are called inside `Mailbox.transaction`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def begin(self, seq: int, sender: str) -> int:
        """A wake for one message, and for all that are in the mailbox now; returns its number."""
        cursor = self._connection.execute(
            "INSERT INTO wakes (seq, sender, at, through) SELECT ?, ?, ?, max(seq) FROM inbound",
            (seq, sender, time.time()),
        )
        return int(cursor.lastrowid or 0)

    def end(self, number: int, outcome: str) -> None:
        """How a wake ended."""
        self._connection.execute(
            "UPDATE wakes SET ended = ?, outcome = ? WHERE id = ?", (time.time(), outcome, number)
        )

    def pass_over(self, seq: int, sender: str, reason: str) -> None:
        """A message does not wake, and why."""
        now = time.time()
        self._connection.execute(
            "INSERT INTO wakes (seq, sender, at, ended, outcome) VALUES (?, ?, ?, ?, ?)",
            (seq, sender, now, now, reason),
        )

    def running(self, seq: int) -> int | None:
        """The number of this message's wake that nobody has seen the end of."""
        row = self._connection.execute(
            "SELECT id FROM wakes WHERE seq = ? AND through IS NOT NULL AND ended IS NULL"
            " ORDER BY id DESC LIMIT 1",
            (seq,),
        ).fetchone()
        return None if row is None else int(row[0])

    def is_covered(self, seq: int) -> bool:
        """Whether a wake for an earlier message began when this one was there already."""
        row = self._connection.execute(
            "SELECT 1 FROM wakes WHERE through >= ? AND seq < ? AND ended IS NOT NULL LIMIT 1", (seq, seq)
        ).fetchone()
        return row is not None

    def count_since(self, at: float, sender: str | None = None) -> int:
        """How many wakes began since then, for messages of one sender or of all."""
        (count,) = self._connection.execute(
            "SELECT count(*) FROM wakes WHERE through IS NOT NULL AND at >= ? AND (? IS NULL OR sender = ?)",
            (at, sender, sender),
        ).fetchone()
        return int(count)

    def last_end(self) -> float:
        """When the last wake ended, Unix time; 0 if there was none."""
        (ended,) = self._connection.execute(
            "SELECT max(ended) FROM (SELECT ended FROM wakes WHERE through IS NOT NULL"
            " ORDER BY id DESC LIMIT 10)"
        ).fetchone()
        return float(ended or 0.0)
