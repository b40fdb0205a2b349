"""Facts: from a made-up machine where they differ, from this one where they are what they are."""

from __future__ import annotations

import platform
import socket
import sys
from pathlib import Path

import pytest

from swarmbus.provision.host import LocalInspector, gather
from swarmbus.provision.local_system import LocalSystem
from swarmbus.provision.resources.package import dpkg_status, dpkg_version, installed_packages
from swarmbus.provision.resources.unit import show_units
from swarmbus.provision.system import Result
from tests.lab.mosquitto import Broker
from tests.provision.fake_system import FakeSystem
from tests.provision.installing import inspector

# captured: systemctl 252, `show --property … -- swarmbus-a.service nothing.service masked.service`
SHOWN = """\
Id=swarmbus-a.service
LoadState=loaded
ActiveState=activating
SubState=auto-restart
UnitFileState=enabled
Result=exit-code

Id=nothing.service
LoadState=not-found
ActiveState=inactive
SubState=dead
UnitFileState=
Result=success

Id=masked.service
LoadState=masked
ActiveState=inactive
SubState=dead
UnitFileState=masked
Result=success
"""

STATUS = """\
Package: mosquitto-clients
Status: install ok installed
Version: 9

Package: mosquitto
Status: deinstall ok config-files
Version: 2.0.11-1.2+deb12u2

Package: libmosquitto1
Status: install ok installed
Version: 2.0.11-1.2+deb12u2
"""


def test_one_question_for_several_units() -> None:
    system = FakeSystem(programs=lambda _, argv, root: Result(argv, 0, stdout=SHOWN))
    units = show_units(system, "user", ["swarmbus-a.service", "nothing.service", "masked.service"])
    assert len(system.ran) == 1
    assert units["swarmbus-a.service"].running is False, "it waits for its next restart"
    assert units["nothing.service"].load == "not-found"
    assert units["masked.service"].enabled == "masked"


def test_a_package_of_which_only_the_configuration_is_left_is_not_installed() -> None:
    system = FakeSystem()
    system.put("/var/lib/dpkg/status", STATUS)
    assert dpkg_status(system, "mosquitto") == "config-files"
    assert dpkg_status(system, "libmosquitto1") == "installed"
    assert dpkg_status(system, "mosquitto-clients") == "installed"
    assert dpkg_version(system, "libmosquitto1") == "2.0.11-1.2+deb12u2"
    assert dpkg_status(system, "mosq") is None


def test_what_is_installed_and_what_it_depends_on() -> None:
    system = FakeSystem()
    needs = "libc6 (>= 2.34), libcjson1 (>= 1.7.5) | libcjson2, lsb-base"
    system.put("/var/lib/dpkg/status", f"{STATUS}Depends: {needs}\nPre-Depends: dpkg:any (>= 1.17)\n")
    assert installed_packages(system) == {
        "mosquitto-clients": frozenset(),
        "libmosquitto1": frozenset({"libc6", "libcjson1", "libcjson2", "lsb-base", "dpkg"}),
    }


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (None, "nothing"),
        (b"\x20\x02\x00\x00", "mqtt"),
        (b"\x20\x02\x00\x05", "mqtt-refuses"),
        (b"HTTP/1.1 400 Bad Request", "other"),
        (b"", "other"),
    ],
)
def test_who_is_on_the_port(answer: bytes | None, wanted: str) -> None:
    system = FakeSystem(answers={1883: answer} if answer is not None else {})
    assert gather(system, port=1883, inspector=inspector()).port.answers == wanted


def test_systemctl_without_systemd_is_no_systemd() -> None:
    system = FakeSystem(installed={"systemctl": "/usr/bin/systemctl"})
    assert gather(system, port=1883, inspector=inspector()).init == "none"


def test_sudo_is_not_asked_where_nothing_can_need_it() -> None:
    system = FakeSystem()
    system.put("/etc/mosquitto/conf.d/50-swarmbus.conf")
    assert gather(system, port=1883, inspector=inspector()).root == "unasked"
    assert gather(FakeSystem(), port=1883, inspector=inspector()).root == "sudo"


def _with_systemd(version: str | None, told: str = "") -> FakeSystem:
    system = FakeSystem(programs=lambda _, argv, root: Result(argv, 0, stdout=told))
    system.put("/run/systemd/system/x")
    if version is not None:
        stanza = f"Package: systemd\nStatus: install ok installed\nVersion: {version}\n"
        system.put("/var/lib/dpkg/status", stanza)
    return system


def test_the_version_of_systemd_is_read_where_dpkg_has_it() -> None:
    system = _with_systemd("257.13-1~deb13u1")
    assert gather(system, port=1883, inspector=inspector()).systemd == 257
    assert ("systemctl", "--version") not in system.ran


@pytest.mark.parametrize(
    ("told", "wanted"), [("systemd 255 (255.4-1.fc40)\n+PAM +AUDIT\n", 255), ("", None), ("x", None)]
)
def test_elsewhere_systemctl_tells_its_version(told: str, wanted: int | None) -> None:
    assert gather(_with_systemd(None, told), port=1883, inspector=inspector()).systemd == wanted


def test_sudo_is_not_asked_where_units_of_the_system_are_there_already() -> None:
    system = _with_systemd("252.39-1")
    system.put("/etc/mosquitto/conf.d/50-swarmbus.conf")
    assert gather(system, port=1883, inspector=inspector()).root == "sudo", "linger is off"
    system.put("/etc/systemd/system/swarmbus-failed-1000@.service")
    assert gather(system, port=1883, inspector=inspector()).root == "unasked"


@pytest.mark.parametrize(("path", "wanted"), [("/.dockerenv", "docker"), ("/run/.containerenv", "podman")])
def test_containers(path: str, wanted: str) -> None:
    system = FakeSystem()
    system.put(path)
    assert gather(system, port=1883, inspector=inspector()).container == wanted


def test_this_machine() -> None:
    host = gather(LocalSystem(), port=1)
    assert host.python == sys.executable
    assert host.hostname == socket.gethostname()
    assert host.init == ("systemd" if Path("/run/systemd/system").is_dir() else "none")
    assert host.distribution.id == platform.freedesktop_os_release()["ID"]
    assert host.port.answers == "nothing"


@pytest.mark.broker
def test_a_real_broker_answers(broker: Broker) -> None:
    assert gather(LocalSystem(), port=broker.port).port.answers == "mqtt"


@pytest.mark.broker
def test_a_real_broker_that_wants_a_password(tmp_path: Path) -> None:
    with Broker(tmp_path, ["allow_anonymous false"]) as broker:
        assert gather(LocalSystem(), port=broker.port).port.answers == "mqtt-refuses"


def test_the_program_on_a_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        name = LocalInspector().program_on_port(server.getsockname()[1])
    assert name == Path("/proc/self/comm").read_text().strip()
