"""One report in every format, byte for byte as in ``doctor_formats/``.

``UPDATE_GOLDEN=1`` writes them anew; then read the difference before it is committed.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest

from swarmbus.cli import output
from swarmbus.cli.doctor_junit import as_junit
from swarmbus.cli.doctor_nagios import as_nagios, unknown
from swarmbus.cli.doctor_prometheus import as_prometheus
from swarmbus.cli.doctor_short import as_short
from swarmbus.cli.doctor_text import as_text
from swarmbus.cli.doctor_watch import changes
from swarmbus.errors import UsageError
from swarmbus.provision.checks import Check, Finding, Status
from swarmbus.provision.report import Report, Result

GOLDEN = Path(__file__).parent / "doctor_formats"
NOON = datetime(2026, 4, 14, 12, 0, tzinfo=UTC)


def _check(code: str, title: str) -> Check:
    return Check(code, title, lambda facts, subject: iter([Finding(Status.OK, "")]), "agent")


RESULTS = (
    Result(_check("python.version", "Python is new enough"), Status.OK, seconds=0.001),
    Result(
        _check("systemd.linger", "units run without a login"),
        Status.SKIP,
        message="systemd does not run here",
    ),
    Result(
        _check("broker.running", "the broker of this machine runs"),
        Status.FAIL,
        "localhost:1883",
        "nothing listens on port 1883 of this machine",
        {"host": "localhost", "port": 1883, "running": False},
        ("sudo systemctl restart mosquitto.service", "swarmbus init --agent-id coder --yes"),
        seconds=0.21,
    ),
    Result(
        _check("mqtt.canary", "a message comes through"),
        Status.SKIP,
        "coder",
        "because broker.running failed",
        because="broker.running",
    ),
    Result(
        _check("agent.quarantine", "all that came in could be read"),
        Status.WARN,
        "coder",
        'not JSON: \x1b[31m "a|b" <c> & \\ \n\u202e ü',
        {"unreadable": 2},
        ("swarmbus quarantine --agent-id coder",),
        count=2,
    ),
    Result(_check("agent.quarantine", "all that came in could be read"), Status.WARN, "coder", "and another"),
    Result(
        _check("agent.outbound-stuck", "all that it sent was delivered"),
        Status.WARN,
        "coder",
        "one message to ghost given up (no-subscriber)",
        {"to": "ghost"},
        ("swarmbus outbox --agent-id coder --drop all",),
        muted=NOON.timestamp() + 7 * 86_400,
    ),
    Result(_check("agent.mailbox", "its mailbox can be read"), Status.INFO, "coder", "it is only just made"),
    Result(
        _check("code.stale-daemon", "the listener runs the installed code"),
        Status.CRASH,
        "coder",
        "the check itself failed: KeyError: 'x'",
        detail="Traceback (most recent call last):\n  KeyError: 'x'",
    ),
)
REPORT = Report("pi4", ("coder",), RESULTS, NOON, 0.3125, "1.0.0")
WELL = replace(REPORT, results=RESULTS[:2])

FORMATS = {
    "text": lambda: as_text(REPORT),
    "text-verbose": lambda: as_text(REPORT, verbose=True),
    "text-colour": lambda: as_text(REPORT),
    "short": lambda: as_short(REPORT),
    "short-well": lambda: as_short(WELL),
    "json": lambda: f"{output.as_json(REPORT.as_json(), indent=2)}\n",
    "junit": lambda: as_junit(REPORT, Status.FAIL),
    "junit-fail-on-warn": lambda: as_junit(REPORT, Status.WARN),
    "nagios": lambda: as_nagios(REPORT, Status.FAIL)[0],
    "nagios-well": lambda: as_nagios(WELL, Status.FAIL)[0],
    "prometheus": lambda: as_prometheus(REPORT),
    "watch": lambda: "".join(f"{line}\n" for line in changes(WELL, REPORT)),
}


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("name", FORMATS)
def test_format(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "text-colour":
        monkeypatch.setattr(output, "has_colour", lambda stream: True)
    text = FORMATS[name]()
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_bytes(text.encode())
    assert text.encode() == file.read_bytes()


def test_there_is_no_golden_file_without_its_format() -> None:
    assert sorted(file.stem for file in GOLDEN.iterdir()) == sorted(FORMATS)


def test_json_has_exactly_the_fields_of_the_contract() -> None:
    document = json.loads(FORMATS["json"]())
    assert document["schema"] == "swarmbus.doctor/1"
    fields = "code title category status subject message evidence fix docs because"
    assert all(list(entry) == fields.split() for entry in document["checks"])


@pytest.mark.parametrize("name", ["junit", "junit-fail-on-warn"])
def test_junit_is_xml_and_counts_what_it_holds(name: str) -> None:
    suites = ElementTree.fromstring(FORMATS[name]())
    for suite in suites:
        assert int(suite.get("tests", "")) == len(suite.findall("testcase"))
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.get(attribute, "")) == len(suite.findall(f"testcase/{tag}"))


@pytest.mark.parametrize(
    ("statuses", "fail_on", "status"),
    [
        ("ok", "fail", 0),
        ("ok warn", "fail", 1),
        ("ok warn", "warn", 2),
        ("warn fail", "fail", 2),
        ("ok crash", "fail", 3),
        ("warn crash", "fail", 3),
        ("fail crash", "fail", 2),
        ("skip info", "warn", 0),
    ],
)
def test_nagios_has_its_own_statuses(statuses: str, fail_on: str, status: int) -> None:
    results = tuple(Result(_check("agent.a", "a"), Status(word)) for word in statuses.split())
    text, ends = as_nagios(replace(REPORT, results=results), Status(fail_on))
    assert ends == status
    assert text.startswith(f"SWARMBUS {['OK', 'WARNING', 'CRITICAL', 'UNKNOWN'][status]} - ")
    assert text.splitlines()[0].count("|") == 1


def test_nagios_says_unknown_when_nobody_could_look() -> None:
    assert unknown(UsageError("no agent | id", hint="name one")) == (
        "SWARMBUS UNKNOWN - no agent ¦ id (name one)\n",
        3,
    )


@pytest.mark.parametrize(
    ("statuses", "fail_on", "status"),
    [
        ("ok warn", "fail", 0),
        ("ok warn", "warn", 1),
        ("fail", "fail", 1),
        ("fail", "warn", 1),
        ("crash warn", "fail", 3),
        ("crash warn", "warn", 1),
        ("crash fail", "fail", 1),
        ("skip info", "warn", 0),
    ],
)
def test_exit_status_by_what_counts(statuses: str, fail_on: str, status: int) -> None:
    results = tuple(Result(_check("agent.a", "a"), Status(word)) for word in statuses.split())
    assert replace(REPORT, results=results).ending(Status(fail_on)) == status
    muted = tuple(replace(result, muted=1.0) for result in results)
    assert replace(REPORT, results=muted).ending(Status(fail_on)) == 0


def test_prometheus_has_each_series_once_with_its_worst_state() -> None:
    series = [
        line.rpartition(" ") for line in FORMATS["prometheus"]().splitlines() if not line.startswith("#")
    ]
    names = [name for name, _, _ in series]
    assert len(names) == len(set(names))
    for name, _, value in series:
        assert re.fullmatch(r'swarmbus_doctor_\w+(\{(\w+="(?:[^"\\\n]|\\.)*",?)+\})?', name), name
        float(value)


def test_watch_tells_what_is_gone_and_nothing_of_what_is_the_same() -> None:
    assert list(changes(REPORT, REPORT)) == []
    gone = [line for line in changes(REPORT, WELL) if "gone" in line]
    assert [line.split()[4] for line in gone] == ["broker.running", "agent.quarantine", "code.stale-daemon"]


@pytest.mark.parametrize(
    "text",
    [
        lambda report: as_text(report, verbose=True),
        as_short,
        lambda report: as_nagios(report, Status.FAIL)[0],
    ],
)
def test_nothing_that_others_wrote_reaches_the_terminal(text: Callable[[Report], str]) -> None:
    evil = "a\x1b[2J\u202eb"
    result = Result(
        _check("agent.files", "files"), Status.CRASH, evil, evil, {"path": evil}, (f"rm {evil}",), detail=evil
    )
    told = text(replace(REPORT, host=evil, agents=(evil,), results=(result,)))
    assert "\\x1b[2J" in told
    assert not set("\x1b\u202e") & set(told)
