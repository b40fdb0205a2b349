"""The rendered units on booted hosts: both scopes, their sandbox, going from one to the other, the rescue."""

from __future__ import annotations

import json
import time

import pytest

from tests.hosts.conftest import MakeHost
from tests.lab.hosts import Host

SWARMBUS = ".local/bin/swarmbus"
PYTHON = ".local/share/swarmbus/venv/bin/python3"
UNIT = "swarmbus-planner.service"
INBOX = "Notizen & Post/in 100%.md"
# Runs through the user's own systemd, which is not in the sandbox of who asks it; sudo is the proof.
_WAKE = """#!/bin/sh
systemd-run --user --wait --quiet --collect sh -c 'sudo -n id -u >~/woken-as'
"""


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def host(request: pytest.FixtureRequest, make_module_host: MakeHost) -> Host:
    """One host of each suite for all tests of this file; each test asks for the scope that it is about."""
    booted = make_module_host(request.param)
    booted.copy_checkout()
    booted.ssh("./swarmbus/install.sh --no-init")
    return booted


def _init(host: Host, scope: str) -> None:
    host.ssh(
        ["env", SWARMBUS, "init", "--agent-id=planner", f"--inbox=~/{INBOX}", f"--scope={scope}", "--yes"]
    )


def _systemctl(scope: str) -> str:
    return "systemctl --user" if scope == "user" else "systemctl"


def _file(scope: str) -> str:
    return f"~/.config/systemd/user/{UNIT}" if scope == "user" else f"/etc/systemd/system/{UNIT}"


def _show(host: Host, scope: str, name: str) -> str:
    return host.ssh(f"{_systemctl(scope)} show --property {name} --value {UNIT}").stdout.strip()


def _linger(host: Host) -> str:
    return host.ssh("ls /var/lib/systemd/linger").stdout


def _is_well(host: Host) -> None:
    host.ssh(f"{SWARMBUS} doctor")
    plan = json.loads(host.ssh(f"{SWARMBUS} init --dry-run --json").stdout)
    assert not plan["changed"], plan
    body = f"written at {time.monotonic()}"
    send = [SWARMBUS, "send", "--agent-id=planner", "--to=planner", "--subject=s", "--body", body]
    assert host.ssh([*send, "--wait=stored"]).stdout.startswith("stored")
    host.ssh(f"until grep -qF '{body}' '{INBOX}'; do sleep 0.1; done", timeout=20)


def test_units_of_the_system_from_a_bare_host_over_a_reboot(host: Host) -> None:
    _init(host, "system")
    assert _linger(host) == ""
    _is_well(host)
    host.ssh(f"{SWARMBUS} restart")
    host.reboot()
    _is_well(host)
    assert _linger(host) == ""
    assert host.ssh("ls .config/systemd", check=False).returncode != 0, (
        "nothing is left for the user's systemd"
    )


@pytest.mark.parametrize(("scope", "tenths"), [("system", 25), ("user", 64)])
def test_systemd_has_no_complaint_and_the_sandbox_is_in_force(host: Host, scope: str, tenths: int) -> None:
    _init(host, scope)
    judged = host.ssh(f"systemd-analyze --{scope} verify --man=no --recursive-errors=yes {_file(scope)}")
    assert judged.stdout + judged.stderr == ""
    host.ssh(
        f"systemd-analyze --{scope} security --no-pager --threshold={tenths} --offline=yes {_file(scope)}"
    )
    pid = _show(host, scope, "MainPID")
    status = dict(line.split(":\t") for line in host.read(f"/proc/{pid}/status").splitlines())
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    in_home = f"nsenter --target={pid} --mount touch /home/pi/written /etc/written"
    if scope == "system":
        assert int(status["CapBnd"], 16) == 0
        assert "Read-only file system" in host.run_as_root(in_home, check=False).stderr
    _is_well(host)


@pytest.mark.parametrize(("before", "after"), [("system", "user"), ("user", "system")])
def test_going_from_one_scope_to_the_other_keeps_the_messages(host: Host, before: str, after: str) -> None:
    _init(host, before)
    for number in range(3):
        send = f"{SWARMBUS} send --agent-id planner --to planner --subject {before}{number} --body b"
        host.ssh(f"{send} --wait stored")
    _init(host, after)
    assert host.ssh(f"{_systemctl(before)} is-active {UNIT}", check=False).stdout == "inactive\n"
    assert host.ssh(f"{_systemctl(after)} is-active {UNIT}").stdout == "active\n"
    assert host.ssh(f"ls {_file(before)}", check=False).returncode != 0
    assert _linger(host) == ("pi\n" if after == "user" else "")
    got = host.ssh(f"{SWARMBUS} read --agent-id planner").stdout
    assert [f"{before}{number}" in got for number in range(3)] == [True, True, True], got
    _is_well(host)


def test_a_unit_of_the_system_wakes_through_the_users_own_systemd(host: Host) -> None:
    _init(host, "system")
    host.write("/home/pi/wake", _WAKE, owner="pi", mode=0o755)
    host.ssh(f"{SWARMBUS} init --agent-id planner --invoke ~/wake --yes")
    assert _linger(host) == "pi\n"
    send = f"{SWARMBUS} send --agent-id planner --to planner --subject s --body b"
    host.ssh(f"{send} --priority high --wait stored")
    host.ssh("until [ -s woken-as ]; do sleep 0.1; done", timeout=30)
    assert host.ssh("cat woken-as").stdout == "0\n", "sudo worked"


@pytest.mark.parametrize("scope", ["system", "user"])
def test_the_journal_says_what_mends_an_environment_whose_python_is_gone(host: Host, scope: str) -> None:
    _init(host, scope)
    since = host.ssh("date +%s").stdout.strip()
    host.ssh(f"ln -sfn /usr/bin/python3.2 {PYTHON}")
    sudo = "sudo " if scope == "system" else ""
    host.ssh(f"{sudo}{_systemctl(scope)} restart {UNIT}", check=False)
    said = f"sudo journalctl --boot --identifier swarmbus-rescue --output cat --since @{since}"
    host.ssh(f"until {said} | grep -q mend:; do sleep 0.1; done", timeout=30)
    assert (_show(host, scope, "ActiveState"), _show(host, scope, "ExecMainStatus")) == ("failed", "203")
    broken, mend = host.ssh(said).stdout.splitlines()
    assert broken == "broken: the Python of /home/pi/.local/share/swarmbus/venv is gone (python3)"
    assert (
        host.ssh("sh .local/share/swarmbus/swarmbus-rescue.sh", check=False).stdout == f"{broken}\n{mend}\n"
    )
    host.ssh(mend.partition("mend: ")[2], timeout=600)
    _is_well(host)
    assert host.ssh("sh .local/share/swarmbus/swarmbus-rescue.sh").returncode == 0


def test_a_broker_of_the_users_own_makes_room_and_a_listener_that_falls_again_and_again_is_explained(
    make_host: MakeHost,
) -> None:
    host = make_host("trixie")
    host.copy_checkout("/home/guest/swarmbus", owner="guest")
    host.run_as_root("apt-get -q -y install python3-venv")
    host.ssh("./swarmbus/install.sh --agent-id planner", user="guest")
    brokers = "systemctl --user is-active swarmbus-broker; systemctl is-active mosquitto"
    assert host.ssh(brokers, user="guest", check=False).stdout == "active\ninactive\n"
    host.run_as_root("echo 'guest ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/guest")
    host.ssh(f"{SWARMBUS} init --scope system --yes", user="guest")
    assert host.ssh(brokers, user="guest", check=False).stdout == "inactive\nactive\n"
    host.ssh(f"{SWARMBUS} doctor", user="guest")
    # As after an upgrade of the distribution: Python is there, and is another one.
    host.ssh("mv .local/share/swarmbus/venv/lib/python3* away", user="guest")
    host.run_as_root(f"systemctl restart --no-block {UNIT}")
    said = "journalctl --boot --identifier swarmbus-rescue --output cat"
    host.run_as_root(f"until [ $({said} | grep -c mend:) -ge 2 ]; do sleep 0.2; done", timeout=60)
    assert "No module named 'swarmbus'" in host.run_as_root(said).stdout
    mend = host.run_as_root(f"{said} --lines 1").stdout.partition("mend: ")[2].strip()
    host.ssh(mend, user="guest", timeout=600)
    host.ssh(f"{SWARMBUS} doctor", user="guest")
