from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from swarmbus.errors import StorageError, UsageError
from swarmbus.inbox_file import inbox_entry
from swarmbus.journal_file import JournalFile, rotated
from swarmbus.tail import InboxTail, NoInboxFile
from swarmbus.tail_cursor import Position, cursor_file, save_cursor
from tests.unit.message_samples import message

THEIRS = "\n## [2026-04-14 23:30] From: planner | hello\n{}\n"


class Desk:
    """An inbox file, its writer, and a consumer that is started anew for each reading."""

    def __init__(self, folder: Path) -> None:
        self.inbox = folder / "x.md"
        self.cursor = folder / "cursors" / "coder--default.cursor"
        self.notices: list[str] = []

    def write(self, *numbers: int, max_bytes: int = 0, keep: int = 5) -> None:
        file = JournalFile(self.inbox, max_bytes=max_bytes, keep=keep, sync=False)
        file.append([inbox_entry(message(number, body=f"body {number}")) for number in numbers])

    def tail(self) -> InboxTail:
        return InboxTail(self.inbox, self.cursor, notice=self.notices.append)

    def text(self) -> str:
        return "".join(self.tail().texts())

    def numbers(self) -> list[int]:
        return [int((entry.id or "")[-12:]) for entry in self.tail().entries()]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def text_of(*numbers: int) -> str:
    return "".join(inbox_entry(message(number, body=f"body {number}")).decode() for number in numbers)


def test_the_first_reading_is_the_whole_file_and_the_next_what_is_new(desk: Desk) -> None:
    desk.write(1, 2)
    assert desk.text() == text_of(1, 2)
    assert desk.text() == ""
    desk.write(3)
    assert desk.text() == text_of(3)
    assert desk.notices == []


def test_the_cursor_is_offset_and_inode(desk: Desk) -> None:
    desk.write(1)
    desk.text()
    status = desk.inbox.stat()
    assert desk.cursor.read_text() == f"{status.st_size} {status.st_ino}"
    assert [path.name for path in desk.cursor.parent.iterdir()] == [desk.cursor.name], (
        "no temporary file is left"
    )


def test_entries_come_parsed(desk: Desk) -> None:
    desk.write(1, 2)
    assert [entry.as_dict() for entry in desk.tail().entries()] == [
        {"ts": "2026-04-14 05:00", "from": "planner", "subject": "hello", "body": f"body {number}",
         "id": f"00000000-0000-4000-8000-{number:012d}", "priority": "normal", "verified": False}
        for number in (1, 2)
    ]  # fmt: skip
    assert desk.numbers() == []


def test_entries_of_the_existing_tool_come_parsed_too(desk: Desk) -> None:
    desk.inbox.write_text(THEIRS.format("one") + THEIRS.format("two\nlines\n"))
    assert [(entry.body, entry.id) for entry in desk.tail().entries()] == [
        ("one", None),
        ("two\nlines\n", None),
    ]
    desk.write(3)
    assert desk.numbers() == [3]


def test_a_cursor_of_the_older_form_is_an_offset_alone(desk: Desk) -> None:
    desk.inbox.write_text("0123456789")
    desk.cursor.parent.mkdir()
    desk.cursor.write_text("5")
    assert desk.text() == "56789"
    assert desk.cursor.read_text() == f"10 {desk.inbox.stat().st_ino}"


@pytest.mark.parametrize("nonsense", ["abc", "", "-5 3", "5 6 7 8", "\xff", "9" * 40])
def test_an_unreadable_cursor_means_the_start(desk: Desk, nonsense: str) -> None:
    desk.write(1)
    desk.cursor.parent.mkdir()
    desk.cursor.write_text(nonsense)
    assert desk.text() == text_of(1)
    assert len(desk.notices) == 1
    assert desk.text() == ""


def test_reset_means_the_start(desk: Desk) -> None:
    desk.write(1)
    desk.text()
    desk.tail().reset()
    desk.tail().reset()
    assert desk.text() == text_of(1)


def test_a_piece_that_was_not_finished_with_comes_again(desk: Desk) -> None:
    desk.write(1)
    pieces = desk.tail().texts()
    assert next(pieces) == text_of(1)
    pieces.close()  # type: ignore[attr-defined]  # as when the consumer died over it
    assert desk.text() == text_of(1)


def test_a_rotated_file_is_finished_first(desk: Desk) -> None:
    desk.write(1)
    assert desk.numbers() == [1]
    desk.write(2, max_bytes=10**6)
    desk.write(3, max_bytes=1)
    assert rotated(desk.inbox, 1).exists()
    assert desk.numbers() == [2, 3]
    assert desk.notices == []


@pytest.mark.parametrize("rotations", [1, 2, 4, 5])
def test_several_rotations_are_caught_up_with_in_order(desk: Desk, rotations: int) -> None:
    desk.write(0)
    desk.write(1)
    assert desk.numbers() == [0, 1]
    numbers = list(range(2, 3 + rotations))
    desk.write(2)
    for number in numbers[1:]:
        desk.write(number, max_bytes=1)
    assert desk.numbers() == numbers
    assert desk.numbers() == []
    assert desk.notices == []


def test_what_is_left_is_read_when_the_cursors_file_was_rotated_away(desk: Desk) -> None:
    desk.write(0)
    assert desk.numbers() == [0]
    for number in range(1, 9):
        desk.write(number, max_bytes=1, keep=3)
        time.sleep(0.01)  # the clock of modification times has ticks of up to 10 ms
    assert desk.numbers() == [5, 6, 7, 8]
    assert len(desk.notices) == 1
    assert desk.numbers() == []


def test_rotation_between_rename_and_creation_loses_nothing(desk: Desk) -> None:
    desk.write(1)
    assert desk.numbers() == [1]
    desk.write(2)
    desk.inbox.rename(rotated(desk.inbox, 1))
    assert desk.numbers() == [2]
    assert desk.numbers() == []
    desk.write(3)
    assert desk.numbers() == [3]
    assert desk.notices == []


def test_a_truncated_file_is_read_from_its_start(desk: Desk) -> None:
    desk.write(1, 2, 3)
    desk.text()
    os.truncate(desk.inbox, 0)
    assert desk.text() == ""
    assert len(desk.notices) == 1
    assert "shrank" in desk.notices[0]
    desk.write(*range(4, 10))
    assert desk.text() == text_of(*range(4, 10)), "also if it has meanwhile grown beyond the old offset"
    assert len(desk.notices) == 1


def test_a_removed_file_that_was_written_anew_is_read_from_its_start(desk: Desk) -> None:
    desk.write(1)
    assert desk.numbers() == [1]
    desk.inbox.unlink()
    with pytest.raises(NoInboxFile, match=r"inbox does not exist: .*x\.md"):
        desk.numbers()
    time.sleep(0.02)
    desk.write(2, 3)  # ext4 gives it the same inode at once
    assert desk.numbers() == [2, 3]


def test_the_inode_of_a_removed_file_given_to_the_next_is_noticed(desk: Desk) -> None:
    desk.write(1)
    desk.numbers()
    time.sleep(0.02)
    for _ in range(20):
        desk.inbox.unlink()
        desk.write(2, 3)
        if desk.inbox.stat().st_ino == int(desk.cursor.read_text().split()[1]):
            break
    else:
        return  # this file system does not use inodes again; the test above has said what counts
    assert desk.numbers() == [2, 3]
    assert len(desk.notices) == 1


def test_a_clock_that_was_set_back_makes_no_cursor_older_than_its_file(desk: Desk) -> None:
    # A host without a battery clock starts with the time of its last shutdown: the inbox was then born
    # in the future, and a cursor of today would look like one of another, earlier file.
    birth = time.time_ns() + 10**9 * 3600
    save_cursor(desk.cursor, Position(1, 2), not_before=birth)
    assert desk.cursor.stat().st_mtime_ns == birth


def test_no_file_is_an_error_that_names_it_and_makes_no_cursor(desk: Desk) -> None:
    with pytest.raises(NoInboxFile) as caught:
        desk.text()
    assert str(desk.inbox) in caught.value.message
    assert caught.value.exit_status == 2
    assert not desk.cursor.exists()


def test_an_inbox_that_is_no_file_is_a_storage_error(desk: Desk) -> None:
    desk.inbox.mkdir()
    with pytest.raises(StorageError, match="cannot read"):
        desk.text()


def test_a_cursor_folder_that_cannot_be_written_is_a_storage_error(desk: Desk) -> None:
    desk.write(1)
    desk.cursor.parent.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="cursor"):
        desk.text()


@pytest.mark.parametrize("consumer", ["a/../b", "", "a b", "x" * 65, "é"])
def test_a_consumer_name_cannot_leave_the_folder(tmp_path: Path, consumer: str) -> None:
    with pytest.raises(UsageError, match="consumer"):
        cursor_file("coder", consumer, tmp_path)
    assert cursor_file("coder", "Bot_1-x", tmp_path) == tmp_path / "coder--Bot_1-x.cursor"


def test_half_a_character_waits_for_its_other_half(desk: Desk) -> None:
    desk.inbox.write_bytes(b"x\xff\xfey\n\xe2\x82")
    assert desk.text() == "x��y\n"
    assert desk.text() == ""
    with desk.inbox.open("ab") as file:
        file.write(b"\xac\n")
    assert desk.text() == "€\n"


def test_text_without_a_line_end_is_read_as_it_comes(desk: Desk) -> None:
    desk.inbox.write_text("no line end")
    assert desk.text() == "no line end"
    with desk.inbox.open("a") as file:
        file.write(" yet")
    assert desk.text() == " yet"


def test_an_unfinished_entry_waits_for_its_end_wherever_it_was_cut(desk: Desk) -> None:
    whole, torn = text_of(1).encode(), text_of(2).encode()
    for length in range(1, len(torn)):
        desk.inbox.write_bytes(whole + torn[:length])
        desk.tail().reset()
        assert desk.numbers() == [1], f"cut after {length} bytes"
        with desk.inbox.open("ab") as file:
            file.write(torn[length:])
        assert desk.numbers() == [2], f"cut after {length} bytes"


def test_an_unfinished_entry_waits_also_at_the_start_of_a_reading(desk: Desk) -> None:
    desk.write(1)
    assert desk.numbers() == [1]
    torn = text_of(2).encode()
    with desk.inbox.open("ab", buffering=0) as file:
        file.write(torn[:-20])
        assert desk.numbers() == []
        file.write(torn[-20:])
    assert desk.numbers() == [2]


def test_a_large_file_comes_in_pieces_and_whole(desk: Desk) -> None:
    # Lines of many lengths, so that pieces end in the middle of lines, characters and entries.
    bodies = [("é" * (number * 37 % 3000) + "\n") * 3 for number in range(400)]
    file = JournalFile(desk.inbox, max_bytes=0, sync=False)
    file.append([inbox_entry(message(number, body=body)) for number, body in enumerate(bodies)])
    pieces = list(desk.tail().texts())
    assert len(pieces) > 5
    assert "".join(pieces) == desk.inbox.read_text()
    desk.tail().reset()
    assert [entry.body for entry in desk.tail().entries()] == bodies


def test_a_line_longer_than_any_piece_comes_whole(desk: Desk) -> None:
    desk.inbox.write_text("x" * 9_000_000)
    assert desk.text() == "x" * 9_000_000
    desk.tail().reset()
    assert desk.numbers() == []


def bytes_read(read: Callable[[], object]) -> int:
    """How many bytes this process read from files and pipes meanwhile (proc(5), ``rchar``)."""

    def count() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    overhead = -count() + count()
    before = count()
    read()
    return count() - before - overhead


def test_reading_costs_what_is_new_and_not_what_is_there(tmp_path: Path) -> None:
    costs = []
    for size in (1_000, 50_000_000):
        (tmp_path / str(size)).mkdir()
        desk = Desk(tmp_path / str(size))
        with desk.inbox.open("wb") as file:
            file.write(b"x" * (size - 1) + b"\n")
        desk.cursor.parent.mkdir()
        desk.cursor.write_text(f"{size} {desk.inbox.stat().st_ino}")
        desk.write(1)
        desk.numbers()  # what is imported meanwhile is read, too
        desk.write(2)
        costs.append(bytes_read(desk.numbers))
    assert len(text_of(2)) <= costs[0] < 2_000
    assert abs(costs[1] - costs[0]) < 100


FOLLOWER = """
import sys, time
from pathlib import Path
from swarmbus.tail import InboxTail
tail = InboxTail(Path(sys.argv[1]), Path(sys.argv[2]), notice=lambda text: print("notice", flush=True))
for entry in tail.entries(follow=True):
    print(entry.body, time.monotonic(), flush=True)
"""


def test_a_follower_gets_an_entry_within_100_ms_through_rotation_and_removal(desk: Desk) -> None:
    desk.write(0)
    command = [sys.executable, "-c", FOLLOWER, str(desk.inbox), str(desk.cursor)]
    delays = []

    def written(number: int, max_bytes: int = 0) -> float:
        written_at = time.monotonic()  # CLOCK_MONOTONIC: the same in both processes
        desk.write(number, max_bytes=max_bytes)
        return written_at

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None

        def next_line() -> list[str]:
            assert follower.stdout is not None
            return follower.stdout.readline().split()

        assert next_line()[:2] == ["body", "0"]
        for number in range(1, 9):
            time.sleep(0.03)
            if number == 6:
                desk.inbox.unlink()
                assert next_line() == ["notice"]
            written_at = written(number, max_bytes=1 if number in (3, 4) else 0)
            line = next_line()
            if line == ["notice"]:
                line = next_line()
            assert line[:2] == ["body", str(number)]
            delays.append(float(line[2]) - written_at)
        follower.kill()
    assert sorted(delays)[len(delays) // 2] < 0.1, delays


def test_a_follower_waits_for_a_file_that_is_not_there_yet(desk: Desk) -> None:
    command = [sys.executable, "-c", FOLLOWER, str(desk.inbox), str(desk.cursor)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "notice\n"
        desk.write(1)
        assert follower.stdout.readline().startswith("body 1 ")
        follower.kill()


def test_reading_text_imports_nothing_expensive(desk: Desk) -> None:
    desk.write(1)
    script = (
        "import sys; from pathlib import Path; from swarmbus.tail import InboxTail\n"
        "print(''.join(InboxTail(Path(sys.argv[1]), Path(sys.argv[2])).texts()), end='')\n"
        "print({'pydantic', 'asyncio', 'sqlite3', 'aiomqtt', 'logging'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(desk.inbox), str(desk.cursor)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == text_of(1) + "set()\n"
