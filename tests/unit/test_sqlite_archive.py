from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from swarmbus import AgentMessage, SQLiteArchive
from swarmbus.errors import StorageError
from tests.unit.message_samples import message


def archive(path: Path, *messages: AgentMessage) -> None:
    async def run() -> None:
        handler = SQLiteArchive(path)
        await handler.start()
        try:
            await handler.handle_many(messages)
        finally:
            await handler.close()

    asyncio.run(run())


def rows(path: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM messages ORDER BY id")]


def test_a_message_is_a_row_that_any_tool_can_read(tmp_path: Path) -> None:
    path = tmp_path / "archive.db"
    archive(path, message(1, body="é\0\n", reply_to="boss", in_reply_to="m-0", verified=True))
    [row] = rows(path)
    assert row.pop("archived_at").endswith("+00:00")
    assert json.loads(row.pop("extra")) == {"in_reply_to": "m-0"}
    assert row == {
        "id": message(1).id,
        "from_agent": "planner",
        "to_agent": "coder",
        "ts": "2026-04-14T05:00:59+00:00",
        "subject": "hello",
        "body": "é\0\n",
        "content_type": "text/plain",
        "priority": "normal",
        "reply_to": "boss",
        "verified": 1,
    }


def test_a_message_that_comes_twice_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "archive.db"
    archive(path, message(1), message(2), message(1))
    archive(path, message(2, body="other"), message(3))
    assert [(row["id"], row["body"]) for row in rows(path)] == [
        (message(number).id, "got a minute?") for number in (1, 2, 3)
    ]


def test_the_file_is_the_owners_alone(home: Path) -> None:
    handler = SQLiteArchive("~/deep/archive.db")
    path = home / "deep" / "archive.db"
    assert handler.name == f"archive:{path}"

    async def run() -> None:
        await handler.handle(message(1))
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
        assert set(modes.values()) == {0o600}, modes
        await handler.close()
        await handler.close()

    asyncio.run(run())
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_an_archive_of_the_existing_tool_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "archive.db"
    with closing(sqlite3.connect(path)) as database:
        # The columns that an archive of swarmbus-py 0.2.0 has.
        database.execute(
            "CREATE TABLE messages (id TEXT PRIMARY KEY, from_agent TEXT NOT NULL, to_agent TEXT NOT NULL, "
            "ts TEXT NOT NULL, subject TEXT NOT NULL, body TEXT NOT NULL, "
            "content_type TEXT NOT NULL DEFAULT 'text/plain', priority TEXT NOT NULL DEFAULT 'normal', "
            "reply_to TEXT, direction TEXT NOT NULL DEFAULT 'received', error TEXT)"
        )
        database.execute(
            "INSERT INTO messages (id, from_agent, to_agent, ts, subject, body) "
            "VALUES ('0', 'a', 'b', 't', 's', 'b')"
        )
        database.commit()
    archive(path, message(1))
    old, new = rows(path)
    assert (old["id"], old["extra"], old["verified"], old["archived_at"]) == ("0", "{}", 0, None)
    assert (new["id"], new["direction"], new["verified"]) == (message(1).id, "received", 0)


def test_a_batch_is_archived_wholly_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "archive.db"
    archive(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "CREATE TRIGGER full BEFORE INSERT ON messages WHEN new.subject = 'too much' "
            "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
        database.commit()
    with pytest.raises(StorageError, match="disk full") as caught:
        archive(path, message(1), message(2, subject="too much"))
    assert str(path) in caught.value.message
    assert rows(path) == []


@pytest.mark.parametrize("kind", ["folder", "no database", "another table", "below a file"])
def test_a_file_that_cannot_be_an_archive_is_a_storage_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "archive.db"
    if kind == "folder":
        path.mkdir()
    elif kind == "no database":
        path.write_text("this is not a database, whatever its name says " * 10)
    elif kind == "another table":
        with closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE messages (text TEXT)")
            database.commit()
    else:
        path.touch()
        path = path / "archive.db"
    with pytest.raises(StorageError) as caught:
        archive(path, message(1))
    assert str(path) in caught.value.message
    assert caught.value.hint
