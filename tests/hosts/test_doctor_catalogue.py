"""The catalogue on booted hosts: what only a real systemd and Debian's mosquitto show.

One host a suite. Each fault is made, told by its own code alone, and mended by the fix as it is printed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hosts.conftest import MakeHost
from tests.hosts.test_doctor import UNIT, Type, _bad, _look, _settled, _typing
from tests.lab.hosts import Host

FILE = f".config/systemd/user/{UNIT}"
DROP_INS = f"{FILE}.d"
CONF_D = "/etc/mosquitto/conf.d"
RESTART = "sudo systemctl reset-failed mosquitto; sudo systemctl restart mosquitto"
RELOAD = "systemctl --user daemon-reload"
STATE = ".local/state/swarmbus"


def _drop_in(*lines: str) -> str:
    text = "\\n".join(["[Service]", *lines])
    return f"mkdir -p {DROP_INS} && printf '{text}\\n' >{DROP_INS}/x.conf && {RELOAD}"


def _conf(*lines: str) -> str:
    text = "\\n".join(lines)
    return f"printf '{text}\\n' | sudo tee {CONF_D}/70-other.conf; {RESTART}"


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def clinic(request: pytest.FixtureRequest, make_module_host: MakeHost) -> Host:
    """One host with one agent."""
    host = make_module_host(request.param, name="hospital", index=False)
    host.copy_checkout()
    host.ssh("./swarmbus/install.sh --agent-id coder", timeout=600)
    assert _settled(_typing(host)) == []
    return host


@pytest.fixture
def host(clinic: Host) -> Iterator[Host]:
    """The same, with nothing left of what the test before has done, if its fix has not mended it."""
    yield clinic
    left = (f"{CONF_D}/70-other.conf", f"{CONF_D}/60-additions.conf", DROP_INS, f"{FILE}.aside")
    some = " || ".join(f"test -e {path}" for path in left)
    again = f"{RELOAD}; {RESTART}; systemctl --user restart {UNIT}"
    clinic.ssh(f"if {some}; then sudo rm -rf {' '.join(left)}; {again}; fi", check=False)


def _told(type_: Type, *codes: str) -> dict[str, Any]:
    """Entries by code, once exactly these are amiss: the listener may first have to come back."""
    deadline = time.monotonic() + 20
    while (bad := _bad(entries := _look(type_))) != list(codes) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert bad == list(codes), [(entries[code]["message"], entries[code]["evidence"]) for code in bad]
    return entries


@pytest.mark.parametrize(
    ("breaking", "code"),
    [
        # the unit
        (f"echo '# mine' >>{FILE} && {RELOAD} && systemctl --user restart {UNIT}", "systemd.unit-drift"),
        (f"chmod o+w {FILE}", "systemd.unit-writable"),
        (
            f"{_drop_in('Environment=API_TOKEN=x')} && chmod 644 {DROP_INS}/x.conf &&"
            f" systemctl --user restart {UNIT}",
            "systemd.env-secret",
        ),
        # files
        (f"sudo touch {STATE}/coder/by-root", "own.foreign-owner"),
        (f"echo '{{' >{STATE}/.provision/manifest.json", "own.manifest"),
        # the broker's configuration
        (_conf("autosave_on_changes false", "autosave_interval 1800"), "broker.autosave-window"),
        (_conf("persistence false"), "broker.persistence-off"),
        (f"sleep 2; sudo touch {CONF_D}/50-swarmbus.conf", "broker.config-stale"),
        # what keeps it from starting
        (_conf("persistence_location /srv/"), "broker.config-duplicate"),
        (f"{_conf('nonsense true')}; sleep 1", "broker.config-invalid"),
        (f"{_conf('listener 1884 10.77.77.77')}; sleep 1", "broker.listener-address"),
        (
            # It is started again each time, until that is too often.
            "for i in $(seq 20); do systemctl is-failed mosquitto && break;"
            " sudo systemctl kill --signal KILL mosquitto; sleep 0.3; done",
            "broker.start-limit",
        ),
        ("sudo systemctl mask --now mosquitto", "broker.unit-masked"),
        ("sudo systemctl disable mosquitto", "broker.unit-disabled"),
        # its files
        ("sudo chown root: /var/lib/mosquitto", "broker.persistence-perms"),
        (
            f"cd /etc/mosquitto && sudo touch pw && sudo chown mosquitto: pw && sudo chmod 644 pw &&"
            f" {_conf('password_file /etc/mosquitto/pw')}",
            "broker.pwfile-perms",
        ),
    ],
    ids=lambda value: value if "." in value and " " not in value else "",
)
def test_a_fault_is_told_by_its_own_code_alone_and_mended_by_its_fix(
    host: Host, breaking: str, code: str
) -> None:
    type_ = _typing(host)
    host.ssh(breaking, check=False)
    fix = _told(type_, code)[code]["fix"]
    assert fix
    type_(fix[0])
    assert _settled(type_) == []


def test_a_disk_that_is_full_and_one_that_can_only_be_read_are_told_apart(host: Host) -> None:
    type_ = _typing(host)
    place = "/var/lib/mosquitto"
    host.ssh(f"sudo mount -t tmpfs -o size=2m,uid=$(id -u mosquitto) tmpfs {place}")
    assert place in _told(type_, "host.disk-space")["host.disk-space"]["message"]
    host.ssh(f"sudo mount -o remount,ro,size=200m {place}")
    type_(_told(type_, "host.fs-readonly")["host.fs-readonly"]["fix"][0])
    assert _settled(type_) == []
    host.ssh(f"sudo umount {place}")
    assert _settled(type_) == []


def test_another_users_broker_on_the_port_is_told(host: Host) -> None:
    type_ = _typing(host)
    host.ssh("sudo systemctl stop mosquitto && sudo -u guest mosquitto -p 1883 -d")
    assert "belongs to user" in _told(type_, "broker.foreign")["broker.foreign"]["message"]
    host.ssh("sudo pkill -u guest mosquitto; sleep 1; sudo systemctl start mosquitto")
    assert _settled(type_) == []


def test_a_unit_whose_program_is_gone_is_why_nothing_runs(host: Host) -> None:
    type_ = _typing(host)
    gone = _drop_in("ExecStart=", "ExecStart=/opt/gone start")
    host.ssh(f"{gone}; systemctl --user restart {UNIT}; sleep 1", check=False)
    entries = _told(type_, "systemd.exec-missing")
    assert entries["agent.listener-running"]["because"] == "systemd.exec-missing"
    # What the drop-in says stays in force: the fix writes the unit.
    type_(f"rm -r {DROP_INS} && {RELOAD} && systemctl --user restart {UNIT}")
    assert _settled(type_) == []


def test_another_swarmbus_that_wake_commands_would_find_is_told(host: Host) -> None:
    type_ = _typing(host)
    ours = ".local/bin/swarmbus"
    other = '#!/bin/sh\\nexec /home/pi/kept-swarmbus "$@"\\n'
    host.ssh(f"mv {ours} kept-swarmbus && printf '{other}' >{ours} && chmod +x {ours}")
    assert ours in _told(type_, "code.path-shadow")["code.path-shadow"]["message"]
    host.ssh(f"mv kept-swarmbus {ours}")
    assert _settled(type_) == []


def test_a_listener_address_that_comes_late_is_told_while_all_works(host: Host) -> None:
    type_ = _typing(host)
    address = host.ssh("hostname -I").stdout.split()[0]
    host.ssh(_conf(f"listener 1884 {address}"), check=False)
    if "network-online.target" in host.ssh("systemctl show --property After mosquitto").stdout:
        assert _settled(type_) == []  # Debian 13's unit waits for it
        return
    type_(_told(type_, "broker.boot-order")["broker.boot-order"]["fix"][0])
    assert _settled(type_) == []
    host.ssh("sudo rm -r /etc/systemd/system/mosquitto.service.d && sudo systemctl daemon-reload")


def test_a_broker_that_others_reach_without_a_password_is_told(host: Host) -> None:
    type_ = _typing(host)
    host.ssh(f"sudo sed -i 's/^bind_interface lo/#&/' {CONF_D}/50-swarmbus.conf; {RESTART}", check=False)
    _told(type_, "broker.exposed")
    host.ssh(f"sudo sed -i 's/^#bind_interface lo/bind_interface lo/' {CONF_D}/50-swarmbus.conf; {RESTART}")
    assert _settled(type_) == []


def test_a_second_listener_that_takes_localhost_away_is_told(host: Host) -> None:
    type_ = _typing(host)
    address = host.ssh("hostname -I").stdout.split()[0]
    ours = f"{CONF_D}/50-swarmbus.conf"
    edit = f"-e 's/^listener 1883/& {address}/' -e '/^bind_interface/d'"
    host.ssh(f"sudo cp {ours} {ours}.kept && sudo sed -i {edit} {ours}; {RESTART}", check=False)
    entries = _look(type_)
    assert "broker.no-loopback-listener" in _bad(entries)
    assert entries["broker.running"]["because"] == "broker.no-loopback-listener"
    type_(entries["broker.no-loopback-listener"]["fix"][0])
    _told_not(type_, "broker.no-loopback-listener", "broker.running")
    host.ssh(f"sudo mv {ours}.kept {ours}; sudo rm {CONF_D}/60-loopback.conf; {RESTART}", check=False)
    assert _settled(type_) == []


def _told_not(type_: Type, *codes: str) -> None:
    assert not set(codes) & set(_bad(_look(type_)))


def test_on_a_healthy_host_with_five_agents_all_is_well_and_quick(host: Host) -> None:
    type_ = _typing(host)
    for number in range(4):
        type_(f"swarmbus init --agent-id more-{number} --yes")
    assert _settled(type_) == []
    document = json.loads(type_("swarmbus doctor --json").stdout)
    assert len(document["agents"]) == 5
    assert document["summary"]["ok"] > 250
    # 0.2 s on a quiet machine; this bound is for one that is busy with other tests.
    assert document["seconds"] < 5
    skipped = [entry for entry in document["checks"] if entry["status"] == "skip"]
    of_wakes = {entry["code"] for entry in skipped if entry["category"] == "agent"}
    assert of_wakes == {"agent.wake-quiet", "agent.wakes-paused", "agent.wake-budget"}, "nothing wakes them"
    assert {entry["category"] for entry in skipped} <= {"agent", "host", "tailscale", "broker", "plugin"}
