"""An archive of every message in a SQLite file that any tool can query.

::

    sqlite3 archive.db "select ts, from_agent, subject from messages where priority = 'high' order by ts"
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from swarmbus.errors import StorageError
from swarmbus.handlers.base import BaseHandler
from swarmbus.journal_file import make_private_folders

if TYPE_CHECKING:
    from swarmbus.envelope import AgentMessage

_COLUMNS: Final = {
    "id": "TEXT PRIMARY KEY",
    "from_agent": "TEXT NOT NULL",
    "to_agent": "TEXT NOT NULL",
    "ts": "TEXT NOT NULL",  # ISO 8601 with zone, the sender's clock
    "subject": "TEXT NOT NULL",
    "body": "TEXT NOT NULL",
    "content_type": "TEXT NOT NULL",
    "priority": "TEXT NOT NULL",
    "reply_to": "TEXT",  # agent to answer; NULL means the sender
    "extra": "TEXT NOT NULL DEFAULT '{}'",  # JSON object: the other keys of the envelope
    "verified": "INTEGER NOT NULL DEFAULT 0",  # 1: the broker vouched for the sender
    "archived_at": "TEXT",  # ISO 8601, UTC; NULL in rows of the existing tool
}
_CREATE: Final = (
    f"CREATE TABLE IF NOT EXISTS messages ({', '.join(' '.join(column) for column in _COLUMNS.items())})"
)
_INSERT: Final = (
    f"INSERT OR IGNORE INTO messages ({', '.join(_COLUMNS)}) "  # noqa: S608  no text but ours
    f"VALUES ({', '.join('?' * len(_COLUMNS))})"
)
_BUSY_SECONDS: Final = 10.0


class SQLiteArchive(BaseHandler):
    """Insert messages into the table ``messages``, one row each; an id that is there is left as it is.

    Args:
        path: ``~`` is expanded; the folders above it are created (0700), and the file (0600).
    """

    batch_size = 256

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path).expanduser().absolute()
        self.name = f"archive:{self.path}"
        self._database: sqlite3.Connection | None = None
        # A call that was cancelled goes on in its thread, and the next one has to wait for it.
        self._turn = threading.Lock()

    async def start(self) -> None:
        """Create file and table, or add to a table of the existing tool the columns it lacks.

        Raises:
            StorageError: If the file cannot be written, is no database, or its table is no archive.
        """
        await asyncio.to_thread(self._run, [])

    async def handle(self, msg: AgentMessage) -> None:
        """Archive one message."""
        await self.handle_many([msg])

    async def handle_many(self, msgs: Sequence[AgentMessage]) -> None:
        """Archive messages in one transaction; they are on the disk when it returns.

        Raises:
            StorageError: If they could not be written; then none was.
        """
        await asyncio.to_thread(self._run, msgs)

    async def close(self) -> None:
        """Close the file."""
        await asyncio.to_thread(self._close)

    def _run(self, msgs: Sequence[AgentMessage]) -> None:
        with self._turn:
            try:
                if self._database is None:
                    self._database = _open(self.path)
                archived_at = datetime.now(UTC).isoformat(timespec="milliseconds")
                with self._database:
                    self._database.executemany(_INSERT, [_row(msg, archived_at) for msg in msgs])
            except (sqlite3.Error, OSError) as error:
                raise StorageError(
                    f"cannot write the archive {self.path}: {error}",
                    hint=f"see owner and mode: ls -l {self.path}",
                ) from error

    def _close(self) -> None:
        with self._turn:
            if self._database is not None:
                self._database.close()
                self._database = None


def _open(path: Path) -> sqlite3.Connection:
    make_private_folders(path.parent)
    # SQLite gives its -wal and -shm files the mode of the database.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    database = sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False)
    try:
        # Readers do not hold us up; FULL, as the mailbox forgets a message when we return.
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute(_CREATE)
        present = {row[1] for row in database.execute("PRAGMA table_info(messages)")}
        for column in _COLUMNS:
            if column not in present:  # an archive of the existing tool has no extra, verified, archived_at
                database.execute(f"ALTER TABLE messages ADD COLUMN {column} {_COLUMNS[column]}")
    except sqlite3.Error:
        database.close()
        raise
    return database


def _row(msg: AgentMessage, archived_at: str) -> tuple[Any, ...]:
    return (
        msg.id,
        msg.from_agent,
        msg.to,
        msg.ts.isoformat(),
        msg.subject,
        msg.body,
        msg.content_type,
        msg.priority,
        msg.reply_to,
        json.dumps(msg.extra),
        int(msg.verified),
        archived_at,
    )
