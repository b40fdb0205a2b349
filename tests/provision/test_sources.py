"""Where facts come from: what real programs and files print, as it was recorded, and what is made of it."""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
from pathlib import Path

import pytest

from swarmbus.provision.local_system import LocalSystem
from swarmbus.provision.sources.files import Files, Mount, parse_mounts
from swarmbus.provision.sources.journal import UnitFailure, parse_failures
from swarmbus.provision.sources.local_broker import LogLine, parse_log
from swarmbus.provision.sources.memo import CouldNotLook
from swarmbus.provision.sources.processes import Processes, parse_deleted_code
from swarmbus.provision.sources.sockets import Listening, parse_addresses, parse_listening
from swarmbus.provision.sources.sys_topics import SysTopics
from swarmbus.provision.sources.versions import older
from tests.provision.fake_system import FakeSystem

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:075B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 17 1 0 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 18 1 0 100 0 0 10 0
   2: 0100007F:075B 0100007F:9C40 01 00000000:00000000 00:00000000 00000000   117        0 19 1 0 20 4 30 -1
"""
TCP6 = """\
  sl  local_address                     remote_address                     st tx_queue rx_queue tr
   0: 00000000000000000000000001000000:075B 00000000000000000000000000000000:0000 0A 0:0 00:0 0 1000 0 20
"""
MAPS = """\
5581c0a00000-5581c0a01000 r--p 00000000 08:01 1 /usr/bin/python3.11 (deleted)
5581c0a01000-5581c0c9e000 r-xp 00001000 08:01 1 /usr/bin/python3.11 (deleted)
7f1a00000000-7f1a00001000 r-xp 00000000 08:01 2 /home/pi/my venv/lib/_core.so (deleted)
7f1a00002000-7f1a00003000 r-xp 00000000 08:01 3 /usr/lib/libc.so.6
7f1a00004000-7f1a00005000 rwxp 00000000 00:01 4 /memfd:libffi (deleted)
7f1a00006000-7f1a00007000 r-xp 00000000 00:00 0 [vdso]
"""


def test_listening_sockets_are_taken_out_of_the_kernels_tables() -> None:
    assert list(parse_listening(TCP, "little")) == [
        Listening(ipaddress.ip_address("127.0.0.1"), 1883, 0),
        Listening(ipaddress.ip_address("0.0.0.0"), 22, 0),
    ]
    assert list(parse_listening(TCP6, "little")) == [Listening(ipaddress.ip_address("::1"), 1883, 1000)]
    big = TCP.replace("0100007F", "7F000001")
    assert next(parse_listening(big, "big")).address == ipaddress.ip_address("127.0.0.1")


def test_addresses_are_taken_out_of_ip() -> None:
    text = (
        "1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever\n"
        "1: lo    inet6 ::1/128 scope host \\       valid_lft forever preferred_lft forever\n"
        "2: host0    inet 10.0.0.2/24 brd 10.0.0.255 scope global host0\\       valid_lft forever\n"
    )
    assert [str(one) for one in parse_addresses(text)] == ["127.0.0.1", "::1", "10.0.0.2"]


def test_code_that_is_gone_is_told_once_and_memory_files_are_none() -> None:
    assert parse_deleted_code(MAPS) == ("/usr/bin/python3.11", "/home/pi/my venv/lib/_core.so")


def test_mounts_with_blanks_are_read() -> None:
    text = "/dev/sda1 / ext4 rw,relatime 0 0\n//nas/x /home/pi/my\\040disk cifs ro,noexec 0 0\n"
    assert parse_mounts(text)[1] == Mount("//nas/x", Path("/home/pi/my disk"), "cifs", ("ro", "noexec"))


def test_a_path_is_on_the_deepest_and_latest_mount() -> None:
    system = FakeSystem()
    system.put(
        "/proc/self/mounts", "a / ext4 rw 0 0\nb /home ext4 rw 0 0\nc /home xfs rw 0 0\nd /homes nfs rw 0 0\n"
    )
    system.put("/home/pi/x")
    files = Files(system)
    assert files.mount_of(Path("/home/pi/not/yet")).device == "c"
    assert files.mount_of(Path("/etc")).device == "a"


def test_links_are_followed_to_their_end() -> None:
    system = FakeSystem()
    system.put("/usr/bin/python3.11", mode=0o755)
    system.link("/home/pi/venv-2/bin/python", "python3")
    system.link("/home/pi/venv-2/bin/python3", "../../../../usr/bin/python3.11")
    system.link("/home/pi/venv", "venv-2")
    system.link("/loop", "/loop")
    files = Files(system)
    assert files.real(Path("/home/pi/venv/bin/python")) == Path("/usr/bin/python3.11")
    assert files.real(Path("/home/pi/venv/bin/nothing")) is None
    assert files.real(Path("/loop")) is None


def test_real_links_are_followed_as_python_follows_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").symlink_to("../c")
    (tmp_path / "c").write_text("")
    assert Files(LocalSystem()).real(tmp_path / "a/b") == (tmp_path / "a/b").resolve()


def test_failures_of_units_are_taken_out_of_the_journal() -> None:
    text = (
        '{"USER_UNIT":"swarmbus-coder.service","UNIT_RESULT":"watchdog","__REALTIME_TIMESTAMP":"1700000000500000"}\n'
        '{"UNIT":"mosquitto.service","UNIT_RESULT":"exit-code","__REALTIME_TIMESTAMP":"1700000001000000"}\n'
        '{"MESSAGE":[1,2]}\nnonsense\n'
    )
    assert list(parse_failures(text)) == [
        UnitFailure("swarmbus-coder.service", 1700000000.5, "watchdog"),
        UnitFailure("mosquitto.service", 1700000001.0, "exit-code"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "1795629834: Client x closed its connection.",
        "1795629834.413979 clinic mosquitto[1944]: 1795629834: Client x closed its connection.",
        "1795629834.413979 clinic mosquitto[1944]: Client x closed its connection.",
    ],
)
def test_mosquittos_log_is_read_from_its_file_and_from_the_journal(line: str) -> None:
    assert list(parse_log(f"a line without a time\n{line}\n")) == [
        LogLine(1795629834, "Client x closed its connection.")
    ]


def test_what_a_broker_does_not_tell_is_unknown_and_not_zero() -> None:
    topics = SysTopics(
        {
            "$SYS/broker/version": "mosquitto version 2.0.21",
            "$SYS/broker/clients/connected": "7",
            "$SYS/broker/connection/a/b/state": "1",
            "$SYS/broker/connection/c/state": "0",
            "$SYS/broker/uptime": "17 seconds",
            "agents/x/presence": "1",
        }
    )
    assert (topics.number("clients/connected"), topics.number("publish/messages/dropped")) == (7, None)
    assert (topics.number("uptime"), topics.version) == (None, "2.0.21")
    assert topics.bridges() == {"a/b": True, "c": False}
    assert not SysTopics({"agents/x/presence": "1"})


VERSIONS = [
    "1:1.0",
    "2.0.11-1.2",
    "2.0.11-1.2+deb12u1",
    "2.0.11-1.2+deb12u2",
    "2.0.11",
    "2.0.11-1.2~bpo1",
    "2.0.9-1",
    "2.0.21-1",
    "2.0a",
    "2.0",
    "2.0~rc1",
]


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="there is no dpkg to compare with")
@pytest.mark.parametrize("one", VERSIONS)
def test_versions_are_compared_as_dpkg_compares_them(one: str) -> None:
    for other in VERSIONS:
        says = subprocess.run(["dpkg", "--compare-versions", one, "lt", other]).returncode == 0
        assert older(one, other) is says, (one, other)


def test_of_a_process_that_is_not_there_nothing_is_known() -> None:
    processes = Processes(FakeSystem())
    for look in (processes.started, processes.memory, processes.open_files, processes.open_files_limit):
        with pytest.raises(CouldNotLook):
            look(77)


def test_facts_of_a_real_process_are_read() -> None:
    import os
    import time

    processes = Processes(LocalSystem())
    assert 0 < processes.memory(os.getpid()) < 1 << 34
    assert processes.open_files(os.getpid()) >= 3
    assert processes.open_files_limit(os.getpid()) >= 64
    assert time.time() - 86_400 < processes.started(os.getpid()) <= time.time() + 1
    assert processes.deleted_code(os.getpid()) == ()


def test_room_on_a_real_disk_is_read(tmp_path: Path) -> None:
    disk = LocalSystem().disk(tmp_path)
    assert 0 < disk.free <= disk.size
    seen = LocalSystem().stat(tmp_path)
    assert seen is not None
    assert (seen.modified, seen.changed) == (tmp_path.stat().st_mtime, tmp_path.stat().st_ctime)
