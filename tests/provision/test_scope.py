"""Units of the user and of the system: what each comes to, and going from the one to the other."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from swarmbus.errors import UsageError
from swarmbus.provision.carry_out import carry_out
from swarmbus.provision.plan import Plan, Wish
from swarmbus.provision.prepare import prepare
from swarmbus.provision.resources.file import File
from swarmbus.provision.resources.unit import SYSTEM_UNITS
from swarmbus.provision.rollback import roll_back
from swarmbus.provision.root import RootStepsNeeded
from swarmbus.provision.supervisors.units import AgentUnit, agents_with_units, find_unit
from swarmbus.provision.system import RootAccess
from tests.provision.fake_system import FakeSystem
from tests.provision.installing import LAYOUT, inspector
from tests.provision.machine import Machine
from tests.provision.sandbox import Sandbox, tree
from tests.provision.test_init import CHECKOUT, Host
from tests.provision.test_plans import prepared

NAME = "swarmbus-planner.service"
OF_USER, OF_SYSTEM = LAYOUT.units / NAME, SYSTEM_UNITS / NAME
LINGER = Path("/var/lib/systemd/linger/pi")
UNTOUCHED = ("machine.json", ".provision")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "root")


def _units(host: Host) -> dict[str, bool]:
    units = host.machine.state(host.system())["units"]
    return {name: unit["active"] and unit["enabled"] for name, unit in units.items() if "swarmbus" in name}


def _order(plan: Plan) -> list[str]:
    return [f"{action.verb} {action.resource.id}" for action in plan.actions]


def test_units_of_the_system_need_no_linger(host: Host) -> None:
    host.init(agent_id="planner", scope="system")
    assert _units(host) == {f"system:{NAME}": True}
    assert (host.at(LINGER).exists(), host.at(LAYOUT.units).exists()) == (False, False)
    assert "User=pi" in host.read(OF_SYSTEM)
    host.machine.log.clear()
    again = host.prepare()
    assert (again.spec.scope, again.plan.changed) == ("system", False)
    carry_out(again)
    assert host.machine.log == []


def test_a_wake_command_wants_linger_even_so(host: Host) -> None:
    host.init(agent_id="planner", scope="system", invoke="cat")
    assert host.at(LINGER).exists()
    assert not host.prepare().plan.changed


def test_the_folders_of_inbox_and_outbox_are_there_before_they_are_named_writable(host: Host) -> None:
    host.init(agent_id="planner", scope="system", inbox="~/a/b/in.md", outbox="~/c d/out.md")
    assert host.at(Path("/home/pi/a/b")).is_dir()
    assert host.at(Path("/home/pi/c d")).is_dir()
    unit = host.read(OF_SYSTEM)
    assert "ReadWritePaths=-/home/pi/a/b\n" in unit
    assert 'ReadWritePaths="-/home/pi/c d"\n' in unit


@pytest.mark.parametrize(
    ("before", "after"), [("user", "system"), ("system", "user")], ids=["to-system", "to-user"]
)
def test_from_one_scope_to_the_other(host: Host, before: str, after: str) -> None:
    host.init(agent_id="planner", scope=before)
    mail = host.at(LAYOUT.agent_dir("planner") / "mailbox.db")
    mail.write_text("messages")
    what = host.prepare(scope=after)
    order = _order(what.plan)
    stops = order.index(f"delete unit:{before}:{NAME}")
    assert stops < order.index(f"create unit:{after}:{NAME}"), "never two at once"
    assert {handler.id for handler in what.plan.handlers} == {"user:daemon-reload", "system:daemon-reload"}
    outcome = carry_out(what)
    assert not outcome.failed, outcome.error
    units = _units(host)
    assert units[f"{after}:{NAME}"]
    assert not units.get(f"{before}:{NAME}", False)
    assert (host.at(OF_USER).exists(), host.at(OF_SYSTEM).exists()) == (after == "user", after == "system")
    assert host.at(LINGER).exists() == (after == "user")
    assert mail.read_text() == "messages"
    assert not host.prepare().plan.changed


def test_linger_goes_when_the_users_systemd_has_nothing_to_do_any_more(host: Host) -> None:
    host.init(agent_id="planner")
    what = host.prepare(scope="system")
    steps = [step.id for step in what.plan.steps]
    reads_again, goes = steps.index("user:daemon-reload"), steps.index("linger:pi")
    assert reads_again < goes, "without linger nobody might be there to do it"
    carry_out(what)
    assert not host.at(LINGER).exists()


def test_linger_that_somebody_else_switched_on_stays(host: Host) -> None:
    host.write(LINGER, "")
    host.init(agent_id="planner")
    host.init(scope="system")
    assert host.at(LINGER).exists()


def test_there_and_back_leaves_nothing(host: Host) -> None:
    host.init(agent_id="planner")
    before = tree(host.root, without=UNTOUCHED)
    host.init(scope="system")
    host.init(scope="user")
    assert tree(host.root, without=UNTOUCHED) == before


_SWITCH = """
import sys
from pathlib import Path
from swarmbus.provision.carry_out import carry_out
from swarmbus.provision.prepare import prepare
from tests.provision.installing import LAYOUT, inspector
from tests.provision.machine import Machine
from tests.provision.sandbox import Sandbox
kill_at = int(sys.argv[2]) or None
system = Sandbox(Path(sys.argv[1]), Machine(), kill_at=kill_at)
outcome = carry_out(prepare(system, {"scope": "system"}, layout=LAYOUT, inspector=inspector()))
print(outcome.error)
"""


def test_killed_while_it_goes_over_there_are_never_two_and_rollback_takes_it_back(
    host: Host, tmp_path: Path
) -> None:
    host.init(agent_id="planner")
    before = tree(host.root, without=UNTOUCHED)
    number = 0
    while True:
        number += 1
        copy = tmp_path / "copy"
        shutil.copytree(host.root, copy)
        _switch(copy, number)
        assert len(_running(copy)) < 2, number
        outcome = roll_back(Sandbox(copy, Machine()), layout=LAYOUT)
        if outcome is None:
            break  # it had ended
        assert not outcome.failed, (number, outcome.notes)
        assert _running(copy) == [f"user:{NAME}"], number
        assert tree(copy, without=UNTOUCHED) == before, number
        shutil.rmtree(copy)
    assert number > 15


def _running(root: Path) -> list[str]:
    units = json.loads((root / "machine.json").read_text())["units"]
    return [name for name, unit in units.items() if NAME in name and unit["active"]]


def _switch(root: Path, kill_at: int) -> int:
    ran = subprocess.run(
        [sys.executable, "-c", _SWITCH, str(root), str(kill_at)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == -9 or ran.stdout == "None\n", (ran.stdout, ran.stderr)
    return ran.returncode


def test_a_broker_of_the_users_own_makes_room_for_the_systems() -> None:
    spec = {
        "schema": "swarmbus.spec/1",
        "agents": [{"id": "planner"}],
        "chosen": {"broker": "private", "program": "unpacked", "supervisor": "systemd-user"},
    }
    kept = {str(LAYOUT.provision / "spec.json"): [json.dumps(spec)]}
    case: dict[str, Any] = {"files": kept, "answers": {"1883": "mqtt"}, "flags": {}}
    assert prepared(case)[1].spec.chosen["broker"] == "private"
    _, what = prepared({**case, "flags": {"scope": "system"}})
    assert (what.spec.chosen["broker"], what.spec.chosen["program"]) == ("system", "none")


def test_units_of_the_system_without_systemd_are_refused() -> None:
    case: dict[str, Any] = {"systemd": False, "user_manager": False, "flags": {"scope": "system"}}
    with pytest.raises(UsageError, match="--scope system needs systemd"):
        prepared(case)


def test_without_root_the_script_for_an_administrator_has_the_units(host: Host) -> None:
    class NoRoot(Sandbox):
        def root_access(self) -> RootAccess:
            return "none"

    system = NoRoot(host.root, host.machine)
    what = prepare(system, {"agent_id": "planner", "scope": "system"}, layout=LAYOUT, inspector=inspector())
    with pytest.raises(RootStepsNeeded) as caught:
        carry_out(what)
    assert f"/usr/bin/systemctl enable {NAME}" in caught.value.script
    assert "User=pi" in caught.value.script


# drop-ins


@pytest.mark.parametrize("scope", ["user", "system"])
def test_drop_ins_of_the_user_are_never_touched(host: Host, scope: str) -> None:
    unit = OF_USER if scope == "user" else OF_SYSTEM
    host.init(agent_id="planner", scope=scope)
    drop_in = unit.with_name(f"{NAME}.d") / "mine.conf"
    host.write(drop_in, "[Service]\nNice=5\n")
    assert not host.prepare().plan.changed
    host.init(scope="system" if scope == "user" else "user")
    assert host.read(drop_in) == "[Service]\nNice=5\n"


@pytest.mark.parametrize(("folder", "root"), [(LAYOUT.units, False), (SYSTEM_UNITS, True)])
def test_a_drop_in_of_ours_brings_its_folder_and_leaves_that_of_the_user(
    host: Host, folder: Path, root: bool
) -> None:
    path = folder / f"{NAME}.d" / "50-ours.conf"
    drop_in = File(group="agent:planner", path=path, content="[Service]\nNice=1\n", root=root)

    def with_ours(wish: Wish) -> Wish:
        return Wish((*wish.resources, drop_in), wish.notes)

    def run(**more: Any) -> None:
        flags = {"agent_id": "planner"}
        what = prepare(host.system(), flags, layout=LAYOUT, inspector=inspector(), **more)
        assert not carry_out(what).failed

    run(amend=with_ours)
    assert host.read(path) == "[Service]\nNice=1\n"
    run()
    assert not host.at(path.parent).exists(), "it is not wanted any more"
    run(amend=with_ours)
    host.write(path.with_name("mine.conf"), "[Service]\nNice=2\n")
    run()
    assert (host.at(path).exists(), host.at(path.with_name("mine.conf")).exists()) == (False, True)


# whose unit it is


def _with_unit(path: Path, text: str = "") -> FakeSystem:
    system = FakeSystem()
    system.put(str(path), text)
    return system


def test_a_unit_is_found_where_it_is() -> None:
    assert find_unit(FakeSystem(), LAYOUT, "planner") is None
    assert find_unit(_with_unit(OF_USER), LAYOUT, "planner") == AgentUnit(NAME, "user")
    of_system = _with_unit(OF_SYSTEM, "[Service]\nUser=pi\n")
    assert find_unit(of_system, LAYOUT, "planner") == AgentUnit(NAME, "system")
    assert agents_with_units(of_system, LAYOUT) == ["planner"]


def test_a_unit_of_the_system_that_runs_as_somebody_else_is_not_ours() -> None:
    system = _with_unit(OF_SYSTEM, "[Service]\nUser=pia\n")
    assert find_unit(system, LAYOUT, "planner") is None
    assert agents_with_units(system, LAYOUT) == []


def test_neither_the_broker_nor_a_template_is_an_agent() -> None:
    system = _with_unit(LAYOUT.units / "swarmbus-broker.service")
    system.put(str(LAYOUT.units / "swarmbus-failed@.service"))
    assert agents_with_units(system, LAYOUT) == []


def test_the_commands_for_a_human() -> None:
    assert AgentUnit(NAME).command("restart") == f"systemctl --user restart {NAME}"
    assert AgentUnit(NAME, "system").command("restart") == f"sudo systemctl restart {NAME}"
    assert AgentUnit(NAME, "system").journal == f"sudo journalctl --unit {NAME} -n 20"


def test_a_unit_of_the_system_is_not_restarted_without_root() -> None:
    system = FakeSystem(root="none")
    with pytest.raises(RootStepsNeeded, match="root") as caught:
        AgentUnit(NAME, "system").restart(system)
    assert f"/usr/bin/systemctl restart --no-block {NAME}" in caught.value.script
    assert system.ran == []


def test_an_id_that_another_user_has_in_the_system_is_refused(host: Host) -> None:
    host.write(OF_SYSTEM, "[Service]\nUser=pia\n")
    with pytest.raises(UsageError, match="another user of this host has an agent 'planner'"):
        host.prepare(agent_id="planner", scope="system")
    assert host.prepare(agent_id="planner", scope="user").plan.changed
    assert host.prepare(agent_id="coder", scope="system").plan.changed
