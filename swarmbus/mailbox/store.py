"""The mailbox file: opening, schema, transactions, and SQLite's errors in our words.

WAL with ``synchronous=NORMAL``: a commit outlives this process at once, and a power cut after `Mailbox.sync`,
which does what ``FULL`` does at each commit (sqlite.org/pragma.html), but when we choose.
The listener daemon, ``read``, ``send`` and doctor open the same file side by side.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from swarmbus.errors import MailboxError, StorageError, SwarmbusError
from swarmbus.mailbox.acknowledgements import Acknowledgements
from swarmbus.mailbox.cursors import Cursors
from swarmbus.mailbox.history import History
from swarmbus.mailbox.inbound import Inbound
from swarmbus.mailbox.outbound import OutboundSpool
from swarmbus.mailbox.peers import Peers
from swarmbus.mailbox.quarantine import Quarantine
from swarmbus.mailbox.records import StoredMessage
from swarmbus.mailbox.wakes import TABLE as WAKES
from swarmbus.mailbox.wakes import Wakes

SCHEMA_VERSION = 1

_APPLICATION_ID = 0x53574D42  # "SWMB": file(1) and we tell the file from another program's
_BUSY_TIMEOUT_S = 10.0

_sync_data = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync

_SCHEMA = """
CREATE TABLE inbound (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    sender TEXT NOT NULL,
    recipient TEXT NOT NULL,
    ts TEXT NOT NULL,
    subject TEXT NOT NULL,
    body TEXT NOT NULL,
    content_type TEXT NOT NULL,
    priority TEXT NOT NULL,
    reply_to TEXT,
    extra TEXT,
    verified INTEGER NOT NULL,
    received REAL NOT NULL,
    seen REAL,
    seen_told INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX inbound_to_tell ON inbound (seq) WHERE seen IS NOT NULL AND seen_told = 0;

CREATE TABLE outbound (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    recipient TEXT NOT NULL,
    envelope TEXT NOT NULL,
    queued REAL NOT NULL,
    accepted REAL,
    stored REAL,
    seen REAL,
    failed REAL,
    failure TEXT,
    reason TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    done INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX outbound_open ON outbound (seq) WHERE done = 0;

CREATE TABLE cursors (
    consumer TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    last_error TEXT
) WITHOUT ROWID;

CREATE TABLE handled (
    seq INTEGER NOT NULL,
    handler TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (seq, handler)
) WITHOUT ROWID;

CREATE TABLE canaries (
    id TEXT PRIMARY KEY,
    sender TEXT NOT NULL,
    received REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    at REAL NOT NULL,
    topic TEXT NOT NULL,
    reason TEXT NOT NULL,
    payload BLOB NOT NULL,
    message_id TEXT,
    handler TEXT
);

CREATE TABLE peers (
    agent TEXT PRIMARY KEY,
    wire INTEGER,
    at REAL NOT NULL
) WITHOUT ROWID;
"""


class Mailbox:
    """An open mailbox; made by `Mailbox.open`, a context manager.

    Not for use from several threads at once. Its parts: `inbound`, `outbound`, `cursors`,
    `acknowledgements`, `quarantine`, `peers`, `wakes`, `history`.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._log: int | None = None
        self.inbound = Inbound(connection)
        self.outbound = OutboundSpool(connection)
        self.cursors = Cursors(connection)
        self.acknowledgements = Acknowledgements(connection, self.cursors, self.inbound)
        self.quarantine = Quarantine(connection)
        self.peers = Peers(connection)
        self.wakes = Wakes(connection)
        self.history = History(connection)

    @classmethod
    def open(cls, path: Path, *, create: bool = True) -> Mailbox:
        """Open the mailbox, making folder (0700) and file (0600) where absent.

        Args:
            path: The file.
            create: If False, a missing file is an error.

        Raises:
            MailboxError: If the file is damaged, is another program's, or has a newer schema.
            StorageError: If it cannot be opened, made or written.
        """
        try:
            if create:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _make(path)
            elif not path.exists():
                raise StorageError(
                    f"there is no mailbox at {path}", hint="nothing was received or sent here yet"
                )
        except OSError as error:
            raise StorageError(
                f"cannot open the mailbox {path}: {error.strerror}",
                hint="check the owner and mode of that folder, and free space (df -h)",
            ) from error
        with _in_our_words(path):
            connection = sqlite3.connect(
                path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(path, connection)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was committed stays."""
        self._connection.close()
        if self._log is not None:
            os.close(self._log)
            self._log = None

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[None]:
        """All or nothing; not to be nested.

        Args:
            durable: Whether it is on the disk when the block is left; if not, call `sync`.

        Raises:
            StorageError: If it could not be written; nothing of the block is kept.
            MailboxError: If the file is damaged.
        """
        with _in_our_words(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            before = self._connection.total_changes
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # A full disk may have rolled back by itself (sqlite.org/lang_transaction.html, 3.1).
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        if durable and self._connection.total_changes > before:
            self.sync()

    def sync(self) -> None:
        """Have the disk hold what was committed; may be called from another thread.

        Raises:
            StorageError: If the disk does not take it.
        """
        try:
            # Any descriptor of the file does, for fsync(2) is about the file; and the file stays the same
            # one as long as we have the database open (sqlite.org/walformat.html, 1).
            if self._log is None:
                self._log = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
                _sync_folder(self.path.parent)
            _sync_data(self._log)
        except OSError as error:
            raise StorageError(
                f"cannot write the mailbox {self.path}: {error.strerror}",
                hint="check free space (df -h), and the owner and mode of the file",
            ) from error

    def take(self, consumer: str, limit: int, *, peek: bool = False) -> list[StoredMessage]:
        """The next messages for a consumer (`Inbound.take`), in a transaction of its own."""
        with self.transaction():
            return self.inbound.take(consumer, limit, peek=peek)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """For reads outside a transaction: SQLite's errors become `MailboxError` and `StorageError`."""
        with _in_our_words(self.path):
            yield


def _make(path: Path) -> None:
    """Make the file where there is none; one that is there must not even be opened.

    Closing any descriptor of a file drops all locks that this process has on it (fcntl(2)), those of SQLite
    too; the next process to end would take away the log under our feet (sqlite.org/howtocorrupt.html, 2.2).
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        # SQLite would open what cannot be written for reading, and say so at the first write.
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from None
        if not os.access(path, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")  # one look at all three: somebody may be making them
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    connection.execute("COMMIT")
    # Ours has all three from one transaction, or, before that, none of them.
    if application != (_APPLICATION_ID if version or tables else 0):
        raise MailboxError(f"{path} is another program's database", hint="move it away")
    if version > SCHEMA_VERSION:
        raise MailboxError(
            f"the mailbox {path} has schema {version}, this release knows {SCHEMA_VERSION}",
            hint="it was written by a newer swarmbus: upgrade this one",
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA cache_size = -1024")  # KiB: an idle listener is a small one
    if version == SCHEMA_VERSION and _has_wakes(connection):
        return
    connection.execute("BEGIN IMMEDIATE")
    # Somebody else may have made it while we waited for the lock.
    if connection.execute("PRAGMA user_version").fetchone() == (0,):
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    for statement in WAKES.split(";"):
        connection.execute(statement)
    connection.execute("COMMIT")


def _has_wakes(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'wakes'").fetchone() is not None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _in_our_words(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _translated(path, error) from error


def _translated(path: Path, error: sqlite3.Error) -> SwarmbusError:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return MailboxError(
            f"the mailbox {path} is damaged: {error}",
            hint=f"move it away (mv {path} {path}.damaged) to start a new one; sqlite3 can .recover the old",
        )
    if name.startswith("SQLITE_BUSY"):
        return StorageError(
            f"the mailbox {path} stayed locked for {_BUSY_TIMEOUT_S:.0f} s",
            hint=f"see who holds it: fuser {path}",
        )
    return StorageError(
        f"cannot write the mailbox {path}: {error}",
        hint="check free space (df -h), and the owner and mode of the file",
    )
