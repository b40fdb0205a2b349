"""``doctor --fix`` and the health timer on a booted host."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.hosts.conftest import MakeHost
from tests.lab.hosts import Host

UNIT = "swarmbus-coder.service"
TIMER = "swarmbus.health.timer"
STATE = ".local/state/swarmbus"


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def host(request: pytest.FixtureRequest, make_module_host: MakeHost) -> Host:
    """One host with one agent; each test breaks one thing, and ``--fix`` mends it."""
    host = make_module_host(request.param, name="fixer", index=False)
    host.copy_checkout()
    host.ssh("./swarmbus/install.sh --agent-id coder", timeout=600)
    return host


def _type(host: Host, command: str) -> str:
    return host.ssh(["bash", "-lc", command], timeout=180).stdout


def _doctor(host: Host, *words: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        _type(host, f"swarmbus doctor --json {' '.join(words)} || test $? = 1")
    )
    return document


def _bad(document: dict[str, Any]) -> list[str]:
    return [entry["code"] for entry in document["checks"] if entry["status"] in ("warn", "fail", "crash")]


def _settled(host: Host) -> list[str]:
    deadline = time.monotonic() + 30
    while (bad := _bad(_doctor(host))) and time.monotonic() < deadline:
        time.sleep(0.5)
    return bad


FAULTS = [
    ("sudo loginctl disable-linger pi", "systemd.linger"),
    (f"systemctl --user disable {UNIT}", "systemd.unit-disabled"),
    (f"systemctl --user stop {UNIT}", "agent.listener-running"),
    (f"touch .config/systemd/user/{UNIT}", "systemd.reload-pending"),
    (
        f"systemctl --user disable --now {UNIT} && rm .config/systemd/user/{UNIT} &&"
        " systemctl --user daemon-reload",
        "systemd.unit-missing",
    ),
    (f"systemctl --user kill --signal STOP {UNIT}", "mqtt.canary"),
    ("sudo systemctl stop mosquitto.service", "broker.running"),
    (f"rm {STATE}/coder/control.sock", "agent.control-socket"),
    (
        "f=$(find ~/.local -path '*site-packages/swarmbus/topics.py') && test -n \"$f\" && echo '# new' >>$f",
        "code.stale-daemon",
    ),
    (
        f"systemctl --user disable --now {TIMER} &&"
        f""" sed -i 's/"interval": 300/"interval": 1/' {STATE}/.doctor/health.json && sleep 5""",
        "own.health-overdue",
    ),
]


@pytest.mark.parametrize(("breaking", "code"), FAULTS, ids=[code for _, code in FAULTS])
def test_what_is_broken_is_mended_once_and_nothing_else_is_touched(
    host: Host, breaking: str, code: str
) -> None:
    assert _settled(host) == []
    _type(host, "systemctl --user start swarmbus.health.service")
    host.ssh(breaking)
    dry = _doctor(host, "--fix", "--dry-run")
    assert _bad(dry) == [code]
    assert _bad(_doctor(host)) == [code], "a dry run mends nothing"
    manager = f"systemctl --user show -p MainPID --value {UNIT}"
    pid = _type(host, manager)
    document = _doctor(host, "--fix", "--yes")
    assert document["fix"]["by_hand"] == []
    assert _settled(host) == []
    again = _doctor(host, "--fix", "--yes")
    assert (again["fix"]["plan"], again["fix"]["restarted"]) == (None, [])
    if code in ("systemd.linger", "systemd.unit-disabled", "broker.running", "own.health-overdue"):
        assert _type(host, manager) == pid, "a listener that worked was restarted"


def test_what_only_a_human_can_decide_is_listed_and_left(host: Host) -> None:
    assert _settled(host) == []
    _type(host, "swarmbus send --agent-id coder --to nobody-at-all --subject s --body b || true")
    document = _doctor(host, "--fix", "--yes")
    (left,) = document["fix"]["by_hand"]
    assert left["code"] == "agent.outbound-stuck"
    assert "--drop all" in left["commands"][1]
    _type(host, left["commands"][1])
    assert _settled(host) == []


def test_health_is_looked_at_by_itself(host: Host) -> None:
    listed = _type(host, "systemctl --user list-timers --all")
    assert TIMER in listed
    # Hosts of a fleet take their time, up to a minute, so as not to look all at once; one alone need not.
    drop_in = f".config/systemd/user/{TIMER}.d"
    at_once = "[Timer]\\nRandomizedDelaySec=0\\nAccuracySec=1\\n"
    host.ssh(f"mkdir {drop_in} && printf '{at_once}' >{drop_in}/x.conf && systemctl --user daemon-reload")
    host.ssh(f"rm -rf {STATE}/.doctor && systemctl --user restart {TIMER}")
    deadline = time.monotonic() + 120
    while "ok" not in host.ssh(f"cat {STATE}/.doctor/health.json 2>/dev/null || true").stdout:
        assert time.monotonic() < deadline, "the timer has not fired"
        time.sleep(1)
    host.ssh(f"rm -r {drop_in} && systemctl --user daemon-reload")
    assert _bad(_doctor(host)) == []
    _type(host, f"systemctl --user stop {UNIT}; systemctl --user start swarmbus.health.service")
    assert "agent.listener-running coder  ok -> fail" in _type(host, "swarmbus doctor --history")
    assert "ok -> fail" in host.ssh("journalctl --user-unit swarmbus.health.service -o cat").stdout
    _type(host, "swarmbus doctor --fix --yes && systemctl --user start swarmbus.health.service")
    assert "fail -> ok" in _type(host, "swarmbus doctor --history --since 1h")


def test_a_bundle_of_this_host_says_the_same(host: Host) -> None:
    here = _doctor(host, "--bundle", "here.json")
    assert _doctor(host, "--from", "here.json") == here
    host.ssh("rm here.json")
