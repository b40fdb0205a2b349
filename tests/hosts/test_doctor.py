"""The doctor on a booted host: faults of systemd and broker by their codes, and fixes as they are printed."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.hosts.conftest import MakeHost
from tests.lab.hosts import Host

UNIT = "swarmbus-coder.service"


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def host(request: pytest.FixtureRequest, make_module_host: MakeHost) -> Host:
    """One host with one agent; each test breaks one thing, and the fix it tests mends it."""
    host = make_module_host(request.param, name="clinic", index=False)
    host.copy_checkout()
    host.ssh("./swarmbus/install.sh --agent-id coder", timeout=600)
    return host


def _look(host: Host) -> dict[str, Any]:
    """The doctor's entries by code."""
    document = json.loads(host.ssh("bash -lc 'swarmbus doctor --json'", check=False).stdout)
    return {entry["code"]: entry for entry in document["checks"]}


def _bad(entries: dict[str, Any]) -> list[str]:
    return [code for code, entry in entries.items() if entry["status"] in ("warn", "fail", "crash")]


def _settled(host: Host) -> list[str]:
    """What is amiss once a daemon that was just started has had its time."""
    deadline = time.monotonic() + 30
    while (bad := _bad(_look(host))) and time.monotonic() < deadline:
        time.sleep(0.5)
    return bad


@pytest.mark.parametrize(
    ("breaking", "code"),
    [
        ("sudo loginctl disable-linger pi", "systemd.linger"),
        (f"systemctl --user disable {UNIT}", "systemd.unit-disabled"),
        (f"systemctl --user stop {UNIT}", "agent.listener-running"),
        (f"touch .config/systemd/user/{UNIT}", "systemd.reload-pending"),
        (
            f"cp .config/systemd/user/{UNIT} kept.service && systemctl --user stop {UNIT} &&"
            f" rm .config/systemd/user/{UNIT} && systemctl --user mask {UNIT}",
            "systemd.unit-masked",
        ),
        (
            f"systemctl --user disable --now {UNIT} && rm .config/systemd/user/{UNIT} &&"
            " systemctl --user daemon-reload",
            "systemd.unit-missing",
        ),
        (f"systemctl --user kill --signal STOP {UNIT}", "mqtt.canary"),
        ("sudo systemctl stop mosquitto.service", "broker.running"),
        (
            f"systemctl --user stop {UNIT} && cd .local/state/swarmbus/coder && rm mailbox.db* &&"
            f" echo damaged >mailbox.db && systemctl --user start --no-block {UNIT} && sleep 1",
            "agent.mailbox",
        ),
    ],
    ids=lambda value: value if "." in value and " " not in value else "",
)
def test_a_fault_is_told_by_its_own_code_alone_and_mended_by_its_fix(
    host: Host, breaking: str, code: str
) -> None:
    assert _settled(host) == []
    host.ssh(breaking)
    entries = _look(host)
    assert _bad(entries) == [code], entries[code]
    for command in entries[code]["fix"] if code == "systemd.unit-masked" else entries[code]["fix"][:1]:
        host.ssh(["bash", "-lc", command], timeout=120)
    assert _settled(host) == []
