"""`swarmbus uninstall` on booted hosts: each is again as it was before `init` or `adopt`."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.hosts.conftest import MakeContainer, MakeHost
from tests.lab.hosts import Container, Host
from tests.lab.snapshot import LEFT_BY_DEBIAN, changed, snapshot

SWARMBUS = ".local/bin/swarmbus"
CONF = "/etc/mosquitto/conf.d"
UNITS = ".config/systemd/user"

_OLD_UNIT = """\
[Unit]
Description=messages for planner

[Service]
Type=simple
Environment=SWARMBUS_OUTBOX_PLANNER=/home/pi/sync/planner-outbox.md
ExecStart=/home/pi/old/bin/swarmbus start --agent-id planner --inbox /home/pi/sync/planner-inbox.md
Restart=on-failure

[Install]
WantedBy=default.target
"""

_AUTH = "[Service]\nEnvironment=SWARMBUS_BROKER_USERNAME=pi\nEnvironment=SWARMBUS_BROKER_PASSWORD=hunter2\n"


def _install(host: Host, user: str) -> None:
    host.copy_checkout(f"/home/{user}/swarmbus", owner=user)
    host.ssh("./swarmbus/install.sh --no-init", user=user)


def _init(host: Host, agent: str, user: str = "pi") -> None:
    """Set it up, and see a message of its own come back."""
    host.ssh(f"{SWARMBUS} init --agent-id {agent} --yes", user=user)
    words = f"--agent-id {agent} --to {agent} --subject s --body b --wait stored"
    assert host.ssh(f"{SWARMBUS} send {words}", user=user).stdout.startswith("stored")


def _uninstall(host: Host, options: str, user: str = "pi") -> dict[str, Any]:
    ran = host.ssh(f"{SWARMBUS} uninstall {options} --yes --json", user=user, check=False)
    said: dict[str, Any] = json.loads(ran.stdout)
    assert (ran.returncode, said["failed"]) == (0, False), ran.stderr
    return said


def _left_in_state(host: Host, user: str = "pi") -> list[str]:
    return host.ssh("find .local/state .swarmbus 2>/dev/null", user=user, check=False).stdout.splitlines()


def _wait_for(host: Host, command: str) -> None:
    deadline = time.monotonic() + 30
    while host.ssh(command, check=False).returncode != 0:
        assert time.monotonic() < deadline, command
        time.sleep(0.3)


def _units(host: Host, user: str = "pi") -> str:
    return host.ssh("systemctl --user list-units --all 'swarmbus*' --no-legend", user=user).stdout


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_a_host_is_as_it_was_before_us(make_host: MakeHost, suite: str) -> None:
    host = make_host(suite)
    for user in ("guest", "pi"):
        _install(host, user)
    bare = snapshot(host)

    _a_user_without_root_and_his_own_broker(host, bare)
    _a_bare_host_and_one_agent_of_two(host, bare)
    _a_mosquitto_that_somebody_else_uses(host)
    _a_mosquitto_that_was_there_before(host)
    if suite == "bookworm":
        _an_adopted_installation(host)


def _a_user_without_root_and_his_own_broker(host: Host, bare: list[str]) -> None:
    _init(host, "gast", "guest")
    assert host.ssh("ls .local/share/swarmbus/broker", user="guest").stdout
    _uninstall(host, "--all --purge", "guest")
    assert _left_in_state(host, "guest") == []
    inbox = {"/home/guest/sync", "/home/guest/sync/gast-inbox.md"}
    assert changed(bare, snapshot(host)) == inbox
    assert "broker" not in host.ssh("ls .local/share/swarmbus", user="guest").stdout.split()
    assert _units(host, "guest") == ""
    assert host.run_as_root("pgrep mosquitto", check=False).stdout == ""
    host.ssh("rm -r sync", user="guest")


def _a_bare_host_and_one_agent_of_two(host: Host, bare: list[str]) -> None:
    _init(host, "planner")
    host.ssh(f"{SWARMBUS} init --agent-id coder --invoke /bin/true --yes")
    pids = "systemctl --user show --property MainPID swarmbus-planner; pgrep -x mosquitto"
    before = host.ssh(pids).stdout
    said = _uninstall(host, "--agent-id coder")
    assert (said["remaining"], said["gate"]["ok"], said["handlers"]) == (
        ["planner"],
        True,
        ["user:daemon-reload"],
    )
    assert host.ssh(pids).stdout == before, "nothing of the other agent was restarted"
    assert host.ssh(f"{SWARMBUS} list --all").stdout.split() == ["planner"], "its presence is cleared"
    assert not json.loads(host.ssh(f"{SWARMBUS} init --dry-run --json").stdout)["changed"]
    shown = json.loads(host.ssh(f"{SWARMBUS} show --json").stdout)
    assert [agent["id"] for agent in shown["agents"]] == ["planner"]
    assert {entry["state"] for entry in shown["entries"]} == {"as-left"}, shown["entries"]

    said = _uninstall(host, "--all")
    assert "package:mosquitto" in [one["id"] for one in said["actions"] if one["verb"] == "delete"]
    inboxes = {f"/home/pi/sync/{agent}-inbox.md" for agent in ("planner", "coder")}
    left = {"/home/pi/.local/state", "/home/pi/sync", *inboxes}
    assert changed(bare, snapshot(host)) - LEFT_BY_DEBIAN == left
    folder = ".local/state/swarmbus"
    kept = {f"{folder}/planner/mailbox.db", f"{folder}/coder/mailbox.db"}
    assert kept <= set(_left_in_state(host))
    assert not [name for name in _left_in_state(host) if ".provision" in name]
    assert _units(host) == ""
    _uninstall(host, "--all --purge")
    assert _left_in_state(host) == [".local/state"]
    assert changed(bare, snapshot(host)) - LEFT_BY_DEBIAN == left
    host.ssh("rm -r sync; rmdir .local/state")


def _a_mosquitto_that_somebody_else_uses(host: Host) -> None:
    """Installed by pi's init; guest's agent came to use it."""
    _init(host, "planner")
    _init(host, "gast", "guest")
    said = _uninstall(host, "--all --purge")
    assert any("mosquitto stays, for a program of user guest is connected" in note for note in said["notes"])
    _init(host, "gast", "guest")
    _uninstall(host, "--all --purge", "guest")
    assert host.run_as_root("systemctl is-active mosquitto").stdout == "active\n"
    host.ssh("rm -r sync")
    host.ssh("rm -r sync", user="guest")


def _a_mosquitto_that_was_there_before(host: Host) -> None:
    host.write(f"{CONF}/own.conf", "listener 1883\nallow_anonymous true\nmax_inflight_messages 7\n")
    host.run_as_root("systemctl restart mosquitto")
    before = snapshot(host)
    _init(host, "planner")
    host.ssh(f"sed -i s/WatchdogSec=60/WatchdogSec=61/ {UNITS}/swarmbus-planner.service")
    said = _uninstall(host, "--all --purge")
    unit = f"/home/pi/{UNITS}/swarmbus-planner.service"
    assert any(unit in note and "it stays" in note for note in said["notes"])
    assert host.ssh(f"{SWARMBUS} list --all").stdout == "", "its presence is cleared"
    host.ssh(
        f"rm -r {UNITS} sync; rmdir .config/systemd .config; systemctl --user daemon-reload", check=False
    )
    assert changed(before, snapshot(host)) == set()
    assert host.run_as_root("systemctl is-active mosquitto").stdout == "active\n"
    assert "0.0.0.0:1883" in host.run_as_root("ss -ltn").stdout


def _an_adopted_installation(host: Host) -> None:
    host.run_as_root("apt-get -q -y install python3-venv")
    host.ssh("python3 -m venv old && old/bin/pip install -q swarmbus-py==0.1.4 && mkdir -p sync")
    host.write(f"/home/pi/{UNITS}/swarmbus-planner.service", _OLD_UNIT, owner="pi", mode=0o640)
    drop_in = f"/home/pi/{UNITS}/swarmbus-planner.service.d/auth.conf"
    host.write(drop_in, _AUTH, owner="pi", mode=0o600)
    host.ssh("systemctl --user daemon-reload; systemctl --user enable --now swarmbus-planner")
    send = "old/bin/swarmbus send --agent-id other --to planner --body b --subject"
    _wait_for(host, f"{send} first && sleep 1 && grep -q first sync/planner-inbox.md")
    before = snapshot(host)
    linger = host.run_as_root("ls /var/lib/systemd/linger").stdout
    host.ssh(f"{SWARMBUS} adopt --yes")
    assert changed(before, snapshot(host))
    host.ssh(f"{send} second")
    _wait_for(host, "grep -q second sync/planner-inbox.md")

    _uninstall(host, "--all --purge")
    assert changed(before, snapshot(host)) == set()
    assert host.run_as_root("ls /var/lib/systemd/linger").stdout == linger
    _wait_for(host, f"{send} third && sleep 1 && grep -q third sync/planner-inbox.md")
    pid = host.ssh("systemctl --user show -P MainPID swarmbus-planner").stdout.strip()
    assert "/home/pi/old" in host.ssh(f"cat /proc/{pid}/cmdline").stdout, "the old listener runs again"


@pytest.fixture
def container(make_container: MakeContainer) -> Container:
    """A machine on which systemd does not run, with swarmbus for pi."""
    made = make_container("trixie")
    made.copy_checkout()
    made.run("./swarmbus/install.sh --no-init")
    return made


def test_without_systemd_background_processes_end(container: Container) -> None:
    files = "find . -path ./swarmbus -prune -o -path ./.local/share/swarmbus -prune -o -print | sort"
    before = container.run(files).stdout
    container.run(f"{SWARMBUS} init --agent-id planner --yes")
    container.run(f"{SWARMBUS} init --agent-id coder --yes")
    running = "pgrep -a -u pi 'mosquitto|python' | sort"
    both = container.run(running).stdout.splitlines()
    container.run(f"{SWARMBUS} uninstall --agent-id coder --yes")
    assert container.run(running).stdout.splitlines() == [line for line in both if "coder" not in line]
    container.run(f"{SWARMBUS} uninstall --all --purge --yes")
    assert container.run(running, check=False).stdout == ""
    container.run("rm -r sync")
    assert container.run(files).stdout == before
