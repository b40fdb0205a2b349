from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmbus.errors import StorageError
from swarmbus.inbox_file import TRAILER, inbox_entry, parse_entries
from swarmbus.journal_file import JournalFile, rotated, rotated_files
from tests.unit.message_samples import message


@pytest.fixture
def not_root(home: Path) -> Iterator[None]:
    """``home`` may be read and not written, whoever runs the test."""
    home.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    yield
    os.seteuid(user)
    home.chmod(0o700)


def entry(number: int, body: str = "x" * 100) -> bytes:
    return inbox_entry(message(number, body=body))


def ids(path: Path) -> list[str]:
    return [found.decode() for found in TRAILER.findall(path.read_bytes())]


def number_of(identity: str) -> int:
    return int(identity[-12:])


def test_file_and_folders_are_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.md"
    JournalFile(path, sync=True).append([entry(1)])
    assert path.stat().st_mode & 0o777 == 0o600
    assert [folder.stat().st_mode & 0o777 for folder in (path.parent, path.parent.parent)] == [0o700, 0o700]


def test_a_file_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    path.touch(0o640)
    path.chmod(0o640)
    JournalFile(path, sync=False).append([entry(1)])
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_heading_has_its_own_line_behind_an_unfinished_one(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    path.write_text("note to self")
    JournalFile(path, sync=False).append([entry(1)])
    assert path.read_bytes() == b"note to self\n" + entry(1)


def test_the_file_rotates_before_an_entry_that_would_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    file = JournalFile(path, max_bytes=3 * len(entry(0)), keep=3, sync=True)
    for number in range(11):
        file.append([entry(number)])
    assert [[number_of(one) for one in ids(part)] for part in (path, *rotated_files(path))] == [
        [9, 10], [6, 7, 8], [3, 4, 5], [0, 1, 2]
    ]  # fmt: skip
    file.append([entry(11), entry(12)])
    assert [number_of(one) for one in ids(rotated(path, 3))] == [3, 4, 5], "the oldest goes"


def test_many_entries_at_once_are_spread_over_files(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    JournalFile(path, max_bytes=3 * len(entry(0)), keep=9, sync=False).append([entry(n) for n in range(11)])
    assert [len(ids(part)) for part in (path, *rotated_files(path))] == [2, 3, 3, 3]


def test_an_entry_larger_than_the_limit_has_a_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    file = JournalFile(path, max_bytes=300, keep=3, sync=False)
    file.append([entry(0), entry(1, "x" * 1000), entry(2)])
    assert [[number_of(one) for one in ids(part)] for part in (path, *rotated_files(path))] == [[2], [1], [0]]


def test_zero_means_that_the_file_never_rotates(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    JournalFile(path, max_bytes=0, sync=False).append([entry(number) for number in range(50)])
    assert len(ids(path)) == 50
    assert rotated_files(path) == []


def test_a_rotation_that_was_killed_half_way_costs_no_file(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    file = JournalFile(path, max_bytes=1, keep=3, sync=False)
    for number in range(4):
        file.append([entry(number)])
    # Killed after x.md.3 was replaced by x.md.2, before x.md.1 became x.md.2.
    rotated(path, 2).replace(rotated(path, 3))
    file.append([entry(4)])
    assert [[number_of(one) for one in ids(part)] for part in (path, *rotated_files(path))] == [
        [4],
        [3],
        [2],
        [1],
    ]


def test_rotation_happens_beside_the_file_that_a_link_points_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "x.md"
    link.symlink_to(tmp_path / "real" / "y.md")
    file = JournalFile(link, max_bytes=1, sync=False)
    file.append([entry(0), entry(1)])
    assert link.is_symlink()
    assert [number_of(one) for one in ids(link)] == [1]
    assert [number_of(one) for one in ids(tmp_path / "real" / "y.md.1")] == [0]


def test_the_last_ids_come_newest_first_and_from_rotated_files_too(tmp_path: Path) -> None:
    file = JournalFile(tmp_path / "x.md", max_bytes=5 * len(entry(0)), keep=9, sync=False)
    assert file.last_ids(10) == []
    file.append([entry(number) for number in range(33)])
    assert [number_of(one) for one in file.last_ids(10)] == list(range(32, 22, -1))
    assert [number_of(one) for one in file.last_ids(100)] == list(range(32, -1, -1))


@pytest.mark.parametrize("length", [10, 1_000, 65_536])
def test_ids_are_found_wherever_a_block_of_the_scan_ends(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.md"
    file = JournalFile(path, max_bytes=0, sync=False)
    entries = [entry(number, "x" * length) for number in range(600 * 1024 // (length + 150) + 3)]
    for shift in range(0, 200, 37):
        path.unlink(missing_ok=True)
        path.write_bytes(b"#" * shift)
        file.append(entries)
        assert [number_of(one) for one in file.last_ids(9_999)] == list(range(len(entries) - 1, -1, -1))


@pytest.mark.parametrize("of", [0, 1, 3], ids=lambda of: f"behind {of} whole entries")
def test_the_beginning_of_an_entry_is_completed_wherever_it_was_cut(tmp_path: Path, of: int) -> None:
    path = tmp_path / "x.md"
    file = JournalFile(path, sync=False)
    whole = b"".join(entry(number) for number in range(of))
    torn = entry(of, "two\n\nlines")
    for length in range(len(torn)):
        path.write_bytes(whole + torn[:length])
        file.append([torn, entry(of + 1)], resume=True)
        assert path.read_bytes() == whole + torn + entry(of + 1), f"cut after {length} bytes"


def test_the_beginning_of_an_entry_is_completed_even_if_the_file_is_full(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    path.write_bytes(entry(0) + entry(1)[:50])
    JournalFile(path, max_bytes=len(entry(0)) + 60, sync=False).append([entry(1), entry(2)], resume=True)
    assert rotated(path, 1).read_bytes() == entry(0) + entry(1)
    assert path.read_bytes() == entry(2)


def test_the_beginning_of_another_entry_stays_and_is_not_mistaken_for_ours(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    path.write_bytes(entry(0) + entry(1, "other")[:60])
    JournalFile(path, sync=False).append([entry(2)], resume=True)
    assert path.read_bytes() == entry(0) + entry(1, "other")[:60] + b"\n" + entry(2)


def test_an_entry_behind_a_file_of_the_existing_tool_is_completed(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    theirs = b"\n## [2026-04-14 23:30] From: planner | hello\nbody\n" * 3
    path.write_bytes(theirs + entry(1)[:60])
    JournalFile(path, sync=False).append([entry(1)], resume=True)
    assert path.read_bytes() == theirs + entry(1)


def test_a_device_can_be_written_to(tmp_path: Path) -> None:
    JournalFile(Path("/dev/null"), sync=True).append([entry(0), entry(1)])
    assert JournalFile(Path("/dev/null"), sync=True).last_ids(5) == []


def test_a_full_disk_is_a_storage_error_with_path_and_hint() -> None:
    with pytest.raises(StorageError, match=r"cannot write /dev/full: No space left on device") as caught:
        JournalFile(Path("/dev/full"), sync=True).append([entry(0)])
    assert caught.value.hint is not None
    assert "df -h" in caught.value.hint


def test_a_full_disk_leaves_no_part_of_an_entry(tmp_path: Path) -> None:
    # A file size limit makes the kernel take a part of the write and refuse the rest, as a full disk does.
    script = f"""
import resource, signal, sys
from pathlib import Path
from swarmbus.errors import StorageError
from swarmbus.journal_file import JournalFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
file = JournalFile(Path({str(tmp_path / "x.md")!r}), sync=True)
file.append([b"\\n" + b"a" * 598 + b"\\n"])
try:
    file.append([b"\\n" + b"b" * 598 + b"\\n"])
except StorageError as error:
    print(error.message)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout
    assert (tmp_path / "x.md").read_bytes() == b"\n" + b"a" * 598 + b"\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [("folder", "Is a directory"), ("file/x.md", "Not a directory"), ("x" * 300, "too long")],
)
def test_a_path_that_cannot_be_written_is_a_storage_error(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=words) as caught:
        JournalFile(tmp_path / name, sync=False).append([entry(0)])
    assert str(tmp_path / name) in caught.value.message
    assert caught.value.hint


def test_a_folder_without_permission_is_a_storage_error(home: Path, not_root: None) -> None:
    with pytest.raises(StorageError, match="Permission denied") as caught:
        JournalFile(home / "x.md", sync=False).check_writable()
    assert caught.value.hint is not None
    assert "ls -ld" in caught.value.hint


def test_a_writer_that_never_lets_go_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"""
import fcntl, sys
file = open({str(path)!r}, "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(StorageError, match="kept it locked"):
            JournalFile(path, sync=False, lock_seconds=0.1).append([entry(0)])
        holder.kill()


WRITER = """
import sys
from pathlib import Path
from swarmbus.inbox_file import render_entry
from swarmbus.journal_file import JournalFile
path, writer, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
file = JournalFile(path, max_bytes=20_000, keep=200, sync=False)
for number in range(count):
    file.append([render_entry("To", "coder", id=f"{writer}-{number}", ts="2026-04-14T05:00:00Z",
                              subject="s", body=f"{writer} {number} " * 20, priority="normal")])
"""


def test_eight_processes_append_to_one_rotating_file_and_no_entry_is_lost_or_torn(tmp_path: Path) -> None:
    path, count = tmp_path / "outbox.md", 150
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), f"w{n}", str(count)], stderr=subprocess.PIPE
        )
        for n in range(8)
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors.decode()
    parts = [path, *rotated_files(path)]
    assert len(parts) > 10
    entries = [one for part in parts for one in parse_entries(part.read_text())]
    assert Counter(one.id for one in entries) == Counter(f"w{n}-{k}" for n in range(8) for k in range(count))
    assert all(one.body == f"{(one.id or '').replace('-', ' ')} " * 20 for one in entries)
    assert all(part.stat().st_size <= 20_000 for part in parts)
    for part in parts:  # each file is nothing but whole entries
        assert re.fullmatch(rb"(\n## \[[^\n]*\n[^\n]*\n<!-- swarmbus [^\n]* -->\n)+", part.read_bytes())
