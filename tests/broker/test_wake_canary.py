"""``doctor --wake`` and what holds wakes back, on a real broker; wakes are child processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from swarmbus.mailbox import Mailbox
from swarmbus.paths import agent_dir, mailbox_path
from tests.broker.test_wakes import wait_for
from tests.lab.command import swarmbus
from tests.lab.listener import Listener
from tests.lab.mosquitto import Broker

CODES = ["invoke-runnable", "wake-path", "wakes-paused", "wake-budget", "wake-quiet", "wake-loop"]


@pytest.fixture(autouse=True)
def no_user_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that wakes are child processes wherever this runs."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def wake(home: Path) -> Path:
    """A wake command that leaves its mark."""
    program = home / "wake"
    program.write_text(f"#!/bin/sh\necho woken >> {home}/woken\n")
    program.chmod(0o755)
    return program


@contextmanager
def woken_by(broker: Broker, command: str, *settings: str) -> Iterator[None]:
    config = Path.home() / ".config/swarmbus/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("\n".join([f"invoke = {command!r}", "wake_cooldown = 0", *settings]) + "\n")
    with Listener("coder", broker):
        yield


def doctor(broker: Broker) -> dict[str, dict[str, Any]]:
    """Its entries by code, without those that are well."""
    only = [f"--only=agent.{code}" for code in CODES]
    ran = swarmbus("doctor", "--agent-id=coder", *only, "--wake", "--json", *at(broker))
    return {entry["code"]: entry for entry in ran.json["checks"] if entry["status"] != "ok"}


def at(broker: Broker) -> list[str]:
    return [f"--broker={broker.host}", f"--port={broker.port}"]


def send(broker: Broker, subject: str) -> None:
    words = ["--agent-id=planner", "--to=coder", f"--subject={subject}", "--body=b", "--priority=high"]
    assert swarmbus("send", *words, "--wait=stored", *at(broker)).status == 0


def test_the_canary_goes_on_to_the_wake_command_and_leaves_nothing(
    broker: Broker, home: Path, wake: Path
) -> None:
    with woken_by(broker, f"{wake} coder"):
        before = sorted(path.name for path in agent_dir("coder").iterdir())
        printed = swarmbus("doctor", "--agent-id=coder", "--wake", *at(broker)).out
        assert "ok    agent.wake-path" in printed
        assert "wake_ms " in printed.partition("agent.wake-path")[2].splitlines()[1]
        assert "mqtt.canary" in printed
        assert sorted(path.name for path in agent_dir("coder").iterdir()) == before
        with Mailbox.open(mailbox_path("coder")) as mailbox:
            assert (mailbox.inbound.unread("default"), mailbox.wakes.count_since(0)) == (0, 0)
    assert not (home / "woken").exists(), "the wake command was run"
    assert (home / "sync/coder-inbox.md").read_text() == ""


def test_without_wake_nothing_is_tried(broker: Broker, wake: Path) -> None:
    with woken_by(broker, str(wake)):
        assert "wake-path" not in swarmbus("doctor", "--agent-id=coder", *at(broker)).out


@pytest.mark.parametrize(
    ("first_line", "words"),
    [
        ("#!/usr/bin/env no-such-node", "needs no-such-node, which is not on the PATH of a wake"),
        ("#!/no/such/python", "names '/no/such/python' as interpreter"),
    ],
)
def test_a_command_that_cannot_be_started_is_the_hop_that_failed(
    broker: Broker, wake: Path, first_line: str, words: str
) -> None:
    wake.write_text(f"{first_line}\n")
    with woken_by(broker, str(wake)):
        (entry,) = doctor(broker).values()
        assert (entry["code"], entry["status"]) == ("agent.wake-path", "fail")
        assert entry["message"].startswith("stopped at the hop 'wake': ")
        assert words in entry["message"]
        assert entry["evidence"]["failed"] == "wake"


def test_a_command_that_is_missing_is_told_once(broker: Broker, home: Path) -> None:
    with woken_by(broker, f"{home}/gone"):
        entries = doctor(broker)
        assert {code: entry["status"] for code, entry in entries.items()} == {
            "agent.invoke-runnable": "fail",
            "agent.wake-path": "skip",
        }
        assert entries["agent.wake-path"]["because"] == "agent.invoke-runnable"


def test_a_pause_is_told_and_ended_by_its_fix(broker: Broker, home: Path, wake: Path) -> None:
    swarmbus("pause", "--agent=coder", "--reason=too loud", *at(broker))
    with woken_by(broker, str(wake)):
        entries = doctor(broker)
        assert {code: entry["status"] for code, entry in entries.items()} == {
            "agent.wakes-paused": "info",
            "agent.wake-path": "info",
        }
        assert "nothing wakes it now: agent coder paused by " in entries["agent.wake-path"]["message"]
        send(broker, "first")
        (fix,) = entries["agent.wakes-paused"]["fix"]
        assert fix.startswith("swarmbus resume --agent coder ")
        subprocess.run(["sh", "-c", f"{sys.executable} -m {fix}"], check=True)
        wait_for((home / "woken").exists, "not woken after the end of the pause")
        assert doctor(broker) == {}


def test_a_day_whose_wakes_are_used_up_is_told(broker: Broker, home: Path, wake: Path) -> None:
    with woken_by(broker, str(wake), "wake_daily = 1"):
        assert doctor(broker) == {}
        send(broker, "first")
        wait_for((home / "woken").exists, "not woken")
        send(broker, "second")
        wait_for(lambda: "agent.wake-budget" in doctor(broker), "not told")
        entries = doctor(broker)
        assert {code: entry["status"] for code, entry in entries.items()} == {
            "agent.wake-budget": "warn",
            "agent.wake-path": "info",
        }


def test_a_message_that_waits_for_the_morning_is_told(broker: Broker, wake: Path) -> None:
    with woken_by(broker, str(wake), 'wake_quiet = "00:00-23:59"'):
        assert list(doctor(broker)) == ["agent.wake-path"]
        send(broker, "first")
        wait_for(lambda: "agent.wake-quiet" in doctor(broker), "not told")


def test_a_conversation_in_circles_is_told(
    broker: Broker, wake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with woken_by(broker, str(wake), "wake_hops = 4"):
        monkeypatch.setenv("SWARMBUS_HOPS", "4")
        send(broker, "again")
        wait_for(lambda: "agent.wake-loop" in doctor(broker), "not told")
        (entry,) = doctor(broker).values()
        assert "one message of planner woke nobody within the last hour" in entry["message"]
        (look,) = entry["fix"]
        assert "hop 5 of a conversation" in subprocess.check_output(
            ["sh", "-c", f"{sys.executable} -m {look}"], text=True
        )
