"""The spool: messages of ours until the receiver has them, and what became of each."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from swarmbus.mailbox.records import Outbound, State

Failure = Literal["no-subscriber", "not-authorized", "rejected", "expired"]

_COLUMNS = (
    "seq, id, recipient, envelope, queued, accepted, stored, seen, failed, failure, reason, attempts, done"
)


class OutboundSpool:
    """Methods that write are called inside `Mailbox.transaction`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add(self, message_id: str, to: str, envelope: str) -> None:
        """Keep a message until the receiver has it; one that is kept already stays as it is."""
        self._connection.execute(
            "INSERT OR IGNORE INTO outbound (id, recipient, envelope, queued) VALUES (?, ?, ?, ?)",
            (message_id, to, envelope, time.time()),
        )

    def get(self, message_id: str) -> Outbound | None:
        """One message by its id, None if we never sent it."""
        return next(iter(self._select("WHERE id = ?", (message_id,))), None)

    def open(self, *, after: int = 0, limit: int = 1000) -> list[Outbound]:
        """Messages about which something is still to be done, oldest first."""
        return self._select("WHERE done = 0 AND seq > ? ORDER BY seq LIMIT ?", (after, limit))

    def undelivered(self) -> list[Outbound]:
        """For ``swarmbus outbox``: what is on its way, and what was given up and not dropped."""
        return self._select("WHERE done = 0 OR failed IS NOT NULL ORDER BY seq", ())

    def count_open(self) -> int:
        """How many messages are still on their way."""
        (count,) = self._connection.execute("SELECT count(*) FROM outbound WHERE done = 0").fetchone()
        return int(count)

    def accepted(self, ids: Iterable[str], *, done: bool) -> None:
        """The broker acknowledged these.

        Args:
            ids: Which.
            done: Whether that is all we shall ever know: the receiver sends no receipts.
        """
        now = time.time()
        self._connection.executemany(
            "UPDATE outbound SET accepted = coalesce(accepted, ?), done = max(done, ?),"
            " attempts = attempts + 1, failed = NULL, failure = NULL, reason = NULL WHERE id = ?",
            [(now, done, message_id) for message_id in ids],
        )

    def receipt(self, kind: Literal["stored", "seen"], ids: Iterable[str], receiver: str) -> None:
        """The receiver says that it has stored, or seen, these; only its own messages count."""
        now = time.time()
        column = "seen" if kind == "seen" else "stored"
        self._connection.executemany(
            f"UPDATE outbound SET {column} = coalesce({column}, ?), stored = coalesce(stored, ?), done = 1,"  # noqa: S608
            " failed = NULL, failure = NULL, reason = NULL"
            " WHERE id = ? AND recipient = ?",
            [(now, now, message_id, receiver) for message_id in ids],
        )

    def defer(self, ids: Iterable[str], reason: str | None) -> None:
        """Not delivered this time, but not given up."""
        self._connection.executemany(
            "UPDATE outbound SET reason = ? WHERE id = ? AND done = 0",
            [(reason, message_id) for message_id in ids],
        )

    def fail(self, ids: Iterable[str], failure: Failure, reason: str) -> None:
        """Give these up; they stay listed until dropped or retried."""
        now = time.time()
        self._connection.executemany(
            "UPDATE outbound SET failed = ?, failure = ?, reason = ?, done = 1"
            " WHERE id = ? AND stored IS NULL",
            [(now, failure, reason, message_id) for message_id in ids],
        )

    def expire(self, before: float) -> list[str]:
        """Give up what was queued before a Unix time and has no receipt; returns the ids."""
        ids = [
            row[0]
            for row in self._connection.execute(
                "SELECT id FROM outbound WHERE done = 0 AND queued < ?", (before,)
            )
        ]
        self.fail(ids, "expired", "no receipt came in the time a message is kept (spool_days)")
        return ids

    def retry(self, ids: Sequence[str] | None = None) -> list[str]:
        """Begin anew with what was given up or waits; None means with all. Returns the ids."""
        ids = self._undelivered_ids(ids)
        self._connection.executemany(
            "UPDATE outbound SET failed = NULL, failure = NULL, reason = NULL, done = 0, accepted = NULL,"
            " queued = ?, attempts = 0 WHERE id = ?",
            [(time.time(), message_id) for message_id in ids],
        )
        return ids

    def drop(self, ids: Sequence[str] | None = None) -> list[str]:
        """Forget what is not delivered; None means all. Returns the ids."""
        ids = self._undelivered_ids(ids)
        self._connection.executemany(
            "DELETE FROM outbound WHERE id = ?", [(message_id,) for message_id in ids]
        )
        return ids

    def _undelivered_ids(self, ids: Sequence[str] | None) -> list[str]:
        undelivered = [message.id for message in self.undelivered()]
        return undelivered if ids is None else [message_id for message_id in undelivered if message_id in ids]

    def _select(self, clause: str, values: tuple[Any, ...]) -> list[Outbound]:
        rows = self._connection.execute(f"SELECT {_COLUMNS} FROM outbound {clause}", values)  # noqa: S608
        return [_outbound(row) for row in rows]


def _outbound(row: tuple[Any, ...]) -> Outbound:
    (
        seq, message_id, to, envelope, queued, accepted, stored, seen, failed, failure, reason, attempts,
        done,
    ) = row  # fmt: skip
    state: State = (
        "seen"
        if seen is not None
        else "stored"
        if stored is not None
        else failure
        if failure is not None
        else "accepted"
        if accepted is not None
        else "queued"
    )
    return Outbound(
        seq=seq,
        id=message_id,
        to=to,
        envelope=envelope,
        state=state,
        queued=queued,
        accepted=accepted,
        stored=stored,
        seen=seen,
        failed=failed,
        reason=reason,
        attempts=attempts,
        done=bool(done),
    )
