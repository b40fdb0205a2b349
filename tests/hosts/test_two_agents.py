"""From a bare host to two agents that talk, and what a reboot and a power cut change about that: nothing."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.hosts.conftest import MakeHost
from tests.lab.hosts import Host

SUITES = ["bookworm", "trixie"]


@pytest.fixture(params=SUITES)
def host(request: pytest.FixtureRequest, make_host: MakeHost) -> Host:
    """A host on which one command has set up planner, and a second one coder."""
    host = make_host(request.param, name="kitchen", index=False)
    host.copy_checkout()
    host.ssh("./swarmbus/install.sh --agent-id planner", timeout=600)
    swarmbus(host, "init --agent-id coder --yes")
    return host


def swarmbus(host: Host, command: str, *, check: bool = True) -> str:
    """Run ``swarmbus`` as a login shell of pi's finds it; returns what it printed."""
    return host.ssh(f"bash -lc 'swarmbus {command}'", check=check).stdout


def send(host: Host, sender: str, to: str, subject: str, wait: str = "stored") -> None:
    """Send, and have it be as far as is said."""
    said = swarmbus(
        host, f"send --agent-id {sender} --to {to} --subject {subject} --body text --wait {wait} --json"
    )
    assert json.loads(said)["state"] == wait


def read(host: Host, agent_id: str) -> list[str]:
    """Subjects of what an agent has not read."""
    messages: list[dict[str, Any]] = json.loads(swarmbus(host, f"read --agent-id {agent_id} --json"))
    return [message["subject"] for message in messages]


def wait_until_both_are_online(host: Host) -> None:
    """After a start: the listeners and the broker come up side by side, and find each other."""
    end = time.monotonic() + 30
    while "coder\nplanner\n" not in swarmbus(host, "list", check=False):
        assert time.monotonic() < end, "not both online 30 s after the start"
        time.sleep(0.2)


def test_two_agents_talk_before_and_after_a_reboot(host: Host) -> None:
    send(host, "planner", "coder", "there")
    send(host, "coder", "planner", "back")
    assert read(host, "coder") == ["there"]
    assert read(host, "planner") == ["back"]

    # What comes while coder is down waits for it, over a reboot.
    host.ssh("systemctl --user stop swarmbus-coder.service")
    send(host, "planner", "coder", "while-you-were-out", wait="accepted")
    host.reboot()
    wait_until_both_are_online(host)
    assert read(host, "coder") == ["while-you-were-out"]
    send(host, "planner", "coder", "again")
    report = json.loads(swarmbus(host, "doctor --json"))
    bad = ("warn", "fail", "crash")
    assert [check["code"] for check in report["checks"] if check["status"] in bad] == []
    inbox = host.read("/home/pi/sync/coder-inbox.md")
    assert [line.rpartition(" ")[2] for line in inbox.splitlines() if line.startswith("## [")] == [
        "there",
        "while-you-were-out",
        "again",
    ]


def test_a_power_cut_loses_nothing_that_was_sent(host: Host) -> None:
    host.ssh("systemctl --user stop swarmbus-coder.service")
    for number in range(5):
        send(host, "planner", "coder", f"before-the-cut-{number}", wait="accepted")
    host.power_cut()
    host.boot()
    wait_until_both_are_online(host)
    send(host, "planner", "coder", "after-the-cut")
    # The broker's database may be older than the cut: then planner sends again what coder does not confirm.
    subjects: list[str] = []
    for _ in range(100):
        subjects += read(host, "coder")
        if len(subjects) >= 6:
            break
    assert sorted(subjects) == sorted([*(f"before-the-cut-{number}" for number in range(5)), "after-the-cut"])


def test_init_again_changes_nothing_and_restarts_nothing(host: Host) -> None:
    before = running(host)
    plan = json.loads(swarmbus(host, "init --agent-id coder --dry-run --json"))
    assert plan["changed"] is False
    swarmbus(host, "init --agent-id coder --yes")
    swarmbus(host, "init --agent-id planner --yes")
    assert running(host) == before


def running(host: Host) -> str:
    """Main processes of the broker and the listeners."""
    units = "systemctl --user show -p MainPID swarmbus-planner.service swarmbus-coder.service"
    return host.ssh(f"systemctl show -p MainPID mosquitto.service; {units}").stdout
