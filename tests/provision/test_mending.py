"""``--fix``: only what a finding names is touched, by the engine, and a second time nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmbus.provision.carry_out import carry_out
from swarmbus.provision.checks import Check, Finding, Status
from swarmbus.provision.journal import Journal
from swarmbus.provision.mending import Repairs, Tried, must_work, repairs_for
from swarmbus.provision.outcome import GateReport, Prepared
from swarmbus.provision.prepare import prepare
from swarmbus.provision.report import Report, Result
from swarmbus.provision.request import AgentSpec
from swarmbus.provision.resources.base import Verb
from swarmbus.provision.spec import InstallSpec
from tests.provision import doctor_facts
from tests.provision.installing import LAYOUT, inspector
from tests.provision.test_init import Host

SPEC = InstallSpec((AgentSpec("coder"), AgentSpec("planner")))
CODER = "user:swarmbus-coder.service"
UNIT_FILE = LAYOUT.units / "swarmbus-coder.service"
LINGER = Path("/var/lib/systemd/linger/pi")
TIMER = "user:swarmbus.health.timer"


def _report(*findings: tuple[str, Status, tuple[str, ...]]) -> Report:
    host = doctor_facts.Host()
    results = tuple(
        Result(
            Check(code, code, lambda facts, _: iter([Finding(Status.OK, "")]), "agent"), status, repair=repair
        )
        for code, status, repair in findings
    )
    plain = host.doctor()
    return Report(plain.host, plain.agents, results, plain.time, 0.1, plain.version)


# what is to be done


def test_words_are_gathered_and_what_has_none_is_left_to_a_human() -> None:
    report = _report(
        ("systemd.linger", Status.FAIL, ("linger:pi",)),
        ("systemd.unit-disabled", Status.WARN, (f"unit:{CODER}",)),
        ("code.stale-daemon", Status.FAIL, ("restart:coder",)),
        ("agent.presence", Status.FAIL, ("restart:coder",)),
        ("systemd.reload-pending", Status.FAIL, ("user:daemon-reload", "restart:planner")),
        ("agent.quarantine", Status.WARN, ()),
        ("agent.mailbox", Status.SKIP, ("agent:coder",)),
    )
    repairs = repairs_for(report, SPEC)
    assert repairs.words == {"linger:pi", f"unit:{CODER}", "user:daemon-reload"}
    assert repairs.restarts == ("coder", "planner")
    assert [one.check.code for one in repairs.by_hand] == ["agent.quarantine"]


def test_what_was_never_set_up_by_init_is_left_to_a_human() -> None:
    report = _report(
        ("agent.listener-running", Status.FAIL, ("agent:coder",)),
        ("systemd.unit-missing", Status.FAIL, ("agent:stranger",)),
        ("code.stale-daemon", Status.FAIL, ("restart:coder",)),
    )
    assert repairs_for(report, None).words == frozenset()
    assert [one.check.code for one in repairs_for(report, SPEC).by_hand] == ["systemd.unit-missing"]
    assert repairs_for(report, None).restarts == ("coder",)


def test_what_the_engine_sees_nothing_to_do_about_is_left_to_a_human_too() -> None:
    report = _report(
        ("systemd.unit-masked", Status.FAIL, (f"unit:{CODER}",)),
        ("code.stale-daemon", Status.FAIL, ("restart:planner",)),
        ("agent.quarantine", Status.WARN, ()),
    )
    left = repairs_for(report, SPEC).without_engine(report)
    assert (left.words, left.restarts) == (frozenset(), ("planner",))
    assert {one.check.code for one in left.by_hand} == {"systemd.unit-masked", "agent.quarantine"}


def test_what_is_muted_is_left_alone() -> None:
    report = _report(("systemd.linger", Status.FAIL, ("linger:pi",)))
    (result,) = report.results
    muted = Result(result.check, result.status, repair=result.repair, muted=1.0)
    assert repairs_for(Report("pi4", (), (muted,), report.time, 0.1, "1"), SPEC) == Repairs()


def test_a_listener_is_not_restarted_twice_for_what_a_restart_does_not_mend() -> None:
    host = doctor_facts.Host()
    host.system.make_dir(LAYOUT.doctor)
    report = _report(("agent.presence", Status.FAIL, ("restart:coder",)))
    tried = Tried(host.system, doctor_facts.LAYOUT, host.bus)
    assert repairs_for(report, SPEC, tried.in_vain()).restarts == ("coder",)
    tried.keep(report, ("coder",))
    repairs = repairs_for(report, SPEC, tried.in_vain())
    assert (repairs.nothing, [one.check.code for one in repairs.by_hand]) == (True, ["agent.presence"])
    other = _report(("code.stale-daemon", Status.FAIL, ("restart:coder",)))
    assert repairs_for(other, SPEC, tried.in_vain()).restarts == ("coder",)
    host.status["instance"] = "somebody has restarted it since"
    assert repairs_for(report, SPEC, tried.in_vain()).restarts == ("coder",)


def test_after_a_restart_that_helped_nothing_is_remembered() -> None:
    host = doctor_facts.Host()
    host.system.make_dir(LAYOUT.doctor)
    tried = Tried(host.system, doctor_facts.LAYOUT, host.bus)
    tried.keep(_report(("agent.presence", Status.FAIL, ("restart:coder",))), ("coder",))
    tried.keep(_report(("agent.presence", Status.OK, ())), ("coder",))
    assert tried.in_vain() == {}


def test_who_worked_before_has_to_work_afterwards() -> None:
    assert must_work(doctor_facts.Host().doctor()) == ["coder"]
    host = doctor_facts.Host()
    host.without_listener()
    assert must_work(host.doctor()) == []


# the engine, restricted


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path / "root")
    host.init(agent_id=["coder", "planner"])
    return host


def _prepare(host: Host, *words: str) -> Prepared:
    return prepare(host.system(), {}, layout=LAYOUT, inspector=inspector(), only=frozenset(words))


def _break(host: Host) -> None:
    """Several things at once."""
    system = host.system()
    system.remove(LINGER)
    system.run(["systemctl", "--user", "disable", "swarmbus-coder.service"])
    system.run(["systemctl", "--user", "stop", "swarmbus-planner.service"])
    system.run(["systemctl", "--user", "disable", "swarmbus.health.timer"])
    host.machine.log.clear()


def _changed(what: Prepared) -> list[str]:
    return [action.resource.id for action in what.plan.changes]


def test_only_what_is_named_is_touched(host: Host) -> None:
    _break(host)
    what = _prepare(host, "linger:pi")
    assert _changed(what) == ["linger:pi"]
    assert carry_out(what).changed
    assert host.at(LINGER).exists()
    assert not host.unit(CODER)["enabled"]
    assert not host.unit("user:swarmbus-planner.service")["active"]
    assert not _prepare(host, "linger:pi").plan.changed


def test_a_group_is_brought_about_with_the_folders_it_lies_in(host: Host) -> None:
    system = host.system()
    for name in ("coder", "planner"):
        system.run(["systemctl", "--user", "stop", f"swarmbus-{name}.service"])
        system.run(["systemctl", "--user", "disable", f"swarmbus-{name}.service"])
    system.run(["systemctl", "--user", "stop", "swarmbus.health.timer"])
    system.remove_tree(LAYOUT.units)
    what = _prepare(host, "agent:coder")
    assert _changed(what) == [f"directory:{LAYOUT.units}", f"file:{UNIT_FILE}", f"unit:{CODER}"]
    carry_out(what)
    assert host.unit(CODER)["active"]
    assert not host.at(LAYOUT.units / "swarmbus-planner.service").exists()
    assert not _prepare(host, "agent:coder").plan.changed


def test_a_handler_can_be_asked_for_by_itself(host: Host) -> None:
    host.machine.log.clear()
    what = _prepare(host, "user:daemon-reload")
    assert (_changed(what), [handler.id for handler in what.plan.handlers]) == ([], ["user:daemon-reload"])
    carry_out(what)
    assert host.machine.log == ["user:daemon-reload"]


def test_what_the_user_has_edited_stays(host: Host) -> None:
    text = host.read(UNIT_FILE) + "# mine\n"
    host.write(UNIT_FILE, text)
    what = _prepare(host, "agent:coder")
    verbs = {action.resource.id: action.verb for action in what.plan.actions}
    assert verbs[f"file:{UNIT_FILE}"] is Verb.KEEP
    carry_out(what)
    assert host.read(UNIT_FILE) == text


def test_what_breaks_somebody_who_worked_is_taken_back(host: Host) -> None:
    _break(host)

    def no(prepared: Prepared) -> GateReport:
        return GateReport(ok=False, summary="planner is silent now")

    before = host.unit(CODER)["enabled"]
    outcome = carry_out(_prepare(host, f"unit:{CODER}"), gate=no)
    assert outcome.rolled_back
    assert host.unit(CODER)["enabled"] is before is False


def test_what_an_interrupted_run_left_is_put_in_order_as_a_whole(host: Host) -> None:
    _break(host)
    Journal(host.system(), LAYOUT.provision).begin(_prepare(host).spec.as_json(), None)
    what = _prepare(host, "linger:pi")
    assert what.resumed
    planner = "unit:user:swarmbus-planner.service"
    assert set(_changed(what)) == {"linger:pi", f"unit:{CODER}", planner, f"unit:{TIMER}"}
    carry_out(what)
    assert Journal(host.system(), LAYOUT.provision).interrupted() is None
    assert host.unit(CODER)["enabled"]
