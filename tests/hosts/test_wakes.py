"""Wakes in units of a real user manager: their limits, and what a restart of the listener changes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.hosts.conftest import MakeHost
from tests.lab.hosts import Host

WAKE = """#!/bin/sh
body=$(cat)
echo "$SWARMBUS_SUBJECT begins"
case "$SWARMBUS_SUBJECT" in
    hog) exec python3 -c 'hoard = []
while True: hoard.append(bytearray(10_000_000))' ;;
    hang) setsid sleep 1234 & trap "" TERM; while :; do sleep 0.2; done ;;
    slow) sleep 5; echo "$body" >> slow ;;
esac
"""
SETTINGS = """broker = "localhost"
[agents.planner]
invoke = "/home/pi/wake.sh"
invoke_attempts = 1
invoke_memory = 200
invoke_timeout = 8
wake = "all"
wake_cooldown = 0
"""
SANDBOX = """[Service]
NoNewPrivileges=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
"""


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def host(request: pytest.FixtureRequest, make_module_host: MakeHost) -> Host:
    """A host on which messages for planner wake a command, out of a sandboxed listener."""
    host = make_module_host(request.param, name="kitchen", index=False)
    host.copy_checkout()
    host.ssh("./swarmbus/install.sh --agent-id planner", timeout=600)
    host.write("/home/pi/wake.sh", WAKE, owner="pi", mode=0o755)
    host.write("/home/pi/.config/swarmbus/config.toml", SETTINGS, owner="pi")
    host.write("/home/pi/.config/systemd/user/swarmbus-planner.service.d/sandbox.conf", SANDBOX, owner="pi")
    host.ssh("systemctl --user daemon-reload && systemctl --user restart swarmbus-planner")
    return host


def send(host: Host, subject: str, body: str) -> str:
    words = f"--agent-id planner --to planner --subject {subject} --body {body} --wait stored --json"
    return str(json.loads(host.ssh(f"bash -lc 'swarmbus send {words}'").stdout)["id"])


def dead_letters(host: Host) -> str:
    return host.ssh("bash -lc 'swarmbus quarantine --agent-id planner'").stdout


def until(what: Callable[[], bool], problem: str) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end, problem
        time.sleep(0.3)


def processes(host: Host) -> str:
    return host.ssh("ps -ef").stdout


def wake_path(host: Host) -> dict[str, Any]:
    """What the doctor says of the way to the wake command; nothing else may be amiss."""
    document = json.loads(host.ssh("bash -lc 'swarmbus doctor --wake --json || test $? = 1'").stdout)
    entries: dict[str, dict[str, Any]] = {entry["code"]: entry for entry in document["checks"]}
    amiss = {code for code, entry in entries.items() if entry["status"] in ("fail", "crash")}
    assert amiss <= {"agent.wake-path"}, amiss
    return entries["agent.wake-path"]


def test_the_way_to_the_wake_command_is_tried_in_a_unit_without_a_wake(host: Host) -> None:
    found = wake_path(host)
    assert found["status"] == "ok", found
    unit = found["evidence"]["ran_in"]
    assert unit.startswith("swarmbus-wake-planner-")
    assert "begins" not in host.ssh(f"journalctl --user -o cat -u {unit}").stdout, "the wake command was run"
    until(lambda: unit not in host.ssh("systemctl --user list-units --all --plain").stdout, "the unit stays")
    assert "canary" not in host.ssh("ls .local/state/swarmbus/planner").stdout

    host.write("/home/pi/wake.sh", WAKE.replace("/bin/sh", "/usr/bin/env no-such-node"), mode=0o755)
    found = wake_path(host)
    assert (found["status"], "wake.sh needs no-such-node" in found["message"]) == ("fail", True), found
    host.write("/home/pi/wake.sh", WAKE, owner="pi", mode=0o755)
    assert wake_path(host)["status"] == "ok"


def test_limits_end_a_wake_and_a_restart_of_the_listener_does_not(host: Host) -> None:
    send(host, "hog", "text")
    until(lambda: "hog" not in processes(host) and "failed 1 times" in dead_letters(host), "the hog eats on")

    send(host, "hang", "a-secret")
    until(lambda: "sleep 1234" in processes(host), "the hanging wake did not begin")
    assert "a-secret" not in processes(host)
    units = host.ssh("systemctl --user list-units --plain --no-legend 'swarmbus-wake-planner-*'").stdout
    (unit,) = [line.split()[0] for line in units.splitlines()]
    limits = host.ssh(f"systemctl --user show -p MemoryMax -p TasksMax -p RuntimeMaxUSec {unit}").stdout
    assert sorted(limits.split()) == ["MemoryMax=209715200", "RuntimeMaxUSec=8s", "TasksMax=512"]
    until(lambda: "took longer than 8 s" in dead_letters(host), "the hanging wake was not ended")
    assert "sleep 1234" not in processes(host)
    assert "wake.sh" not in processes(host)
    journal = host.ssh(f"journalctl --user -o cat -u {unit}").stdout
    assert "hang begins" in journal
    assert "a-secret" not in host.ssh("journalctl --user").stdout

    slow = send(host, "slow", "once")
    until(lambda: "sleep 5" in processes(host), "the slow wake did not begin")
    before = time.monotonic()
    host.ssh("systemctl --user restart swarmbus-planner")
    assert time.monotonic() - before < 4.5, "the restart waited for the wake"
    assert "sleep 5" in processes(host), "the restart ended the wake"
    until(lambda: "by invoke" in trace(host, slow), "the new listener did not take up the wake's result")
    assert host.read("/home/pi/slow") == "once\n"


def trace(host: Host, message_id: str) -> str:
    return host.ssh(f"bash -lc 'swarmbus trace --agent-id planner {message_id}'").stdout
