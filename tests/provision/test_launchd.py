"""Agents of launchd on a Mac that is made up: whoever answers for launchctl does as its manual page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmbus.config import Settings
from swarmbus.errors import CannotRun, UsageError
from swarmbus.provision.carry_out import carry_out
from swarmbus.provision.checks.commands import restart_listener, start_listener
from swarmbus.provision.desired import choose
from swarmbus.provision.facts import Facts as FactsOfAHost
from swarmbus.provision.handlers import Handler
from swarmbus.provision.host import Host as Facts
from swarmbus.provision.host import gather
from swarmbus.provision.outcome import GateReport, Prepared
from swarmbus.provision.prepare import prepare
from swarmbus.provision.request import AgentSpec
from swarmbus.provision.resources.launchd_agent import LaunchdAgent
from swarmbus.provision.restart import Code, Restarting
from swarmbus.provision.spec import InstallSpec
from swarmbus.provision.system import Result
from tests.provision.doctor_facts import FakeBus
from tests.provision.fake_system import FakeSystem
from tests.provision.installing import LAYOUT, inspector
from tests.provision.test_init import Host

LABEL = "swarmbus.agent.planner"
PLIST = LAYOUT.launch_agents / f"{LABEL}.plist"
RESTART = f"launchd:restart:{LABEL}"


@pytest.fixture
def mac(tmp_path: Path) -> Host:
    host = Host(tmp_path / "root")
    host.at(Path("/run/systemd/system")).rmdir()
    host.write(Path("/bin/launchctl"), "")
    return host


def _loaded(mac: Host) -> list[str]:
    loaded: list[str] = mac.machine.state(mac.system())["launchd"]
    return loaded


def test_it_is_loaded_and_a_second_run_changes_nothing(mac: Host) -> None:
    outcome = mac.init(agent_id="planner", skip_broker=True)
    assert not outcome.failed, outcome.error
    assert (_loaded(mac), mac.at(PLIST).exists()) == ([LABEL], True)
    mac.machine.log.clear()
    assert not mac.prepare().plan.changed
    assert mac.machine.log == []


def test_a_setting_that_changes_has_it_loaded_afresh(mac: Host) -> None:
    mac.init(agent_id="planner", skip_broker=True)
    mac.machine.log.clear()
    outcome = mac.init(agent_id="planner", inbox="~/other.md")
    assert outcome.handlers == (RESTART,)
    assert mac.machine.log == [f"launchd:bootout:{LABEL}", f"launchd:bootstrap:{LABEL}"]


def test_one_that_was_unloaded_is_loaded_again(mac: Host) -> None:
    mac.init(agent_id="planner", skip_broker=True)
    LaunchdAgent(group="", path=PLIST).stop(mac.system())
    assert _loaded(mac) == []
    mac.init()
    assert _loaded(mac) == [LABEL]


def test_what_does_not_work_is_taken_back(mac: Host) -> None:
    def dead(_: Prepared) -> GateReport:
        return GateReport(ok=False, summary="no answer")

    outcome = mac.init(agent_id="planner", skip_broker=True, gate=dead)
    assert outcome.rolled_back, outcome.notes
    assert (_loaded(mac), mac.at(PLIST).exists()) == ([], False)


def test_a_handler_of_one_that_is_gone_does_nothing(mac: Host) -> None:
    handler = Handler(RESTART, LAYOUT.processes)
    assert (handler.is_active(mac.system()), handler.rank) == (False, 2)
    handler.run(mac.system())
    assert mac.machine.log == []


def test_the_broker_is_restarted_first() -> None:
    assert Handler("launchd:restart:swarmbus.broker", LAYOUT.processes).rank == 1


def test_one_that_does_not_end_is_told() -> None:
    system = FakeSystem(programs=lambda _, argv, root: Result(argv, 0))
    with pytest.raises(CannotRun, match="does not end") as caught:
        LaunchdAgent(group="", path=PLIST).stop(system)
    assert f"launchctl print gui/1000/{LABEL}" in (caught.value.hint or "")


def test_restart_and_the_doctor_know_it() -> None:
    loaded = {LABEL}

    def launchctl(_: FakeSystem, argv: tuple[str, ...], root: bool) -> Result:
        ended = argv[1] == "bootout"
        if ended:
            loaded.clear()
        return Result(argv, 0 if ended or loaded else 113)

    system = FakeSystem(programs=launchctl)
    system.put(str(PLIST))
    bus = FakeBus()
    Restarting(system, LAYOUT, bus, Code("1.0.0", "f1")).stop("planner")
    assert loaded == set()
    facts = FactsOfAHost(system, bus, layout=LAYOUT, settings={"planner": Settings(agent_id="planner")})
    assert start_listener(facts, "planner") == (f"launchctl kickstart gui/1000/{LABEL}",)
    assert restart_listener(facts, "planner") == (f"launchctl kickstart -k gui/1000/{LABEL}",)


def test_the_facts_of_a_mac() -> None:
    system = FakeSystem(root="none")
    system.put("/bin/launchctl")
    facts = gather(system, port=1883, inspector=inspector())
    assert (facts.init, facts.systemd, facts.user_manager, facts.apt) == ("launchd", None, False, False)


def test_without_a_mosquitto_homebrew_is_named() -> None:
    facts = Facts("mac", FakeSystem().user, init="launchd", root="none", apt=False)
    with pytest.raises(UsageError) as caught:
        choose(InstallSpec((AgentSpec("planner"),)), facts)
    assert caught.value.hint == "brew install mosquitto"


def test_no_units_of_the_system(mac: Host) -> None:
    with pytest.raises(UsageError, match="--scope system needs systemd"):
        carry_out(prepare(mac.system(), {"scope": "system"}, layout=LAYOUT, inspector=inspector()))
