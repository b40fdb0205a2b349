"""Checks of an agent's wakes, over canned facts."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import pytest

from swarmbus.errors import SwarmbusError, TimedOut, UsageError
from swarmbus.provision.checks import CHECKS
from swarmbus.provision.doctor import choose
from swarmbus.provision.mailbox_look import Loop, MailboxSeen
from tests.provision.doctor_facts import NOW, Host, bad

Break = Callable[[Host], None]

CIRCLE = Loop("planner", 3, "m-9", "hop 9 of a conversation of agents, wake_hops is 8")


def _came(**changed: Any) -> Break:
    def breaking(host: Host) -> None:
        assert isinstance(host.bus.rehearsal, dict)
        host.bus.rehearsal |= changed

    return breaking


def _raises(error: SwarmbusError) -> Break:
    def breaking(host: Host) -> None:
        host.bus.rehearsal = error

    return breaking


def _wakes(**changed: Any) -> Break:
    return lambda host: host.status["wakes"].update(changed)


def _paused(since: float, until: float | None = None, scope: str = "agent coder") -> Break:
    words = f"{scope} paused by pi@kitchen: too loud"
    return _wakes(pause={"scope": scope, "words": words, "since": since, "until": until})


def _held(kind: str, words: str) -> Break:
    return _wakes(held={"id": "m-1", "since": NOW - 60, "kind": kind, "words": words})


def _loops(host: Host) -> None:
    host.bus.mailboxes["coder"] = MailboxSeen(loops=(CIRCLE,))


@pytest.fixture
def host() -> Host:
    """One whose agent is woken by a command."""
    host = Host()
    host.system.installed = {**host.system.installed, "wake": "/usr/bin/wake"}
    host.status["invoke"] = "wake"
    host.set(invoke="wake", tls=True)
    return host


@pytest.mark.parametrize(
    ("code", "breaking", "status", "words"),
    [
        (
            "agent.wake-path",
            _came(failure="/w is no executable file"),
            "fail",
            "the hop 'wake': /w is no exe",
        ),
        ("agent.wake-path", _came(refused="systemd-run: no"), "warn", "takes no unit for it"),
        ("agent.wake-path", _came(held="quiet hours"), "info", "nothing wakes it now: quiet hours"),
        ("agent.wake-path", _raises(TimedOut("no answer")), "fail", "the hop 'wake': no answer"),
        (
            "agent.wake-path",
            _raises(UsageError("unknown", hint="another release")),
            "skip",
            "another release",
        ),
        (
            "agent.wakes-paused",
            _paused(NOW - 60),
            "info",
            "nothing wakes it: agent coder paused by pi@kitchen",
        ),
        ("agent.wakes-paused", _paused(NOW - 90_000, NOW + 60), "info", "too loud"),
        ("agent.wakes-paused", _paused(NOW - 90_000), "warn", "too loud, since "),
        ("agent.wake-budget", _wakes(today=100), "warn", "woken 100 times today, wake_daily allows 100"),
        ("agent.wake-quiet", _held("quiet", "quiet hours, until 07:00"), "info", "quiet hours, until 07:00"),
        ("agent.wake-loop", _loops, "warn", "3 messages of planner woke nobody within the last hour"),
    ],
)
def test_what_holds_wakes_back_is_told(
    host: Host, code: str, breaking: Break, status: str, words: str
) -> None:
    assert host.ask(code).status == "ok"
    breaking(host)
    result = host.ask(code)
    assert (result.status, words in result.message) == (status, True), result.message


@pytest.mark.parametrize(
    ("code", "breaking"),
    [
        ("agent.wake-budget", _wakes(today=500, daily=0)),
        ("agent.wake-budget", _wakes(today=500, wake="each")),
        ("agent.wake-quiet", _held("cooldown", "the last wake has only just ended")),
    ],
)
def test_what_is_as_it_was_asked_for_is_well(host: Host, code: str, breaking: Break) -> None:
    breaking(host)
    assert host.ask(code).status == "ok"


@pytest.mark.parametrize(
    "code", ["agent.wake-path", "agent.wakes-paused", "agent.wake-budget", "agent.wake-quiet"]
)
def test_without_a_wake_command_there_is_nothing_to_see(code: str) -> None:
    host = Host()
    host.status["wakes"] = None
    assert (host.ask(code).status, host.ask(code).message) == ("skip", "it has no wake command")


@pytest.mark.parametrize("code", ["agent.wakes-paused", "agent.wake-budget", "agent.wake-quiet"])
def test_a_listener_of_before_says_nothing_of_wakes(host: Host, code: str) -> None:
    del host.status["wakes"]
    assert host.ask(code).status == "skip"
    host.bus.silent.add("coder")
    assert host.ask(code).message == "the listener does not answer on its control socket"


def test_the_way_of_a_wake_is_tried_on_request_alone() -> None:
    def codes(*only: str, wake: bool = False) -> list[str]:
        return [one.code for one in choose(CHECKS, list(only), [], wake=wake)]

    assert "agent.wake-path" not in codes()
    assert "agent.wake-path" not in codes("agent")
    assert codes("agent.wake-path") == ["agent.wake-path"]
    assert "agent.wake-path" in codes(wake=True)


@pytest.mark.parametrize(
    ("scope", "option"), [("agent coder", ["--agent", "coder"]), ("host pi4", ["--host"]), ("bus", ["--bus"])]
)
def test_a_pause_is_taken_back_by_the_option_that_made_it(host: Host, scope: str, option: list[str]) -> None:
    _paused(NOW - 60, scope=scope)(host)
    (fix,) = host.ask("agent.wakes-paused").fix
    assert shlex.split(fix) == ["swarmbus", "resume", *option]


def test_a_loop_is_told_alone(host: Host) -> None:
    _loops(host)
    assert bad(host.doctor()) == [("agent.wake-loop", "warn")]
