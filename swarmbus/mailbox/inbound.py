"""Messages that came in: stored once by id, read by each consumer after its own cursor."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from swarmbus.errors import UsageError
from swarmbus.mailbox.cursors import HANDLER
from swarmbus.mailbox.records import StoredMessage

if TYPE_CHECKING:
    from swarmbus.envelope import AgentMessage

AGENT: Final = "default"
"""The consumer that is the agent itself: what it takes is ``seen``; others are onlookers."""

Outcome = Literal["new", "duplicate", "conflict"]

_COLUMNS = (
    "seq, id, sender, recipient, ts, subject, body, content_type, priority, reply_to, extra, verified, "
    "received, seen"
)
# Below SQLITE_MAX_VARIABLE_NUMBER of every SQLite we run on.
_IDS_AT_ONCE = 500


class Inbound:
    """Methods that write are called inside `Mailbox.transaction`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def store(self, messages: Sequence[AgentMessage], received: float) -> list[Outcome]:
        """Store what is new.

        Args:
            messages: In order of arrival; the same id may occur twice among them.
            received: Unix time in seconds.

        Returns:
            For each message: ``new``, ``duplicate`` (stored before, same content) or ``conflict`` (an id
            that is stored with other content).
        """
        known = self._content_by_id([message.id for message in messages])
        outcomes: list[Outcome] = []
        rows: list[tuple[Any, ...]] = []
        for message in messages:
            content = (message.from_agent, message.to, message.subject, message.body)
            if (stored := known.get(message.id)) is not None:
                outcomes.append("duplicate" if stored == content else "conflict")
                continue
            known[message.id] = content
            outcomes.append("new")
            rows.append(
                (
                    message.id,
                    message.from_agent,
                    message.to,
                    message.ts.isoformat(),
                    message.subject,
                    message.body,
                    message.content_type,
                    message.priority,
                    message.reply_to,
                    message.extra_json(),
                    message.verified,
                    received,
                )
            )
        self._connection.executemany(
            "INSERT INTO inbound (id, sender, recipient, ts, subject, body, content_type, priority, reply_to,"
            " extra, verified, received) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        return outcomes

    def store_canary(self, message_id: str, sender: str, received: float) -> None:
        """Record a canary where no reader sees it."""
        self._connection.execute(
            "INSERT OR IGNORE INTO canaries (id, sender, received) VALUES (?, ?, ?)",
            (message_id, sender, received),
        )

    def forget_canary(self, message_id: str) -> None:
        """Remove a canary once its sender has been told."""
        self._connection.execute("DELETE FROM canaries WHERE id = ?", (message_id,))

    def take(self, consumer: str, limit: int, *, peek: bool = False) -> list[StoredMessage]:
        """The next messages for a consumer, oldest first.

        Args:
            consumer: Whose cursor; one that is new begins at the oldest message.
            limit: How many at most.
            peek: Leave the cursor, and the messages unseen.

        Raises:
            UsageError: If the consumer is called like a handler's cursor.
        """
        if consumer.startswith(HANDLER):
            raise UsageError(f"{consumer!r} is a handler's own cursor", hint="choose another --consumer")
        messages = self.after(self._cursor(consumer), limit)
        if peek or not messages:
            return messages
        self._connection.execute(
            "INSERT INTO cursors (consumer, seq) VALUES (?, ?)"
            " ON CONFLICT (consumer) DO UPDATE SET seq = max(seq, excluded.seq)",
            (consumer, messages[-1].seq),
        )
        if consumer == AGENT:
            self._connection.executemany(
                "UPDATE inbound SET seen = ? WHERE seq = ? AND seen IS NULL",
                [(time.time(), message.seq) for message in messages],
            )
        return messages

    def after(self, seq: int, limit: int) -> list[StoredMessage]:
        """Messages later than ``seq``, oldest first."""
        rows = self._connection.execute(
            f"SELECT {_COLUMNS} FROM inbound WHERE seq > ? ORDER BY seq LIMIT ?",  # noqa: S608  # constant
            (seq, limit),
        )
        return [_message(row) for row in rows]

    def get(self, message_id: str) -> StoredMessage | None:
        """One message by its id, None if it never came."""
        row = self._connection.execute(
            f"SELECT {_COLUMNS} FROM inbound WHERE id = ?",  # noqa: S608
            (message_id,),
        ).fetchone()
        return None if row is None else _message(row)

    def unread(self, consumer: str) -> int:
        """How many messages a consumer has not taken."""
        # Places are given without gaps and never taken back: no counting of a million rows.
        return self.last_seq() - self._cursor(consumer)

    def has_unread(self, consumer: str) -> bool:
        """Whether a consumer has anything to take."""
        return self.unread(consumer) > 0

    def last_seq(self) -> int:
        """The latest message's place, 0 in an empty mailbox."""
        (last,) = self._connection.execute("SELECT max(seq) FROM inbound").fetchone()
        return int(last or 0)

    def mark_seen(self, message_ids: Sequence[str]) -> None:
        """Record that the agent has read these by another way (the inbox file)."""
        now = time.time()
        self._connection.executemany(
            "UPDATE inbound SET seen = ? WHERE id = ? AND seen IS NULL",
            [(now, message_id) for message_id in message_ids],
        )

    def seen_to_tell(self, limit: int = 1000) -> list[tuple[int, str, str, bool]]:
        """Messages that were seen and whose senders do not know yet.

        Returns:
            For each its seq, id, sender, and whether that sender takes receipts (its wire is ours).
        """
        return self._connection.execute(
            "SELECT seq, id, sender,"
            " coalesce(json_extract(extra, '$.wire'), 0) >= 1 AND recipient <> 'broadcast'"
            " FROM inbound WHERE seen IS NOT NULL AND seen_told = 0 ORDER BY seq LIMIT ?",
            (limit,),
        ).fetchall()

    def told(self, seqs: Sequence[int]) -> None:
        """Record that the senders of these know they were seen."""
        self._connection.executemany(
            "UPDATE inbound SET seen_told = 1 WHERE seq = ?", [(seq,) for seq in seqs]
        )

    def _cursor(self, consumer: str) -> int:
        row = self._connection.execute("SELECT seq FROM cursors WHERE consumer = ?", (consumer,)).fetchone()
        return 0 if row is None else int(row[0])

    def _content_by_id(self, ids: Sequence[str]) -> dict[str, tuple[str, str, str, str]]:
        found: dict[str, tuple[str, str, str, str]] = {}
        for start in range(0, len(ids), _IDS_AT_ONCE):
            some = ids[start : start + _IDS_AT_ONCE]
            marks = ",".join("?" * len(some))
            query = f"SELECT id, sender, recipient, subject, body FROM inbound WHERE id IN ({marks})"  # noqa: S608
            found.update((row[0], row[1:]) for row in self._connection.execute(query, some))
        return found


def _message(row: tuple[Any, ...]) -> StoredMessage:
    values = list(row)
    values[10] = json.loads(values[10]) if values[10] else {}
    values[11] = bool(values[11])
    return StoredMessage(*values)
