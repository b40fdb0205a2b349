"""The doctor's frame: order, root causes, crashes, time limits, its report, and its pages."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmbus.cli.doctor_text import as_text
from swarmbus.config import Settings
from swarmbus.errors import UsageError
from swarmbus.provision.checks import CATEGORIES, CHECKS, Check, Finding, Status, page
from swarmbus.provision.checks.record import Registry
from swarmbus.provision.doctor import choose, run_checks, run_doctor
from swarmbus.provision.facts import CouldNotLook, Facts
from swarmbus.provision.known_agents import known_agents
from swarmbus.provision.system import Result as Ran
from tests.provision.doctor_facts import LAYOUT, Host
from tests.provision.fake_system import FakeSystem

PAGES = Path(__file__).resolve().parents[2] / "docs" / "checks"


def _ok(facts: Facts, subject: str) -> Iterator[Finding]:
    yield from ()


def _fail(facts: Facts, subject: str) -> Iterator[Finding]:
    yield Finding(Status.FAIL, "broken")


def _crash(facts: Facts, subject: str) -> Iterator[Finding]:
    raise ZeroDivisionError("a fault of the check")
    yield


def _hang(facts: Facts, subject: str) -> Iterator[Finding]:
    time.sleep(30)
    yield from ()


def _blind(facts: Facts, subject: str) -> Iterator[Finding]:
    raise CouldNotLook("no permission")
    yield


def _report(*checks: Check, agents: tuple[str, ...] = ("coder",)) -> list[tuple[str, str, str, str | None]]:
    host = Host(settings={agent: Settings(agent_id=agent) for agent in agents})
    results = run_checks(checks, host.facts()).results
    return [(one.check.code, one.subject, str(one.status), one.because) for one in results]


def test_a_check_that_crashes_is_a_result_and_the_run_goes_on() -> None:
    host = Host()
    crash = Check("agent.crash", "", _crash, "agent")
    report = run_checks([crash, Check("agent.ok", "", _ok, "agent")], host.facts())
    assert [str(result.status) for result in report.results] == ["crash", "ok"]
    assert "ZeroDivisionError: a fault of the check" in report.results[0].message
    assert "_crash" in report.results[0].detail
    assert report.exit_status == 3


def test_a_failure_counts_for_more_than_a_crash() -> None:
    checks = [Check("agent.crash", "", _crash, "agent"), Check("agent.fail", "", _fail, "agent")]
    assert run_checks(checks, Host().facts()).exit_status == 1


def test_a_check_that_hangs_could_not_look() -> None:
    began = time.monotonic()
    hang = Check("agent.hang", "", _hang, "agent", timeout=0.05)
    assert _report(hang, Check("agent.ok", "", _ok, "agent")) == [
        ("agent.hang", "coder", "skip", None),
        ("agent.ok", "coder", "ok", None),
    ]
    assert time.monotonic() - began < 20


def test_consequences_of_consequences_are_told_under_the_root() -> None:
    checks = (
        Check("broker.a", "", _fail, "broker"),
        Check("agent.b", "", _fail, "agent", after=("broker.a",)),
        Check("agent.c", "", _fail, "agent", after=("agent.b",)),
    )
    assert _report(*checks) == [
        ("broker.a", "localhost:1883", "fail", None),
        ("agent.b", "coder", "skip", "broker.a"),
        ("agent.c", "coder", "skip", "broker.a"),
    ]


def test_what_fails_for_one_agent_hides_nothing_of_another() -> None:
    def half(facts: Facts, agent: str) -> Iterator[Finding]:
        if agent == "coder":
            yield Finding(Status.FAIL, "broken")

    checks = (Check("agent.a", "", half, "agent"), Check("agent.b", "", _ok, "agent", after=("agent.a",)))
    assert _report(*checks, agents=("coder", "planner"))[2:] == [
        ("agent.b", "coder", "skip", "agent.a"),
        ("agent.b", "planner", "ok", None),
    ]


def test_an_explained_failure_is_told_under_its_explanation_and_an_ok_stays() -> None:
    checks = (
        Check("agent.a", "", _fail, "agent"),
        Check("agent.b", "", _fail, "agent", consequence_of=("agent.a",)),
        Check("agent.c", "", _ok, "agent", consequence_of=("agent.a",)),
    )
    assert _report(*checks)[1:] == [("agent.b", "coder", "skip", "agent.a"), ("agent.c", "coder", "ok", None)]


def test_what_could_not_be_looked_at_explains_nothing() -> None:
    checks = (Check("agent.a", "", _blind, "agent"), Check("agent.b", "", _fail, "agent", after=("agent.a",)))
    assert _report(*checks) == [("agent.a", "coder", "skip", None), ("agent.b", "coder", "fail", None)]


def test_a_code_is_given_once() -> None:
    registry = Registry()
    registry.check("agent.a", "")(_ok)
    with pytest.raises(ValueError, match=r"two checks with the code agent\.a"):
        registry.check("agent.a", "")


@pytest.mark.parametrize(
    ("scope", "after", "words"),
    [("agent", "agent.none", "which there is not"), ("host", "agent.a", "which is for fewer")],
)
def test_a_dependency_that_makes_no_sense_is_refused(scope: str, after: str, words: str) -> None:
    registry = Registry()
    registry.check("agent.a", "")(_ok)
    registry.check("agent.b", "", scope=scope, after=(after,))(_ok)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=words):
        registry.in_order()


def test_a_fact_is_looked_for_once_and_so_is_one_that_is_not_to_be_had() -> None:
    host = Host()
    host.manager = False
    facts = host.facts()
    assert facts.may("-w", Path("/a")) is facts.may("-w", Path("/a")) is True
    assert facts.may("-w", Path("/b"))
    for _ in range(2):
        with pytest.raises(CouldNotLook, match="Failed to connect to bus"):
            facts.unit("coder")
    assert [argv[0] for argv in host.system.ran] == ["test", "test", "systemctl"]


def test_agents_are_looked_at_all_at_once() -> None:
    host = Host()
    host.settings = {name: Settings(agent_id=name) for name in ("coder", "planner", "writer")}
    together = threading.Barrier(3, timeout=10)

    def wait(facts: Facts, agent: str) -> Iterator[Finding]:
        together.wait()
        yield Finding(Status.OK, agent)

    results = run_checks([Check("agent.a", "", wait, "agent")], host.facts()).results
    assert [(result.subject, result.status) for result in results] == [
        ("coder", "ok"),
        ("planner", "ok"),
        ("writer", "ok"),
    ]


def test_agents_that_ask_for_one_fact_at_once_have_it_looked_for_once() -> None:
    host = Host()
    host.settings = {name: Settings(agent_id=name) for name in ("coder", "planner", "writer")}

    def ask(facts: Facts, agent: str) -> Iterator[Finding]:
        yield Finding(Status.OK, f"{len(facts.units())}")

    slow, looks = host.system.programs, []

    def programs(system: FakeSystem, argv: tuple[str, ...], root: bool) -> Ran | None:
        looks.append(argv)
        time.sleep(0.1)
        return slow(system, argv, root)

    host.system.programs = programs
    results = run_checks([Check("agent.a", "", ask, "agent")], host.facts()).results
    assert len(looks) == 1
    assert {result.message for result in results} == {"5"}


def test_what_a_hanging_look_would_have_found_could_not_be_looked_at_later() -> None:
    host = Host()
    hangs = threading.Event()

    def hang(system: FakeSystem, argv: tuple[str, ...], root: bool) -> Ran | None:
        hangs.wait(20)
        return None

    host.system.programs = hang

    def ask(facts: Facts, agent: str) -> Iterator[Finding]:
        yield Finding(Status.OK, f"{len(facts.units())}")

    checks = (
        Check("agent.a", "", ask, "agent", timeout=0.05),
        Check("agent.b", "", ask, "agent", timeout=10.0),
    )
    first, second = run_checks(checks, host.facts()).results
    hangs.set()
    assert (first.status, second.status) == ("skip", "skip")
    assert second.message == "another check still waits for this"


def test_checks_are_chosen_by_code_and_category() -> None:
    assert {check.category for check in choose(CHECKS, ["code"], [])} == {"code"}
    left = choose(CHECKS, ["mqtt"], ["mqtt.canary"])
    assert "mqtt.connect" in [check.code for check in left]
    assert "mqtt.canary" not in [check.code for check in left]
    assert {check.category for check in choose(CHECKS, [], [], ["mqtt"])} == {"mqtt"}
    assert [check.code for check in choose(CHECKS, ["mqtt.connect"], [], ["mqtt"])] == ["mqtt.connect"]
    assert choose(CHECKS, ["agent.mailbox"], [], ["mqtt"]) == []
    for word in ("mqtt.canary", "mqt"):
        with pytest.raises(UsageError):
            choose(CHECKS, [], [], [word])
    with pytest.raises(UsageError) as refused:
        choose(CHECKS, ["mqtt.canari"], [])
    assert refused.value.hint == "did you mean 'mqtt.canary'?"


def test_without_an_agent_there_is_nothing_to_look_at() -> None:
    host = Host()
    host.system.files.clear()
    host.system.held.clear()
    with pytest.raises(UsageError, match="no agent id"):
        run_doctor(host.system, Settings(), layout=LAYOUT, bus=host.bus)


def test_agents_are_found_by_spec_units_records_and_listeners_and_not_by_mailboxes() -> None:
    host = Host()
    host.system.put(str(LAYOUT.units / "swarmbus-broker.service"))
    host.system.put(str(LAYOUT.processes / "agent.writer.json"), "{}")
    host.system.put(str(LAYOUT.processes / "broker.json"), "{}")
    for name in ("sender", "runner"):
        host.system.put(str(LAYOUT.agent_dir(name) / "mailbox.db"))
    host.system.held[LAYOUT.agent_dir("runner") / "listener.lock"] = b'{"pid": 1, "role": "listener"}'
    assert sorted(known_agents(host.system, LAYOUT)) == ["coder", "runner", "writer"]


def test_nothing_is_written_by_any_check() -> None:
    host = Host()
    before = dict(host.system.files)
    host.doctor()
    assert host.system.writes == []
    assert host.system.files == before


def test_json_has_the_keys_that_programs_rely_on() -> None:
    document = Host().doctor().as_json()
    assert document["schema"] == "swarmbus.doctor/1"
    top = "schema host version time seconds agents summary checks muted"
    assert list(document) == top.split()
    assert set(document["summary"]) == {"ok", "info", "skip", "warn", "fail", "crash", "muted"}
    wanted = "code title category status subject message evidence fix docs because"
    assert all(list(entry) == wanted.split() for entry in document["checks"])
    assert document["checks"][0]["docs"] == f"docs/checks/{document['checks'][0]['code']}.md"


def test_text_says_what_is_amiss_with_its_evidence_its_fix_and_its_page() -> None:
    host = Host()
    host.unit["UnitFileState"] = "disabled"
    lines = as_text(host.doctor()).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("warn"))
    assert lines[at].split(maxsplit=2)[1:] == [
        "systemd.unit-disabled",
        "coder: swarmbus-coder.service is disabled: it does not start at boot",
    ]
    assert "UnitFileState disabled" in lines[at + 1]
    assert lines[at + 2].strip() == "fix: systemctl --user enable swarmbus-coder.service"
    assert lines[at + 3].strip() == "more: swarmbus doctor --explain systemd.unit-disabled"
    assert re.fullmatch(r"1 warned, \d+ ok, in \d\.\d s", lines[-1])


def test_text_counts_consequences_under_their_root() -> None:
    host = Host()
    host.without_listener()
    text = as_text(host.doctor())
    assert re.search(r"skip  .*mqtt\.canary.*: because of agent\.listener-running", text)
    assert re.search(r"1 failed, \d+ ok, \d+ skipped \(\d+ because of agent\.listener-running\)", text)


def test_categories_are_told_in_their_order() -> None:
    assert {check.category for check in CHECKS} == set(CATEGORIES)
    told = [result.check.category for result in Host().doctor().results]
    assert told == sorted(told, key=CATEGORIES.index)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.code)
def test_every_check_has_a_page_under_its_title(check: Check) -> None:
    assert page(check.code).startswith(f"# {check.code}: {check.title}\n")
    assert "<!--" not in page(check.code)


def test_every_page_has_a_check() -> None:
    assert sorted(path.stem for path in PAGES.glob("*.md")) == sorted(check.code for check in CHECKS)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.code)
def test_codes_are_category_and_kebab(check: Check) -> None:
    assert re.fullmatch(r"[a-z]+\.[a-z]+(-[a-z]+)*", check.code)
