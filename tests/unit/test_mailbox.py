"""The mailbox file: what goes in stays in, once, and every reader has a way of its own through it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmbus.envelope import AgentMessage
from swarmbus.errors import MailboxError, StorageError, UsageError
from swarmbus.mailbox import Mailbox
from swarmbus.mailbox.quarantine import MAX_KEPT, MAX_PAYLOAD
from tests.unit.message_samples import message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent" / "mailbox.db"


@pytest.fixture
def mailbox(path: Path) -> Iterator[Mailbox]:
    with Mailbox.open(path) as opened:
        yield opened


def store(mailbox: Mailbox, *messages: AgentMessage, received: float = 1.0) -> list[str]:
    with mailbox.transaction():
        return [*mailbox.inbound.store(messages, received)]


def bodies(mailbox: Mailbox) -> list[str]:
    return [stored.body for stored in mailbox.inbound.after(0, 1_000)]


# --- incoming ------------------------------------------------------------------------------------------


def test_message_is_stored_as_it_came(mailbox: Mailbox) -> None:
    odd = message(1, body="\0 é 🐝\n", verified=True, reply_to="boss", thread={"a": [1, None]}, wire=1)
    assert store(mailbox, odd, received=17.5) == ["new"]
    stored = mailbox.inbound.get(odd.id)
    assert stored is not None
    assert (stored.id, stored.sender, stored.to, stored.subject, stored.body) == (
        odd.id, "planner", "coder", "hello", "\0 é 🐝\n",
    )  # fmt: skip
    assert (stored.ts, stored.reply_to, stored.verified, stored.received) == (
        "2026-04-14T05:00:59+00:00", "boss", True, 17.5,
    )  # fmt: skip
    assert stored.extra == {"thread": {"a": [1, None]}, "wire": 1}
    assert stored.seen is None


def test_id_that_is_known_is_a_duplicate_or_a_conflict(mailbox: Mailbox) -> None:
    assert store(mailbox, message(1), message(1), message(2), message(1, body="other")) == [
        "new", "duplicate", "new", "conflict",
    ]  # fmt: skip
    assert store(mailbox, message(2), message(2, subject="other"), message(2, sender="mallory")) == [
        "duplicate", "conflict", "conflict",
    ]  # fmt: skip
    assert len(bodies(mailbox)) == 2


def test_more_messages_than_sqlite_takes_variables_are_looked_up(mailbox: Mailbox) -> None:
    many = [message(number) for number in range(1_200)]
    assert set(store(mailbox, *many)) == {"new"}
    assert set(store(mailbox, *many)) == {"duplicate"}


def test_nothing_of_a_transaction_that_fails_is_kept(mailbox: Mailbox) -> None:
    with pytest.raises(RuntimeError), mailbox.transaction():
        mailbox.inbound.store([message(1)], 1.0)
        raise RuntimeError
    assert bodies(mailbox) == []
    assert store(mailbox, message(1)) == ["new"]
    assert mailbox.inbound.last_seq() == 1


# --- readers -------------------------------------------------------------------------------------------


def test_each_consumer_takes_all_messages_in_order(mailbox: Mailbox) -> None:
    store(mailbox, *(message(number, body=str(number)) for number in range(5)))
    assert [taken.body for taken in mailbox.take("default", 2)] == ["0", "1"]
    assert [taken.body for taken in mailbox.take("audit", 10)] == ["0", "1", "2", "3", "4"]
    assert [taken.body for taken in mailbox.take("default", 10)] == ["2", "3", "4"]
    assert mailbox.take("default", 10) == []
    assert mailbox.inbound.unread("default") == mailbox.inbound.unread("audit") == 0
    assert mailbox.inbound.unread("new") == 5


def test_peek_takes_nothing(mailbox: Mailbox) -> None:
    store(mailbox, message(1))
    for _ in range(2):
        assert len(mailbox.take("default", 10, peek=True)) == 1
    assert mailbox.inbound.unread("default") == 1
    assert mailbox.inbound.seen_to_tell() == []


def test_only_the_agent_itself_sees_a_message(mailbox: Mailbox) -> None:
    store(mailbox, message(1))
    mailbox.take("audit", 10)
    assert mailbox.inbound.seen_to_tell() == []
    mailbox.take("default", 10)
    assert [row[1] for row in mailbox.inbound.seen_to_tell()] == [message(1).id]


def test_consumer_cannot_be_called_like_a_handler(mailbox: Mailbox) -> None:
    """Reading with --consumer handler:invoke would pass over messages that the command never saw."""
    with mailbox.transaction():
        mailbox.cursors.register("invoke")
    store(mailbox, message(1))
    with pytest.raises(UsageError, match="handler:invoke"):
        mailbox.take("handler:invoke", 10)
    assert mailbox.cursors.of("invoke").seq == 0


def test_sender_is_told_once_that_its_message_was_seen(mailbox: Mailbox) -> None:
    store(mailbox, message(1, wire=1), message(2), message(3, wire=1, to="broadcast"), message(4, wire=1))
    mailbox.take("default", 3)
    rows = mailbox.inbound.seen_to_tell()
    assert [(row[1], row[2], bool(row[3])) for row in rows] == [
        (message(1).id, "planner", True),
        (message(2).id, "planner", False),
        (message(3).id, "planner", False),
    ]
    with mailbox.transaction():
        mailbox.inbound.told([row[0] for row in rows])
    assert mailbox.inbound.seen_to_tell() == []


def test_what_was_read_in_the_inbox_file_counts_as_seen(mailbox: Mailbox) -> None:
    store(mailbox, message(1), message(2))
    with mailbox.transaction():
        mailbox.inbound.mark_seen([message(2).id, "unknown"])
    assert [row[1] for row in mailbox.inbound.seen_to_tell()] == [message(2).id]
    assert mailbox.inbound.unread("default") == 2


def test_canary_is_no_message(mailbox: Mailbox) -> None:
    with mailbox.transaction():
        mailbox.inbound.store_canary("tweet", "doctor", 1.0)
        mailbox.inbound.store_canary("tweet", "doctor", 2.0)
    assert mailbox.inbound.last_seq() == 0
    with mailbox.transaction():
        mailbox.inbound.forget_canary("tweet")


# --- outgoing ------------------------------------------------------------------------------------------


def queue(mailbox: Mailbox, *ids: str, to: str = "coder") -> None:
    with mailbox.transaction():
        for message_id in ids:
            mailbox.outbound.add(message_id, to, '{"subject": "hello", "ts": "now", "priority": "normal"}')


def state(mailbox: Mailbox, message_id: str) -> tuple[str, bool]:
    sent = mailbox.outbound.get(message_id)
    assert sent is not None
    return sent.state, sent.done


def test_states_follow_the_way_of_a_message(mailbox: Mailbox) -> None:
    queue(mailbox, "m")
    assert state(mailbox, "m") == ("queued", False)
    with mailbox.transaction():
        mailbox.outbound.accepted(["m"], done=False)
    assert state(mailbox, "m") == ("accepted", False)
    with mailbox.transaction():
        mailbox.outbound.receipt("stored", ["m"], "coder")
    assert state(mailbox, "m") == ("stored", True)
    with mailbox.transaction():
        mailbox.outbound.receipt("seen", ["m"], "coder")
    assert state(mailbox, "m") == ("seen", True)
    with mailbox.transaction():
        mailbox.outbound.accepted(["m"], done=False)
        mailbox.outbound.receipt("stored", ["m"], "coder")
        mailbox.outbound.fail(["m"], "rejected", "too late")
    assert state(mailbox, "m") == ("seen", True)
    assert mailbox.outbound.undelivered() == []


def test_receipt_that_overtakes_the_brokers_answer_is_the_last_word(mailbox: Mailbox) -> None:
    queue(mailbox, "m")
    with mailbox.transaction():
        mailbox.outbound.receipt("seen", ["m"], "coder")
        mailbox.outbound.accepted(["m"], done=False)
    assert state(mailbox, "m") == ("seen", True)


def test_receipt_of_another_agent_changes_nothing(mailbox: Mailbox) -> None:
    queue(mailbox, "m")
    with mailbox.transaction():
        mailbox.outbound.receipt("stored", ["m", "unknown"], "mallory")
    assert state(mailbox, "m") == ("queued", False)


def test_message_that_was_given_up_can_be_tried_again_or_dropped(mailbox: Mailbox) -> None:
    queue(mailbox, "a", "b", "c")
    with mailbox.transaction():
        mailbox.outbound.fail(["a", "b"], "no-subscriber", "nobody there")
    assert [sent.id for sent in mailbox.outbound.undelivered()] == ["a", "b", "c"]
    assert [sent.id for sent in mailbox.outbound.open()] == ["c"]
    assert state(mailbox, "a") == ("no-subscriber", True)
    with mailbox.transaction():
        assert mailbox.outbound.retry(["a", "unknown"]) == ["a"]
        assert mailbox.outbound.drop(["b"]) == ["b"]
    assert [sent.id for sent in mailbox.outbound.open()] == ["a", "c"]
    assert state(mailbox, "a") == ("queued", False)
    assert mailbox.outbound.get("b") is None


def test_delivered_message_is_neither_tried_again_nor_dropped(mailbox: Mailbox) -> None:
    queue(mailbox, "m")
    with mailbox.transaction():
        mailbox.outbound.receipt("stored", ["m"], "coder")
        assert mailbox.outbound.retry(["m"]) == []
        assert mailbox.outbound.drop() == []
    assert state(mailbox, "m") == ("stored", True)


def test_message_expires_after_the_time_it_is_kept(mailbox: Mailbox) -> None:
    queue(mailbox, "old")
    between = time.time()
    time.sleep(0.001)
    queue(mailbox, "young")
    with mailbox.transaction():
        assert mailbox.outbound.expire(between) == ["old"]
    assert state(mailbox, "old") == ("expired", True)
    with mailbox.transaction():
        mailbox.outbound.retry(["old"])
        assert mailbox.outbound.expire(between) == []  # its time begins anew


def test_wire_of_a_peer_is_remembered(path: Path) -> None:
    with Mailbox.open(path) as mailbox, mailbox.transaction():
        mailbox.peers.learn("coder", 1)
        mailbox.peers.learn("elder", 1)
        mailbox.peers.learn("elder", None)
    with Mailbox.open(path) as mailbox:
        assert mailbox.peers.known() == {"coder": 1, "elder": None}


# --- looking back --------------------------------------------------------------------------------------


def test_history_tells_the_way_of_a_message_to_oneself(mailbox: Mailbox) -> None:
    own = message(1, to="planner")
    queue(mailbox, own.id, to="planner")
    with mailbox.transaction():
        mailbox.outbound.accepted([own.id], done=False)
        mailbox.cursors.register("bridge")
    store(mailbox, own, received=time.time())
    with mailbox.transaction():
        mailbox.outbound.receipt("stored", [own.id], "planner")
        mailbox.cursors.advance("bridge", [1])
    mailbox.take("default", 1)
    with mailbox.transaction():
        mailbox.outbound.receipt("seen", [own.id], "planner")
    events = mailbox.history.of(own.id)
    assert [event.what for event in events] == [
        "queued", "accepted", "received", "stored", "handled", "read", "seen",
    ]  # fmt: skip
    assert events[4].detail == "by bridge"
    assert mailbox.history.of("unknown") == []


def test_conversation_has_both_directions_in_order(mailbox: Mailbox) -> None:
    store(mailbox, message(1, body="first"), received=time.time())
    queue(mailbox, "answer", to="planner")
    store(mailbox, message(2, sender="tester", body="aside"), received=time.time())
    store(mailbox, message(3, body="second"), received=time.time())
    turns = [(turn.outgoing, turn.peer) for turn in mailbox.history.conversation("planner")]
    assert turns == [(False, "planner"), (True, "planner"), (False, "planner")]
    assert len([*mailbox.history.conversation()]) == 4
    assert [*mailbox.history.conversation(since=time.time() + 1)] == []


# --- quarantine ----------------------------------------------------------------------------------------


def rubbish(mailbox: Mailbox, count: int, kind: str = "unreadable") -> None:
    with mailbox.transaction():
        for number in range(count):
            mailbox.quarantine.add(kind, topic="t", reason="r", payload=f"{number}".encode())


def test_flood_of_rubbish_does_not_fill_the_disk_and_hides_nothing_else(mailbox: Mailbox) -> None:
    rubbish(mailbox, 1, "dead-letter")
    rubbish(mailbox, MAX_KEPT + 50)
    assert mailbox.quarantine.count() <= MAX_KEPT + 1
    kept = mailbox.quarantine.list()
    assert kept[0].kind == "dead-letter"
    assert kept[-1].payload == str(MAX_KEPT + 49).encode()


@pytest.mark.parametrize("kind", ["conflict", "forged"])
def test_flood_of_what_a_stranger_can_make_does_not_fill_the_disk(mailbox: Mailbox, kind: str) -> None:
    rubbish(mailbox, MAX_KEPT + 50, kind)
    assert mailbox.quarantine.count() <= MAX_KEPT


def test_huge_payload_is_kept_in_part(mailbox: Mailbox) -> None:
    with mailbox.transaction():
        mailbox.quarantine.add("unreadable", topic="t", reason="r", payload=b"x" * (MAX_PAYLOAD + 1))
    (kept,) = mailbox.quarantine.list()
    assert len(kept.payload) == MAX_PAYLOAD


def test_quarantine_is_looked_at_and_dropped_by_number(mailbox: Mailbox) -> None:
    rubbish(mailbox, 3)
    first, second, third = mailbox.quarantine.list()
    with mailbox.transaction():
        assert mailbox.quarantine.drop([second.id, 99]) == 1
    assert mailbox.quarantine.list() == [first, third]
    with mailbox.transaction():
        assert mailbox.quarantine.drop() == 2


# --- the file ------------------------------------------------------------------------------------------


def test_folder_and_files_are_for_their_owner_only(path: Path, mailbox: Mailbox) -> None:
    store(mailbox, message(1))
    assert path.parent.stat().st_mode & 0o777 == 0o700
    files = [*path.parent.iterdir()]
    assert {file.name for file in files} == {"mailbox.db", "mailbox.db-wal", "mailbox.db-shm"}
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_missing_file_is_an_error_where_it_is_not_to_be_made(path: Path) -> None:
    with pytest.raises(StorageError, match="no mailbox"):
        Mailbox.open(path, create=False)
    assert not path.exists()


@pytest.mark.parametrize(
    "content", [b"not a database, by far\n" * 100, b"SQLite format 3\0" + b"\xff" * 4096]
)
def test_file_that_is_no_database_is_told_and_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(MailboxError, match=r"mailbox\.db is damaged") as error:
        Mailbox.open(path)
    assert error.value.hint is not None
    assert "mv " in error.value.hint
    assert path.read_bytes() == content


def test_damage_inside_is_told_when_it_is_met(path: Path) -> None:
    with Mailbox.open(path) as mailbox:
        store(mailbox, *(message(number, body="x" * 3_000) for number in range(50)))
    content = bytearray(path.read_bytes())
    content[8 * 4096 :] = b"\xff" * (len(content) - 8 * 4096)
    path.write_bytes(content)
    with Mailbox.open(path) as mailbox:
        with pytest.raises(MailboxError, match="damaged"):
            mailbox.take("default", 100)
        with pytest.raises(MailboxError, match="damaged"), mailbox.reading():
            mailbox.inbound.after(0, 100)


def test_newer_schema_is_refused_and_left_alone(path: Path, mailbox: Mailbox) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(MailboxError, match="schema 99") as error:
        Mailbox.open(path)
    assert error.value.hint is not None
    assert "upgrade" in error.value.hint


@pytest.mark.parametrize("version", [0, 1, 7])
def test_database_of_another_program_is_refused_and_left_alone(path: Path, version: int) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE recipes (name)")
        database.execute(f"PRAGMA user_version = {version}")
    database.close()
    before = path.read_bytes()
    with pytest.raises(MailboxError, match="another program"):
        Mailbox.open(path)
    assert path.read_bytes() == before


def test_folder_in_place_of_the_file_is_told(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StorageError, match=r"mailbox\.db"):
        Mailbox.open(path)


@contextlib.contextmanager
def without_rights() -> Iterator[None]:
    """As root one may write everywhere: so as somebody else, for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_folder_that_may_not_be_written_is_told(home: Path) -> None:
    home.chmod(0o555)
    with without_rights(), pytest.raises(StorageError, match="Permission denied") as error:
        Mailbox.open(home / "agent" / "mailbox.db")
    assert error.value.hint is not None
    assert "owner and mode" in error.value.hint
    home.chmod(0o700)


def test_file_that_may_not_be_written_is_told(home: Path) -> None:
    path = home / "mailbox.db"
    with Mailbox.open(path) as mailbox:
        store(mailbox, message(1))
    home.chmod(0o755)
    path.chmod(0o444)
    with without_rights(), pytest.raises(StorageError, match="Permission denied"):
        Mailbox.open(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system to fill can only be mounted by root")
def test_full_disk_loses_nothing_that_was_promised(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        with Mailbox.open(folder / "agent" / "mailbox.db") as mailbox:
            promised = []
            with pytest.raises(StorageError, match=r"mailbox\.db") as error:
                for number in range(1_000):
                    store(mailbox, message(number, body=f"{number} {'x' * 5_000}"))
                    promised.append(number)
            assert error.value.hint is not None
            assert "df -h" in error.value.hint
            assert 10 < len(promised) < 100
            assert [int(body.split()[0]) for body in bodies(mailbox)] == promised
            with pytest.raises(StorageError):
                store(mailbox, message(10_000, body="x" * 300_000))
            subprocess.run(["mount", "-o", "remount,size=4m", str(folder)], check=True)
            assert store(mailbox, message(10_001, body="10001 room again")) == ["new"]
        with Mailbox.open(folder / "agent" / "mailbox.db") as mailbox:
            assert [int(body.split()[0]) for body in bodies(mailbox)] == [*promised, 10_001]
    finally:
        subprocess.run(["umount", str(folder)], check=True)


WRITER = """
import sys
from pathlib import Path
from swarmbus.mailbox import Mailbox
from tests.unit.message_samples import message
path, start, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with Mailbox.open(path) as mailbox:
    for number in range(start, start + count):
        with mailbox.transaction():
            assert mailbox.inbound.store([message(number)], 1.0) == ["new"]
        mailbox.take(f"reader{start}", 1)
"""


def test_processes_open_make_and_write_one_mailbox_at_once(path: Path) -> None:
    root = Path(__file__).parents[2]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(start), "60"], cwd=root)
        for start in (0, 1_000, 2_000)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    with Mailbox.open(path) as mailbox:
        assert mailbox.inbound.last_seq() == 180
        assert len({stored.id for stored in mailbox.inbound.after(0, 1_000)}) == 180


def test_mailbox_that_is_opened_twice_in_one_process_outlives_the_end_of_another(path: Path) -> None:
    """The locks of the first must not go when the second is opened, or the other process removes the log."""
    with Mailbox.open(path) as first:
        store(first, message(1, body="one"))
        with Mailbox.open(path) as second:
            store(second, message(2, body="two"))
        program = (
            "import sys; from pathlib import Path; from swarmbus.mailbox import Mailbox;"
            "Mailbox.open(Path(sys.argv[1])).close()"
        )
        subprocess.run([sys.executable, "-c", program, str(path)], check=True)
        assert path.with_name("mailbox.db-wal").exists()
        store(first, message(3, body="three"))
        with Mailbox.open(path) as third:
            assert bodies(third) == ["one", "two", "three"]


def test_writer_that_is_killed_leaves_all_it_committed(path: Path) -> None:
    root = Path(__file__).parents[2]
    program = WRITER.replace("mailbox.take", "print(number, flush=True) or mailbox.take")
    writer = subprocess.Popen(
        [sys.executable, "-c", program, str(path), "0", "100000"], cwd=root, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    with writer.stdout as printed:
        for line in printed:
            if int(line) == 50:
                writer.kill()
                break
        last = max([50, *(int(line) for line in printed if line.endswith("\n"))])
    writer.wait()
    with Mailbox.open(path) as mailbox:
        assert mailbox.inbound.last_seq() - 1 in (last, last + 1)


def test_two_mailboxes_of_one_process_keep_the_log_from_a_third(path: Path) -> None:
    """A process that closes the file last takes the log away: it must see that others have it open."""
    come_and_go = "import sys; from pathlib import Path; from swarmbus.mailbox import Mailbox; "
    come_and_go += "Mailbox.open(Path(sys.argv[1])).close()"
    with Mailbox.open(path) as first, Mailbox.open(path):
        store(first, message(1))
        subprocess.run([sys.executable, "-c", come_and_go, path], check=True)
        store(first, message(2))
        looked = path.parent / "looked.db"
        for suffix in ("", "-wal"):  # as a kill would leave it
            Path(f"{looked}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
    with Mailbox.open(looked) as found:
        assert found.inbound.last_seq() == 2
