"""What changed is kept, the bus is told how all is, and nothing is told twice."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from swarmbus.config import Settings
from swarmbus.provision import health
from swarmbus.provision.checks import CHECKS
from swarmbus.provision.doctor import run_checks
from swarmbus.provision.health import Change, history, summary_of, watch_over
from swarmbus.provision.health_state import load_health
from swarmbus.provision.report import Report
from tests.provision.doctor_facts import LAYOUT, NOW, UNIT, Host, presence


def _look(host: Host, at: float, *, only: str = "") -> list[Change]:
    facts = host.facts()
    facts.now = lambda: at
    checks = [check for check in CHECKS if only in check.code and check.code != health.OWN_CHECK]
    return watch_over(host.system, LAYOUT, host.bus, facts, run_checks(checks, facts))


def _told(changes: list[Change]) -> list[tuple[str, str, str, str]]:
    return [(one.code, one.subject, one.before, one.after) for one in changes]


@pytest.fixture
def host() -> Host:
    host = Host()
    host.system.make_dir(LAYOUT.doctor)
    return host


def test_a_change_is_told_once_with_since_when_it_had_been_otherwise(host: Host) -> None:
    assert _look(host, NOW) == []
    host.unit["UnitFileState"] = "disabled"
    (change,) = _look(host, NOW + 300)
    assert _told([change]) == [("systemd.unit-disabled", "coder", "ok", "warn")]
    assert (change.time, change.since) == (NOW + 300, NOW)
    assert _look(host, NOW + 600) == []
    host.unit["UnitFileState"] = "enabled"
    (change,) = _look(host, NOW + 900)
    assert (change.before, change.after, change.since) == ("warn", "ok", NOW + 300)
    assert [(one.time, one.after) for one in history(host.system, LAYOUT)] == [
        (NOW + 300, "warn"),
        (NOW + 900, "ok"),
    ]
    assert [one.after for one in history(host.system, LAYOUT, NOW + 900)] == ["ok"]


def test_what_is_amiss_at_the_first_look_is_told(host: Host) -> None:
    host.without_listener()
    assert _told(_look(host, NOW)) == [("agent.listener-running", "coder", "gone", "fail")]


def test_consequences_are_not_told_and_come_and_go_in_silence(host: Host) -> None:
    _look(host, NOW)
    status, process = host.status, dict(host.system.processes)
    held = dict(host.system.held)
    host.without_listener()
    assert _told(_look(host, NOW + 300)) == [("agent.listener-running", "coder", "ok", "fail")]
    host.bus.statuses["coder"], host.system.held = status, held
    host.system.processes = process
    assert _told(_look(host, NOW + 600)) == [("agent.listener-running", "coder", "fail", "ok")]


def test_an_agent_that_is_no_longer_there_is_gone(host: Host) -> None:
    host.unit["UnitFileState"] = "disabled"
    _look(host, NOW)
    host.settings = {"planner": Settings(agent_id="planner")}
    host.without_listener()
    host.system.remove(LAYOUT.units / UNIT)
    assert ("systemd.unit-disabled", "coder", "warn", "gone") in _told(
        _look(host, NOW + 300, only="unit-dis")
    )


def test_a_check_that_was_not_run_says_nothing(host: Host) -> None:
    host.unit["UnitFileState"] = "disabled"
    _look(host, NOW)
    assert _look(host, NOW + 300, only="python") == []
    host.unit["UnitFileState"] = "enabled"
    (change,) = _look(host, NOW + 600)
    assert (change.before, change.since) == ("warn", NOW)


def test_an_agent_that_was_not_looked_at_is_as_it_was(host: Host) -> None:
    host.unit["UnitFileState"] = "disabled"
    _look(host, NOW, only="unit-dis")
    coder = host.settings
    host.settings = {"planner": Settings(agent_id="planner")}
    assert _look(host, NOW + 300, only="unit-dis") == []
    host.settings = coder
    assert _look(host, NOW + 600, only="unit-dis") == []


def test_each_agents_broker_is_told_of_it_its_broker_and_its_host(host: Host) -> None:
    host.unit["UnitFileState"] = "disabled"
    _look(host, NOW)
    ((topic, word),) = host.bus.told
    said = json.loads(word)
    assert topic == "agents/coder/health"
    assert said["summary"].pop("ok") > 10
    assert said == {
        "agent": "coder",
        "host": "pi4",
        "ts": "2027-01-15T08:00:00+00:00",
        "interval": 300.0,
        "version": host.facts().version,
        "status": "warn",
        "summary": {"info": 0, "skip": 1, "warn": 1, "fail": 0, "crash": 0, "muted": 0},
        "worst": ["systemd.unit-disabled"],
    }
    assert len(word) < 500


def test_what_is_wrong_with_another_agent_is_not_this_ones(host: Host) -> None:
    host.settings["planner"] = Settings(agent_id="planner", broker="hub")
    facts = host.facts()
    report = run_checks([check for check in CHECKS if check.code == "systemd.unit-missing"], facts)
    assert summary_of(report, facts, "planner")["worst"] == ["systemd.unit-missing"]
    assert summary_of(report, facts, "coder")["worst"] == []


def test_a_broker_that_does_not_take_it_is_remembered(host: Host) -> None:
    host.bus.tell = lambda words: ["it is away"]  # type: ignore[method-assign]
    _look(host, NOW)
    seen = load_health(host.system, LAYOUT)
    assert seen is not None
    assert (seen.time, dict(seen.untold)) == (NOW, {"coder": "it is away"})


def test_half_a_line_is_passed_over(host: Host) -> None:
    host.unit["UnitFileState"] = "disabled"
    _look(host, NOW)
    host.system.append(LAYOUT.doctor / "history.jsonl", b'{"time": 1, "code": "half')
    assert len(history(host.system, LAYOUT)) == 1
    host.unit["UnitFileState"] = "enabled"
    _look(host, NOW + 300)
    assert [one.after for one in history(host.system, LAYOUT)] == ["warn", "ok"]


def test_the_history_does_not_grow_for_ever(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_LARGEST_HISTORY", 2000)
    for turn in range(40):
        host.unit["UnitFileState"] = "disabled" if turn % 2 else "enabled"
        _look(host, NOW + 300 * turn, only="unit-disabled")
    kept = history(host.system, LAYOUT)
    assert 2 < len(kept) < 20
    assert kept[-1].time == NOW + 300 * 39


def test_the_words_of_a_change_are_for_programs_too(host: Host) -> None:
    change = Change(NOW, "a.b", "coder", "ok", "fail", "m", NOW - 300)
    document: dict[str, Any] = change.as_json()
    assert document == {
        "time": "2027-01-15T08:00:00+00:00",
        "code": "a.b",
        "subject": "coder",
        "before": "ok",
        "after": "fail",
        "message": "m",
        "since": "2027-01-15T07:55:00+00:00",
    }


def test_a_report_is_told_as_it_was_with_what_is_muted_apart(host: Host) -> None:
    host.bus.seen = replace(host.bus.seen, presences={"coder": presence(instance="other")})
    facts = host.facts()
    report: Report = run_checks(CHECKS, facts)
    muted = replace(
        report, results=tuple(replace(one, muted=1.0) if one.is_amiss else one for one in report.results)
    )
    assert summary_of(report, facts, "coder")["status"] == "fail"
    assert summary_of(muted, facts, "coder")["status"] == "ok"
