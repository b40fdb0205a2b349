"""A look into an agent's mailbox that changes not one byte of it, whether its listener daemon runs or not.

`Mailbox.open` may create, checkpoint and migrate; a check must do none of these.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from swarmbus.mailbox.store import SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class Pile:
    """Entries of the quarantine that are alike.

    Attributes:
        kind: As in `swarmbus.mailbox.Quarantined`.
        handler: Of dead letters, whose; else None.
        latest: Unix time of the newest.
        reason: Of the newest.
    """

    kind: str
    handler: str | None
    count: int
    latest: float
    reason: str


@dataclass(frozen=True, slots=True)
class Stuck:
    """Messages to one receiver that are alike.

    Attributes:
        state: ``waiting``, or how they were given up.
        oldest: Unix time at which the oldest was queued.
        reason: Of one of them; None where none is known.
    """

    to: str
    state: str
    count: int
    oldest: float
    reason: str | None


@dataclass(frozen=True, slots=True)
class Loop:
    """Messages of one sender that woke nobody, for they went round in circles.

    Attributes:
        latest: Id of the newest.
        reason: Of that.
    """

    sender: str
    count: int
    latest: str
    reason: str


@dataclass(frozen=True, slots=True)
class MailboxSeen:
    """What a look has shown.

    Attributes:
        present: Whether there is a file at all.
        damage: Why it cannot be used, in words; None if it can.
        newer_schema: Whether that is because a newer release wrote it.
        loops: Of the last hour.
    """

    present: bool = True
    damage: str | None = None
    newer_schema: bool = False
    quarantine: tuple[Pile, ...] = ()
    undelivered: tuple[Stuck, ...] = ()
    loops: tuple[Loop, ...] = ()


def look_into_mailbox(path: Path) -> MailboxSeen:
    """Look.

    Raises:
        OSError: If the file cannot be read, which says nothing about its content.
    """
    if not path.exists():
        return MailboxSeen(present=False)
    with path.open("rb"):
        pass  # EACCES is told apart here; SQLite only says "unable to open database file"
    try:
        with closing(_open(path)) as connection:
            return _look(connection)
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN", "SQLITE_IOERR")):
            raise OSError(f"cannot read {path}: {error}") from error
        return MailboxSeen(damage=str(error))


def _open(path: Path) -> sqlite3.Connection:
    # SQLite would make a write-ahead log and its index where there are none, and leave them behind
    # (sqlite.org/wal.html, "Read-Only Databases"); with no log, the file itself holds everything.
    log = path.with_name(f"{path.name}-wal")
    immutable = "" if log.exists() and log.stat().st_size else "&immutable=1"
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro{immutable}", uri=True, timeout=1.0)


def _look(connection: sqlite3.Connection) -> MailboxSeen:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        return MailboxSeen(
            damage=f"has schema {version}, this release knows {SCHEMA_VERSION}", newer_schema=True
        )
    if version == 0:
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return MailboxSeen(damage="is another program's database" if tables else None)
    piles = connection.execute(
        # Of the row with the max(): sqlite.org/lang_select.html, "Bare columns in an aggregate query".
        "SELECT kind, handler, count(*), max(at), reason FROM quarantine"
        " GROUP BY kind, handler ORDER BY 4 DESC"
    )
    stuck = connection.execute(
        "SELECT recipient, coalesce(failure, 'waiting') AS state, count(*), min(queued), max(reason)"
        " FROM outbound WHERE done = 0 OR failed IS NOT NULL GROUP BY recipient, state ORDER BY 4"
    )
    return MailboxSeen(
        quarantine=tuple(Pile(*row) for row in piles),
        undelivered=tuple(Stuck(*row) for row in stuck),
        loops=_loops(connection),
    )


def _loops(connection: sqlite3.Connection) -> tuple[Loop, ...]:
    # The table is beside the schema: a mailbox that no listener of this release has opened has none.
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'wakes'").fetchone():
        return ()
    rows = connection.execute(
        "SELECT passed.sender, count, inbound.id, outcome FROM"
        " (SELECT sender, count(*) AS count, max(seq) AS seq, outcome FROM wakes"
        "  WHERE through IS NULL AND at > ? AND (outcome LIKE ? OR outcome LIKE ?) GROUP BY sender) AS passed"
        " JOIN inbound USING (seq) ORDER BY count DESC",
        (time.time() - 3600.0, "hop %, wake_hops is %", "%, wake_pair_hourly allows no more"),
    )
    return tuple(Loop(*row) for row in rows)
