"""The doctor on a booted host: faults of systemd and broker by their codes, and fixes as they are printed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.hosts.conftest import MakeContainer, MakeHost
from tests.lab.hosts import Container, Host

UNIT = "swarmbus-coder.service"
STATE = ".local/state/swarmbus/coder"

Type = Callable[[str], CompletedProcess[str]]
"""Runs a command on a host as somebody with a login shell types it; raises if it fails."""


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def host(request: pytest.FixtureRequest, make_module_host: MakeHost) -> Host:
    """One host with one agent; each test breaks one thing, and the fix it tests mends it."""
    host = make_module_host(request.param, name="clinic", index=False)
    host.copy_checkout()
    host.ssh("./swarmbus/install.sh --agent-id coder", timeout=600)
    host.ssh("mkdir sent && bash -lc 'swarmbus init --agent-id coder --outbox ~/sent/coder.md --yes'")
    return host


@pytest.fixture
def without_systemd(make_container: MakeContainer) -> tuple[Container, Type]:
    """A machine on which the listener and a broker of the user's own are background processes."""
    container = make_container("bookworm", name="ward", index=False)
    container.copy_checkout("/home/guest/swarmbus", owner="guest")
    container.run("./swarmbus/install.sh --agent-id coder", user="guest", timeout=600)

    def type_(command: str) -> CompletedProcess[str]:
        return container.run(["bash", "-lc", command], user="guest", timeout=120)

    return container, type_


def _typing(host: Host) -> Type:
    return lambda command: host.ssh(["bash", "-lc", command], timeout=120)


def _look(type_: Type) -> dict[str, Any]:
    """The doctor's entries by code."""
    document = json.loads(type_("swarmbus doctor --json || test $? = 1").stdout)
    return {entry["code"]: entry for entry in document["checks"]}


def _bad(entries: dict[str, Any]) -> list[str]:
    return [code for code, entry in entries.items() if entry["status"] in ("warn", "fail", "crash")]


def _settled(type_: Type) -> list[str]:
    """What is amiss once a daemon that was just started has had its time."""
    deadline = time.monotonic() + 30
    while (bad := _bad(_look(type_))) and time.monotonic() < deadline:
        time.sleep(0.5)
    return bad


def _mended(type_: Type, code: str, *, commands: int | None = 1) -> Sequence[str]:
    """See that a fault is told by this code alone, type the first of its commands, and see all well.

    Args:
        type_: Where.
        code: That of the fault.
        commands: How many are needed, where they are steps and no alternatives; None is all.

    Returns:
        What was typed.
    """
    entries = _look(type_)
    assert _bad(entries) == [code], entries[code]
    fix: list[str] = entries[code]["fix"][:commands]
    assert fix, entries[code]
    for command in fix:
        type_(command)
    assert _settled(type_) == []
    return fix


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
            f"systemctl --user stop {UNIT} && cd {STATE} && rm mailbox.db* &&"
            f" echo damaged >mailbox.db && systemctl --user start --no-block {UNIT} && sleep 1",
            "agent.mailbox",
        ),
        (
            # It would be started again, if the drop-in did not say otherwise.
            f"cd .config/systemd/user && mkdir {UNIT}.d &&"
            f" printf '[Service]\\nRestart=no\\n' >{UNIT}.d/no.conf && systemctl --user daemon-reload &&"
            f" systemctl --user kill --signal KILL {UNIT} && sleep 1 &&"
            f" rm -r {UNIT}.d && systemctl --user daemon-reload",
            "systemd.unit-failed",
        ),
        ("touch sent/coder.md && chmod a-w sent/coder.md", "agent.outbox-writable"),
        ("touch sent/coder.md && sudo chown root: sent/coder.md", "agent.outbox-writable"),
        ("rm -f sent/coder.md && chmod a-w sent", "agent.outbox-writable"),
        ("rm -f sent/coder.md && mkdir sent/coder.md", "agent.outbox-writable"),
    ],
    ids=lambda value: value if "." in value and " " not in value else "",
)
def test_a_fault_is_told_by_its_own_code_alone_and_mended_by_its_fix(
    host: Host, breaking: str, code: str
) -> None:
    type_ = _typing(host)
    assert _settled(type_) == []
    host.ssh(breaking)
    _mended(type_, code, commands=None if code == "systemd.unit-masked" else 1)


def test_without_the_users_systemd_nothing_else_is_told(host: Host) -> None:
    assert _settled(_typing(host)) == []

    def type_(command: str) -> CompletedProcess[str]:
        # As cron and su do it: a login, such as ssh's, would have logind start the user's systemd.
        plain = ["setpriv", "--reuid=pi", "--regid=pi", "--init-groups", "env", "--chdir=/home/pi"]
        me = ["HOME=/home/pi", "USER=pi", "LOGNAME=pi"]
        return host.run_as_root([*plain, *me, "bash", "-lc", command])

    host.run_as_root("systemctl stop user@$(id -u pi).service")
    _mended(type_, "systemd.user-bus")


def test_a_unit_that_another_listener_keeps_down_has_its_place_again(host: Host) -> None:
    type_ = _typing(host)
    assert _settled(type_) == []
    type_(f"systemctl --user stop {UNIT} && swarmbus start --agent-id coder --detach")
    host.ssh(f"systemctl --user start {UNIT}", check=False)
    _mended(type_, "systemd.unit-failed")
    pid = host.ssh(f"systemctl --user show --value --property MainPID {UNIT}").stdout.strip()
    assert f'"pid":{pid}' in host.ssh(f"cat {STATE}/listener.lock").stdout.replace(" ", "")


def test_what_no_handler_could_do_is_told_until_it_is_dropped(host: Host) -> None:
    type_ = _typing(host)
    assert _settled(type_) == []
    config = "~/.config/swarmbus/config.toml"
    type_(f"cp {config} kept.toml && swarmbus init --agent-id coder --invoke false --yes")
    type_(f"sed -i '1i invoke_attempts = 1' {config} && systemctl --user restart {UNIT}")
    type_("swarmbus send --agent-id coder --to coder --subject s --body b --priority high --wait stored")
    type_("until swarmbus quarantine --agent-id coder | grep invoke; do sleep 0.2; done")
    type_(f"mv kept.toml {config} && systemctl --user restart {UNIT}")
    look, drop = _mended(type_, "agent.dead-letters", commands=None)
    assert drop.startswith(look)


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_a_broker_of_the_users_own_is_started_again(make_host: MakeHost, suite: str) -> None:
    host = make_host(suite, name="surgery", index=False)
    host.copy_checkout("/home/guest/swarmbus", owner="guest")
    host.ssh("sudo loginctl enable-linger guest")
    host.ssh("./swarmbus/install.sh --agent-id coder", user="guest", timeout=600)

    def type_(command: str) -> CompletedProcess[str]:
        return host.ssh(["bash", "-lc", command], user="guest", timeout=120)

    assert _settled(type_) == []
    type_("systemctl --user stop swarmbus-broker.service")
    assert _mended(type_, "broker.running") == ["systemctl --user restart swarmbus-broker.service"]


def test_background_processes_are_started_again(without_systemd: tuple[Container, Type]) -> None:
    container, type_ = without_systemd
    assert _settled(type_) == []
    for breaking, code in (
        ("pkill -KILL -u guest -f 'swarmbus start'", "agent.listener-running"),
        ("pkill -KILL -u guest mosquitto", "broker.running"),
        (f"rm {STATE}/control.sock", "agent.control-socket"),
        ("pkill -STOP -u guest -f 'swarmbus start'", "mqtt.canary"),
    ):
        container.run(breaking, user="guest")
        _mended(type_, code)
