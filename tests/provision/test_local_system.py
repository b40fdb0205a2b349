"""The one door to the machine, on the machine."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from swarmbus.errors import CannotRun, Conflict, StorageError
from swarmbus.provision.foreign_hands import refuse_foreign_hands
from swarmbus.provision.local_system import LocalSystem
from swarmbus.provision.system import NOT_FOUND, TIMED_OUT

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving files to other users needs root")


@pytest.fixture
def system() -> LocalSystem:
    return LocalSystem()


def test_a_file_is_replaced_in_one_step(system: LocalSystem, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    before = path.stat().st_ino
    held = path.open()
    system.write_file(path, b"new", mode=0o640)
    assert (path.read_text(), held.read(), path.stat().st_mode & 0o777) == ("new", "old", 0o640)
    assert path.stat().st_ino != before
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]
    held.close()


def test_what_a_killed_write_left_is_no_obstacle(system: LocalSystem, tmp_path: Path) -> None:
    (tmp_path / ".f.swarmbus-tmp").write_text("half")
    system.write_file(tmp_path / "f", b"whole", mode=0o600)
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_a_link_is_replaced_and_not_followed(system: LocalSystem, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("theirs")
    (tmp_path / "link").symlink_to("target")
    system.write_file(tmp_path / "link", b"ours", mode=0o600)
    assert (tmp_path / "target").read_text() == "theirs"
    assert not (tmp_path / "link").is_symlink()


def test_a_full_disk_leaves_the_old_file(system: LocalSystem) -> None:
    with pytest.raises(StorageError, match="cannot change /dev/full"):
        system.append(Path("/dev/full"), b"x")


@needs_root
def test_a_folder_of_another_user_is_refused(system: LocalSystem, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, 12345)
    (tmp_path / "link").symlink_to("theirs")
    for path in (tmp_path / "theirs/f", tmp_path / "link/f"):
        with pytest.raises(StorageError, match="belongs to user 12345"):
            system.write_file(path, b"x", mode=0o600)


@needs_root
def test_a_link_of_another_user_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to("mine")
    os.lchown(tmp_path / "link", 12345, 12345)
    with pytest.raises(StorageError, match=r"link belongs to user 12345"):
        refuse_foreign_hands(tmp_path / "link/f", uid=0, root=False)


def test_a_folder_that_everybody_can_write_is_refused_without_sticky_bit(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(StorageError, match="others may write"):
        refuse_foreign_hands(tmp_path / "open/f", uid=os.geteuid(), root=False)
    (tmp_path / "open").chmod(0o1777)
    refuse_foreign_hands(tmp_path / "open/f", uid=os.geteuid(), root=False)


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(StorageError, match="too many symbolic links"):
        refuse_foreign_hands(tmp_path / "a/f", uid=os.geteuid(), root=False)


def test_programs(system: LocalSystem) -> None:
    assert system.run(["sh", "-c", "cat; exit 3"], stdin=b"in").stdout == "in"
    assert system.run(["sh", "-c", "exit 3"]).status == 3
    assert system.run(["no-such-program"]).status == NOT_FOUND
    assert system.run(["sleep", "9"], timeout=0.1).status == TIMED_OUT
    with pytest.raises(CannotRun, match="tidying failed: last word"):
        system.run(["sh", "-c", "echo first; echo last word >&2; exit 1"]).check("tidying")


def test_the_run_time_folder_of_another_user_is_not_handed_on(
    system: LocalSystem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert system.environ["XDG_RUNTIME_DIR"] == str(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/proc/no-such-folder")
    assert system.environ.get("XDG_RUNTIME_DIR") in (None, f"/run/user/{os.geteuid()}")


def test_a_background_process_outlives_the_call(system: LocalSystem, tmp_path: Path) -> None:
    pid = system.spawn(["/bin/sh", "-c", "echo hello; exec sleep 60"], log=tmp_path / "log")
    seen = system.process(pid)
    assert seen is not None
    assert os.getsid(pid) == pid
    while (tmp_path / "log").read_text() != "hello\n":
        system.sleep(0.01)
    other = type(seen)(pid, seen.start_ticks + 1, seen.argv, seen.uid)
    system.signal(other, signal.SIGKILL)  # of another process that had this pid once
    assert system.process(pid) is not None
    system.signal(seen, signal.SIGKILL)
    while system.process(pid) is not None:
        system.sleep(0.01)


def test_the_lock_is_held_by_one(system: LocalSystem, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with system.locked(lock, 0.0):
        assert (system.lock_holder(lock) or b"").decode().strip() == str(os.getpid())
        with pytest.raises(Conflict, match=f"pid {os.getpid()}"), system.locked(lock, 0.0):
            pass
    assert system.lock_holder(lock) is None
    with system.locked(lock, 0.0):
        pass


def test_dialling(system: LocalSystem) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(connection.recv(9)[::-1])
            connection, _ = server.accept()
            with connection:
                connection.recv(9)

        thread = threading.Thread(target=serve)
        thread.start()
        assert system.dial("127.0.0.1", port, b"abc") == b"cba"
        assert system.dial("127.0.0.1", port, b"abc", 0.1) == b""
        thread.join()
    assert system.dial("127.0.0.1", port, b"abc") is None
