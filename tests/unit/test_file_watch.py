from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from swarmbus.file_watch import POLL_SECONDS, FileWatch

CHANGES: dict[str, Callable[[Path], object]] = {
    "appended to": lambda path: path.open("a").write("more"),
    "truncated": lambda path: os.truncate(path, 0),
    "renamed": lambda path: path.rename(path.with_name("x.md.1")),
    "removed": lambda path: path.unlink(),
    "replaced": lambda path: path.with_name("new").replace(path),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "new").write_text("new")
    path = tmp_path / "x.md"
    path.write_text("old")
    return path


@pytest.mark.parametrize("poll_only", [False, True], ids=["inotify", "polling"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_change_ends_the_wait(path: Path, change: str, poll_only: bool) -> None:
    with FileWatch(path, poll_only=poll_only) as watch:
        assert watch.is_watching is not poll_only
        assert watch.wait(0) is False
        threading.Timer(0.05, CHANGES[change], [path]).start()
        before = time.monotonic()
        assert watch.wait(5) is True
        if not poll_only:
            assert time.monotonic() - before < POLL_SECONDS


def test_a_change_between_two_waits_is_not_missed(path: Path) -> None:
    for poll_only in (False, True):
        with FileWatch(path, poll_only=poll_only) as watch:
            path.write_text(f"other text {poll_only}")
            assert watch.wait(5) is True


def test_creation_ends_the_wait(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    with FileWatch(path) as watch:
        assert watch.wait(0) is False
        path.touch()
        assert watch.wait(5) is True


def test_what_happens_to_other_files_does_not(path: Path) -> None:
    with FileWatch(path) as watch:
        path.with_name("x.md.2").write_text("other")
        path.with_name("new").write_text("other")
        assert watch.wait(0.2) is False


def test_nothing_happens_within_the_timeout(path: Path) -> None:
    with FileWatch(path) as watch:
        before = time.monotonic()
        assert watch.wait(0.1) is False
        assert 0.1 <= time.monotonic() - before < 2


def test_a_folder_that_appears_later_is_watched_then(tmp_path: Path) -> None:
    path = tmp_path / "later" / "x.md"
    with FileWatch(path) as watch:
        assert not watch.is_watching
        path.parent.mkdir()
        path.touch()
        assert watch.wait(5) is True
        assert watch.wait(0) is False
        assert watch.is_watching


def test_a_folder_that_is_replaced_is_watched_again(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "x.md"
    with FileWatch(path) as watch:
        folder.rename(tmp_path / "gone")
        assert watch.wait(5) is True
        folder.mkdir()
        path.touch()
        assert watch.wait(5) is True
        assert watch.wait(0.1) is False
        path.write_text("more")
        assert watch.wait(5) is True
        assert watch.is_watching


def test_without_a_free_inotify_instance_the_file_is_polled(path: Path) -> None:
    # Each instance is a file descriptor: a limit on those has the same effect as the one on instances,
    # which belongs to the whole host.
    script = f"""
import resource
from pathlib import Path
from swarmbus.file_watch import FileWatch
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
path = Path({str(path)!r})
watch = FileWatch(path)
assert not watch.is_watching
assert watch.wait(0.1) is False
path.touch()
assert watch.wait(5) is True
assert not watch.is_watching
print("polled")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20)
    assert done.stdout == "polled\n", done.stderr


def test_waiting_costs_next_to_no_cpu_time(path: Path) -> None:
    with FileWatch(path) as watch:
        before = time.process_time()
        watch.wait(1)
        assert time.process_time() - before < 0.05
