"""Checks of the machine, its Pythons and the code on it, over canned facts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from swarmbus.provision.system import DiskSeen, Result
from tests.provision.doctor_facts import BROKER_PID, NOW, PACKAGES, PID, Host, bad, presence

Break = Callable[[Host], None]
MIB = 1 << 20
CGROUP = "/sys/fs/cgroup/user.slice/swarmbus-coder.service/memory.events"


def _says(command: str, stdout: str, status: int = 0, stderr: str = "") -> Break:
    return lambda host: host.answers.update({command: Result((), status, stdout, stderr)})


def _put(path: str, text: str = "", *, mode: int = 0o644) -> Break:
    return lambda host: host.system.put(path, text, mode)


def _gone(*paths: str) -> Break:
    def breaking(host: Host) -> None:
        for path in paths:
            del host.system.files[Path(path)]

    return breaking


def _disk(free: int, size: int = 32 << 30, files_free: int = 900_000) -> Break:
    return lambda host: host.system.disks.update({Path("/"): DiskSeen(size, free, 1_000_000, files_free)})


def _others(**ahead: float) -> Break:
    """Presence of other hosts that was given so many seconds from now."""

    def breaking(host: Host) -> None:
        from datetime import UTC, datetime

        others = {
            name: presence(
                agent=name,
                host=name,
                ts=datetime.fromtimestamp(NOW + seconds, UTC).isoformat(),
                interval=60.0,
            )
            for name, seconds in ahead.items()
        }
        host.other(presences={"coder": presence(), **others})

    return breaking


def _wire(number: int, hours: float) -> Break:
    def breaking(host: Host) -> None:
        from datetime import UTC, datetime

        since = datetime.fromtimestamp(NOW - hours * 3600, UTC).isoformat()
        host.other(presences={"writer": presence(agent="writer", host="pi9", wire=number, since=since)})

    return breaking


def _inotify(host: Host) -> None:
    for number in range(110):
        host.system.link(f"/proc/{PID}/fd/{number}", "anon_inode:inotify")


def _dangling(host: Host) -> None:
    del host.system.files[Path("/usr/bin/python3.11")]


def _upgraded(host: Host) -> None:
    host.system.put("/usr/bin/python3.13", mode=0o755)
    host.system.link("/home/pi/venv/bin/python", "/usr/bin/python3.13")


def _newer_library(host: Host) -> None:
    host.system.files[Path(f"{PACKAGES}/paho_mqtt-2.1.0.dist-info/RECORD")].changed = NOW - 60


def _second_swarmbus(host: Host) -> None:
    host.system.put("/usr/bin/swarmbus", mode=0o755)


def _another_environment(host: Host) -> None:
    host.system.put("/opt/venv/pyvenv.cfg", "version = 3.11.2\n")
    host.system.put("/opt/venv/bin/swarmbus", mode=0o755)
    host.system.link("/opt/venv/bin/python", "/usr/bin/python3.11")
    host.unit["ExecStart"] = "{ path=/opt/venv/bin/python ; argv[]=/opt/venv/bin/python -m swarmbus }"


def _no_environment(host: Host) -> None:
    del host.system.files[Path("/home/pi/venv/pyvenv.cfg")]
    host.system.link("/home/pi/venv/bin/python", "/usr/bin/python3.11")


@pytest.mark.parametrize(
    ("code", "breaking", "status", "words"),
    [
        (
            "host.clock-unsynced",
            _says("timedatectl show --property=NTPSynchronized --value", "no\n"),
            "warn",
            "set by nobody",
        ),
        (
            "host.clock-skew",
            _others(pi9=600, pi8=602),
            "fail",
            "2 of 2 other hosts are 601 s ahead: this clock",
        ),
        ("host.clock-skew", _others(pi9=20, pi8=-3), "warn", "the clock of pi9 is fast"),
        ("host.disk-space", _disk(3 * MIB), "fail", "is full: 3 MiB (0%) left"),
        ("host.disk-space", _disk(600 * MIB), "warn", "is nearly full: 600 MiB (2%) left"),
        ("host.inodes", _disk(9 << 30, files_free=12), "fail", "12 of 1000000 left"),
        (
            "host.fs-readonly",
            _put("/proc/self/mounts", "/dev/mmcblk0p2 / ext4 ro,noatime 0 0\n"),
            "fail",
            "/, on which state is, can only be read",
        ),
        (
            "host.undervoltage",
            _says("/usr/bin/vcgencmd get_throttled", "throttled=0x50005\n"),
            "warn",
            "weak now",
        ),
        (
            "host.undervoltage",
            _says("/usr/bin/vcgencmd get_throttled", "throttled=0x50000\n"),
            "warn",
            "since boot",
        ),
        ("host.oom-kill", lambda host: host.unit.update(Result="oom-kill"), "fail", "no memory left"),
        ("host.oom-kill", _put(CGROUP, "low 0\noom 1\noom_kill 2\n"), "fail", "no memory left"),
        ("host.inotify", _inotify, "warn", "pi has 110 of 128 inotify instances"),
        (
            "host.fd-limit",
            _put(f"/proc/{BROKER_PID}/limits", "Max open files            66             66     files\n"),
            "warn",
            "66 open files, and has 3 clients",
        ),
        ("host.journal-volatile", _gone("/var/log/journal"), "info", "no log tells why"),
        (
            "host.memory",
            _put("/proc/meminfo", "MemTotal:  4000000 kB\nMemAvailable:  20000 kB\n"),
            "warn",
            "19 of 3906 MiB",
        ),
        ("python.system-packages", _no_environment, "warn", "/usr/bin/python3.11"),
        ("python.interpreter-missing", _dangling, "fail", "leads to no Python any more"),
        ("python.venv-version", _upgraded, "fail", "is Python 3.13 now, and its packages are for 3.11"),
        ("code.deps-stale", _newer_library, "warn", "paho_mqtt-2.1.0 came after"),
        (
            "code.deleted-mappings",
            _put(f"/proc/{PID}/maps", "7f00-7f01 r-xp 0 08:01 9 /opt/venv/x.so (deleted)\n"),
            "fail",
            "runs /opt/venv/x.so, which was replaced",
        ),
        (
            "code.two-installs",
            _second_swarmbus,
            "warn",
            "/home/pi/.local/bin/swarmbus hides /usr/bin/swarmbus",
        ),
        ("code.two-installs", _another_environment, "warn", "is the swarmbus in /opt/venv, this command"),
        ("code.path-shadow", _another_environment, "warn", "would find /home/pi/.local/bin/swarmbus"),
        ("code.wire-skew", _wire(2, 30), "warn", "writer on pi9 speaks wire 2, for 30 h now; we 1"),
    ],
)
def test_what_is_amiss_is_told(code: str, breaking: Break, status: str, words: str) -> None:
    host = Host()
    assert host.ask(code).status == "ok"
    breaking(host)
    result = host.ask(code)
    assert (result.status, words in result.message) == (status, True), result.message


def _container(host: Host) -> None:
    host.system.put("/run/systemd/container", "systemd-nspawn")


def _hidden(path: str) -> Break:
    return lambda host: host.system.hidden.add(Path(path))


def _without(program: str) -> Break:
    def breaking(host: Host) -> None:
        host.system.installed = {
            name: path for name, path in host.system.installed.items() if name != program
        }

    return breaking


@pytest.mark.parametrize(
    ("code", "breaking", "reason"),
    [
        ("host.clock-unsynced", _container, "belongs to the machine around this container"),
        (
            "host.clock-unsynced",
            _says("timedatectl show --property=NTPSynchronized --value", "", 1, "no bus"),
            "no bus",
        ),
        ("host.clock-skew", lambda host: host.other(presences=None), "does not let us read presence"),
        ("host.undervoltage", _without("vcgencmd"), "no Raspberry Pi"),
        ("host.inotify", _gone(f"/proc/{PID}/fd/0"), "are hidden"),
        ("host.fd-limit", lambda host: host.sys(clients__connected=None), "how many clients"),
        ("host.fd-limit", lambda host: host.set(broker="hub"), "another machine's"),
        ("host.memory", _gone("/proc/meminfo"), "does not say"),
        ("host.journal-volatile", Host.without_systemd, "systemd does not run here"),
        ("code.deps-stale", _gone("/home/pi/venv/pyvenv.cfg"), "no environment of its own"),
        ("code.deleted-mappings", _gone(f"/proc/{PID}/maps"), "does not tell what it has mapped"),
        ("code.wire-skew", lambda host: host.other(presences=None), "does not let us read presence"),
        (
            "python.interpreter-missing",
            lambda host: host.unit.update(ExecStart=""),
            "no telling which program",
        ),
    ],
)
def test_what_cannot_be_seen_is_neither_good_nor_bad(code: str, breaking: Break, reason: str) -> None:
    host = Host()
    breaking(host)
    result = host.ask(code)
    assert (result.status, reason in result.message) == ("skip", True), result.message


@pytest.mark.parametrize(
    ("breaking", "code"),
    [
        (_dangling, "python.interpreter-missing"),
        (_upgraded, "python.venv-version"),
        (_second_swarmbus, "code.two-installs"),
        (_disk(3 * MIB), "host.disk-space"),
    ],
)
def test_only_the_root_cause_is_told(breaking: Break, code: str) -> None:
    host = Host()
    breaking(host)
    assert [told for told, _ in bad(host.doctor())] == [code]


@pytest.mark.parametrize(("number", "hours"), [(1, 100), (2, 3)])
def test_hosts_that_are_upgraded_one_by_one_may_differ_for_a_day(number: int, hours: float) -> None:
    host = Host()
    _wire(number, hours)(host)
    assert host.ask("code.wire-skew").status == "ok"


def test_presence_of_some_age_says_nothing_of_a_clock() -> None:
    host = Host()
    _others(pi9=-3000, pi8=4)(host)
    assert host.ask("host.clock-skew").status == "ok"


def test_a_large_disk_with_a_tenth_left_is_not_nearly_full() -> None:
    host = Host()
    _disk(40 << 30, size=500 << 30)(host)
    assert host.ask("host.disk-space").status == "ok"


def test_a_full_disk_of_the_broker_counts_by_the_size_of_its_database() -> None:
    host = Host()
    host.system.put("/proc/self/mounts", "/dev/a / ext4 rw 0 0\n/dev/b /var ext4 rw 0 0\n")
    host.system.put("/var/lib/mosquitto/mosquitto.db", "x" * (1 << 20), uid=110)
    host.system.disks[Path("/var")] = DiskSeen(32 << 30, 2 << 30, 100, 90)
    assert host.ask("host.disk-space").evidence == {}
    host.system.disks[Path("/var")] = DiskSeen(32 << 30, 60 << 20, 100, 90)
    result = host.ask("host.disk-space")
    assert (result.status, result.evidence["least_bytes"]) == ("fail", 64 << 20)
