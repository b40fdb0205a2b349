"""What follows from how things are, how we left them, and how they should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmbus.errors import StorageError
from swarmbus.provision.apply import apply_plan
from swarmbus.provision.handlers import USER_RELOAD
from swarmbus.provision.manifest import Manifest
from swarmbus.provision.plan import Plan, Wish
from swarmbus.provision.planning import make_plan
from swarmbus.provision.resources.base import Resource, Verb
from swarmbus.provision.resources.file import File
from swarmbus.provision.resources.unit import Unit
from swarmbus.provision.run import Run, Silent
from swarmbus.provision.system import Result
from tests.provision.fake_system import FakeSystem
from tests.provision.installing import LAYOUT
from tests.provision.machine import Machine, bare_debian

FOLDER = Path("/home/pi/.config/systemd/user")
UNIT = "swarmbus-planner.service"


def file(name: str = UNIT, text: str = "[Service]\n", group: str = "agent:planner") -> File:
    notify = (USER_RELOAD, f"user:restart:{name}")
    return File(group=group, path=FOLDER / name, content=text, notify=notify)


def unit(group: str = "agent:planner") -> Unit:
    return Unit(group=group, name=UNIT, settle=(USER_RELOAD,))


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def system(machine: Machine) -> FakeSystem:
    fake = FakeSystem(programs=machine)
    bare_debian(fake)
    for folder in (FOLDER, LAYOUT.provision):
        for path in (*reversed(folder.parents), folder):
            fake.make_dir(path)
    return fake


def plan(system: FakeSystem, *resources: Resource, take: frozenset[str] = frozenset()) -> Plan:
    manifest = Manifest.load(system, LAYOUT.provision)
    return make_plan(Wish(resources), system, manifest, LAYOUT, take=take)


def apply(system: FakeSystem, *resources: Resource) -> list[str]:
    """Carry the wish out; the handlers that ran."""
    run = Run.open(system, LAYOUT, Silent())
    apply_plan(run, plan(system, *resources))
    run.journal.finish()
    return run.handlers


def verbs(found: Plan) -> list[str]:
    return [action.verb for action in found.actions]


def test_create_then_keep_then_update(system: FakeSystem) -> None:
    assert verbs(plan(system, file())) == ["create"]
    apply(system, file())
    assert verbs(plan(system, file())) == ["keep"]
    assert verbs(plan(system, file(text="[Unit]\n"))) == ["update"]


def test_what_is_there_already_as_it_should_be_is_adopted_and_never_deleted(system: FakeSystem) -> None:
    system.put(str(FOLDER / UNIT), "[Service]\n")
    assert verbs(plan(system, file())) == ["adopt"]
    apply(system, file())
    other = file("other.service")
    assert verbs(plan(system, other)) == ["create"]


def test_what_a_group_does_not_want_any_more_is_deleted(system: FakeSystem) -> None:
    apply(system, file(), file("old.service"))
    found = plan(system, file())
    assert [(action.verb, action.resource.id) for action in found.actions] == [
        (Verb.KEEP, f"file:{FOLDER}/{UNIT}"),
        (Verb.DELETE, f"file:{FOLDER}/old.service"),
    ]
    apply(system, file())
    assert system.read(FOLDER / "old.service") is None
    assert not plan(system, file()).changed


def test_what_was_edited_is_not_deleted(system: FakeSystem) -> None:
    apply(system, file(), file("old.service"))
    system.put(str(FOLDER / "old.service"), "mine now\n")
    found = plan(system, file())
    assert verbs(found) == ["keep", "keep"]
    assert found.notes == (
        f"file:{FOLDER}/old.service is not wanted any more, but was changed since; it stays",
    )


def test_a_group_that_is_not_in_the_wish_is_left_alone(system: FakeSystem) -> None:
    apply(system, file(), file("coder.service", group="agent:coder"))
    assert verbs(plan(system, file())) == ["keep"]


def test_deleting_brings_back_what_was_there_before_us(system: FakeSystem) -> None:
    system.put(str(FOLDER / "old.service"), "theirs\n", mode=0o600)
    run = Run.open(system, LAYOUT, Silent())
    wish = Wish((file(), file("old.service")))
    apply_plan(run, make_plan(wish, system, run.manifest, LAYOUT, take={str(FOLDER / "old.service")}))
    run.journal.finish()
    assert system.read(FOLDER / "old.service") == b"[Service]\n"
    apply(system, file())
    assert system.read(FOLDER / "old.service") == b"theirs\n"
    assert system.files[FOLDER / "old.service"].mode == 0o600


def test_units_are_read_again_before_they_start_and_a_start_spares_the_restart(
    system: FakeSystem, machine: Machine
) -> None:
    assert [handler.id for handler in plan(system, file(), unit()).handlers] == [USER_RELOAD]
    assert apply(system, file(), unit()) == [USER_RELOAD]
    assert machine.log == ["user:daemon-reload", "user:reset-failed", f"user:restart:{UNIT}"]


def test_a_changed_unit_that_runs_is_restarted_once(system: FakeSystem, machine: Machine) -> None:
    apply(system, file(), unit())
    machine.log.clear()
    ran = apply(system, file(text="[Unit]\n"), unit())
    assert ran == [USER_RELOAD, f"user:restart:{UNIT}"]
    assert machine.log == ["user:daemon-reload", "user:reset-failed", f"user:restart:{UNIT}"]


def test_a_masked_unit_is_a_conflict() -> None:
    shown = f"Id={UNIT}\nLoadState=masked\nActiveState=inactive\nSubState=dead\nUnitFileState=masked\n"
    system = FakeSystem(programs=lambda _, argv, root: Result(argv, 0, stdout=shown))
    found = plan(system, unit())
    assert verbs(found) == ["conflict"]
    assert f"systemctl --user unmask {UNIT}" in found.conflicts[0].comparison.reason


def test_the_json(system: FakeSystem) -> None:
    document = plan(system, file()).as_json()
    assert document["schema"] == "swarmbus.plan/1"
    assert (document["changed"], document["failed"]) == (True, False)
    (action,) = document["actions"]
    assert {name: action[name] for name in ("id", "verb", "scope", "reason")} == {
        "id": f"file:{FOLDER}/{UNIT}",
        "verb": "create",
        "scope": "user",
        "reason": "is missing",
    }
    assert action["diff"].startswith("--- /dev/null\n")
    assert document["handlers"] == [USER_RELOAD, f"user:restart:{UNIT}"]


def test_a_secret_is_in_no_diff(system: FakeSystem) -> None:
    secret = File(group="broker", path=FOLDER / "passwd", content="pi:$7$hash\n", mode=0o600, secret=True)
    assert "$7$" not in (plan(system, secret).actions[0].comparison.diff or "")
    assert "$7$" not in repr(secret)


def test_root_writes_only_where_it_is_meant_to(system: FakeSystem) -> None:
    """The journal is the user's: what it says must not lead root anywhere."""
    for path in ("/etc/shadow", "/etc/mosquitto/conf.d/../../shadow"):
        record = {"path": path, "root": True}
        resource = File.from_record("broker", record)
        with pytest.raises(StorageError, match="in no folder in which swarmbus writes as root"):
            resource.undo_commands(system, {"present": False}, None)
        with pytest.raises(StorageError, match="in no folder in which swarmbus writes as root"):
            resource.commands(system)
