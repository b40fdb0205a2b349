"""Looking into a mailbox: what is seen, and that nothing is left behind."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from swarmbus.envelope import new_message
from swarmbus.mailbox import Mailbox
from swarmbus.mailbox.store import SCHEMA_VERSION
from swarmbus.provision.mailbox_look import look_into_mailbox


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mailbox.db"


def _fill(mailbox: Mailbox) -> None:
    with mailbox.transaction():
        for reason in ("no JSON", "no id"):
            mailbox.quarantine.add("unreadable", topic="agents/x/inbox", reason=reason, payload=b"?")
        mailbox.quarantine.add(
            "dead-letter",
            topic="agents/x/inbox",
            reason="exited 1",
            payload=b"",
            message_id="m",
            handler="invoke",
        )
        for to in ("writer", "writer", "ghost"):
            message = new_message(sender="x", to=to, subject="s", body="b")
            mailbox.outbound.add(message.id, to, message.to_wire())
        mailbox.outbound.fail([message.id], "no-subscriber", "nobody listens")


def _files(folder: Path) -> dict[str, tuple[bytes, int]]:
    # The index of the write-ahead log is shared memory, in which readers note where they read.
    return {
        file.name: (file.read_bytes(), file.stat().st_mtime_ns)
        for file in sorted(folder.iterdir())
        if not file.name.endswith("-shm")
    }


def test_piles_and_stuck_messages_are_counted(path: Path) -> None:
    with Mailbox.open(path) as mailbox:
        _fill(mailbox)
        seen = look_into_mailbox(path)
    assert {(pile.kind, pile.handler, pile.count) for pile in seen.quarantine} == {
        ("unreadable", None, 2),
        ("dead-letter", "invoke", 1),
    }
    assert {(one.to, one.state, one.count, one.reason) for one in seen.undelivered} == {
        ("writer", "waiting", 2, None),
        ("ghost", "no-subscriber", 1, "nobody listens"),
    }
    assert all(abs(time.time() - one.oldest) < 60 for one in seen.undelivered)


def test_a_mailbox_that_nobody_has_open_is_left_as_it_is(path: Path) -> None:
    with Mailbox.open(path) as mailbox:
        _fill(mailbox)
    before = _files(path.parent)
    assert look_into_mailbox(path).quarantine
    assert _files(path.parent) == before
    assert set(before) == {"mailbox.db"}


def test_what_a_killed_daemon_left_in_the_log_is_seen_and_left_there(path: Path) -> None:
    program = (
        "import os, pathlib, sys; from swarmbus.mailbox import Mailbox\n"
        "mailbox = Mailbox.open(pathlib.Path(sys.argv[1]))\n"
        "with mailbox.transaction():\n"
        "    mailbox.quarantine.add('forged', topic='t', reason='r', payload=b'')\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    before = _files(path.parent)
    assert before["mailbox.db-wal"][0]
    assert [pile.kind for pile in look_into_mailbox(path).quarantine] == ["forged"]
    assert _files(path.parent) == before


def test_there_need_not_be_one(path: Path) -> None:
    assert not look_into_mailbox(path).present
    assert not path.exists()


def test_damage_is_told_in_sqlites_words(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to look like one" * 100)
    assert look_into_mailbox(path).damage == "file is not a database"


def test_a_newer_schema_is_no_damage_to_be_moved_away(path: Path) -> None:
    with Mailbox.open(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    seen = look_into_mailbox(path)
    assert seen.newer_schema
    assert f"has schema {SCHEMA_VERSION + 1}" in (seen.damage or "")


def test_another_programs_database_is_told(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    assert look_into_mailbox(path).damage == "is another program's database"
