"""A copy of a mailbox before a newer schema takes it over, and the way back with what came since."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from swarmbus.errors import StorageError

_MESSAGES = ("inbound", "outbound")
"""Tables whose rows have a unique ``id``, and must not be lost whichever schema wrote them."""


def schema_of(mailbox: Path) -> int | None:
    """Its number; None if there is no mailbox."""
    if not mailbox.exists():
        return None
    with closing(sqlite3.connect(f"file:{quote(str(mailbox))}?mode=ro", uri=True)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def back_up(mailbox: Path, copy: Path) -> None:
    """Write ``copy`` (0600), whole or not at all; nobody should be writing to the mailbox meanwhile.

    Raises:
        StorageError: If it cannot be written.
    """
    partial = copy.with_name(f"{copy.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        with closing(sqlite3.connect(mailbox)) as source, closing(sqlite3.connect(partial)) as target:
            source.backup(target)
        partial.rename(copy)
    except (sqlite3.Error, OSError) as error:
        partial.unlink(missing_ok=True)
        raise StorageError(f"cannot back {mailbox} up: {error}", hint="check free space (df -h)") from error


def bring_back(copy: Path, mailbox: Path) -> int:
    """Put the copy in the place of the mailbox, and into it the messages that came after it was made.

    The listener must not run. The mailbox of the newer schema stays beside it as ``mailbox.db.newer``.

    Returns:
        How many messages were carried over.

    Raises:
        StorageError: If it could not be done; the mailbox is then as it was.
    """
    newer = mailbox.with_name(f"{mailbox.name}.newer")
    joined = mailbox.with_name(f"{mailbox.name}.joined")
    try:
        back_up(mailbox, newer)
        back_up(copy, joined)
        with closing(sqlite3.connect(joined, isolation_level=None)) as connection:
            connection.execute("ATTACH ? AS newer", (str(newer),))
            connection.execute("BEGIN IMMEDIATE")
            carried = sum(_carry(connection, table) for table in _MESSAGES)
            connection.execute("COMMIT")
        for suffix in ("-wal", "-shm"):
            mailbox.with_name(f"{mailbox.name}{suffix}").unlink(missing_ok=True)
        joined.rename(mailbox)
    except (sqlite3.Error, OSError) as error:
        joined.unlink(missing_ok=True)
        raise StorageError(f"cannot bring {mailbox} back: {error}", hint=f"the copy is {copy}") from error
    return carried


def _carry(connection: sqlite3.Connection, table: str) -> int:
    """Rows of the newer one whose id the older does not have, as far as both know their columns."""
    older, newer = (
        [row[1] for row in connection.execute(f"PRAGMA {name}.table_info({table})")]
        for name in ("main", "newer")
    )
    both = ", ".join(column for column in older if column in newer)
    if not both:
        return 0
    done = connection.execute(
        f"INSERT INTO main.{table} ({both}) SELECT {both} FROM newer.{table}"  # noqa: S608  # our own names
        f" WHERE id NOT IN (SELECT id FROM main.{table})"
    )
    return done.rowcount
