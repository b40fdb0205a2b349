"""What stops a run before it has changed anything, and what it says beforehand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from swarmbus.errors import BrokerRefused, BrokerUnreachable, ExitStatus, StorageError
from swarmbus.provision.bus import Visit
from swarmbus.provision.carry_out import carry_out
from swarmbus.provision.journal import Journal
from swarmbus.provision.local_system import LocalSystem
from swarmbus.provision.outcome import Prepared
from swarmbus.provision.precautions import UNFINISHED, check_broker
from swarmbus.provision.prepare import prepare
from swarmbus.provision.resources.unit import Unit, await_unit
from swarmbus.provision.system import Result
from tests.provision.doctor_facts import FakeBus
from tests.provision.fake_system import FakeSystem
from tests.provision.installing import LAYOUT, inspector
from tests.provision.machine import Machine, bare_debian
from tests.provision.sandbox import Sandbox
from tests.provision.test_plans import prepared

REMOTE: dict[str, Any] = {"flags": {"agent_id": "planner", "broker": "203.0.113.9"}}


def _with(case: dict[str, Any]) -> Prepared:
    return prepared(case)[1]


def test_a_broker_elsewhere_that_cannot_be_reached_is_told_before_anything_is_done() -> None:
    bus = FakeBus(seen=Visit(error=BrokerUnreachable("cannot reach the broker at 203.0.113.9:1883")))
    with pytest.raises(BrokerUnreachable, match="cannot reach") as caught:
        check_broker(_with(REMOTE), bus)
    assert caught.value.exit_status is ExitStatus.CANNOT_RUN
    assert "nothing was changed" in (caught.value.hint or "")


def test_a_broker_elsewhere_that_refuses_us_is_told_with_where_credentials_belong() -> None:
    bus = FakeBus(seen=Visit(error=BrokerRefused("refused our user name", reason_code=0x86)))
    with pytest.raises(BrokerRefused) as caught:
        check_broker(_with(REMOTE), bus)
    assert f"password_file in {LAYOUT.config}" in (caught.value.hint or "")


def test_a_broker_elsewhere_without_an_address_is_told() -> None:
    name = "a" * 64 + ".example"  # a label has at most 63 bytes (RFC 1035, 2.3.4)
    with pytest.raises(BrokerUnreachable, match="no address for the broker"):
        check_broker(_with({"flags": {"agent_id": "planner", "broker": name}}), FakeBus())


def test_a_broker_that_we_set_up_need_not_be_there_yet() -> None:
    bus = FakeBus(seen=Visit(error=BrokerUnreachable("not yet")))
    check_broker(_with({"flags": {"agent_id": "planner"}}), bus)
    check_broker(_with(REMOTE), FakeBus())


@pytest.mark.parametrize("what", ["inbox", "outbox"])
def test_a_file_that_may_not_be_written_is_told_before_anything_is_done(what: str) -> None:
    system = FakeSystem(programs=Machine(), installed={"apt-get": "/usr/bin/apt-get"})
    bare_debian(system)
    system.unwritable = {Path("/root")}
    system.writes.clear()
    with pytest.raises(StorageError, match=f"the {what} of planner cannot be written: /root/x.md") as caught:
        flags = {"agent_id": "planner", what: "/root/x.md"}
        prepare(system, flags, layout=LAYOUT, inspector=inspector())
    assert f"--{what}" in (caught.value.hint or "")
    assert system.writes == []


_MAY = "from swarmbus.provision.local_system import LocalSystem as S; from pathlib import Path; import sys; "


@pytest.mark.skipif(LocalSystem().user.uid != 0, reason="becoming another user needs root")
def test_what_may_be_written_is_asked_of_the_kernel(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir(mode=0o777)
    own.chmod(0o777)
    other.mkdir(mode=0o700)
    (own / "barred").write_text("")
    (own / "barred").chmod(0o600)
    asked = [own / "new/er.md", own / "barred", own, other / "x.md", own / "barred/x.md"]
    code = (
        f"{_MAY}import os; os.setgid(65534); os.setuid(65534); may = S.may_write;"
        " print([may(None, Path(one)) for one in sys.argv[1:]])"
    )
    for parent in tmp_path.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(0o755)  # of this test run alone: pytest's own folders
    ran = subprocess.run(
        [sys.executable, "-c", code, *map(str, asked)], capture_output=True, text=True, check=True
    )
    assert json.loads(ran.stdout.lower()) == [True, False, False, False, False]


def test_whoever_is_moved_along_to_another_broker_is_named(tmp_path: Path) -> None:
    bare_debian(Sandbox(tmp_path, Machine()))
    system = Sandbox(tmp_path, Machine())
    carry_out(prepare(system, {"agent_id": ["planner", "coder"]}, layout=LAYOUT, inspector=inspector()))
    flags = {"agent_id": "remote", "broker": "203.0.113.9"}
    (note,) = [
        one
        for one in prepare(system, flags, layout=LAYOUT, inspector=inspector()).plan.notes
        if "one broker" in one
    ]
    assert "planner, coder will use 203.0.113.9, port 1883, too" in note
    same = prepare(system, {"agent_id": "remote"}, layout=LAYOUT, inspector=inspector())
    assert not any("one broker" in one for one in same.plan.notes)


def test_a_run_that_was_interrupted_is_told() -> None:
    system, what = prepared({"flags": {"agent_id": "planner"}})
    assert (what.plan.unfinished, UNFINISHED in what.plan.notes) == (False, False)
    for folder in (*reversed(LAYOUT.provision.parents), LAYOUT.provision):
        system.make_dir(folder)
    Journal(system, LAYOUT.provision).begin(what.spec.as_json(), None)
    again = prepare(system, {}, layout=LAYOUT, inspector=inspector())
    assert (again.plan.unfinished, UNFINISHED in again.plan.as_json()["notes"]) == (True, True)


def _systemd(*states: str) -> FakeSystem:
    """A user's systemd that says these states of every unit, one after the other, the last for ever."""
    left = list(states)

    def answer(system: FakeSystem, argv: tuple[str, ...], root: bool) -> Result:
        if "show" not in argv:
            return Result(argv, 0)
        active, _, sub = (left.pop(0) if len(left) > 1 else left[0]).partition("/")
        shown = f"Id=x.service\nLoadState=loaded\nActiveState={active}\nSubState={sub}\nUnitFileState=enabled"
        return Result(argv, 0, shown)

    return FakeSystem(programs=answer)


def test_a_unit_on_its_way_up_is_not_waited_for_for_long() -> None:
    system = _systemd("activating/start")
    await_unit(system, "user", "x.service")
    assert 5 < system.clock < 8


def test_the_one_before_it_may_drain_first() -> None:
    system = _systemd(*["deactivating/stop-sigterm"] * 150, "active/running")
    await_unit(system, "user", "x.service")
    assert system.clock > 14
    assert system.ran[-1][2] == "show"


def test_a_unit_that_waits_for_its_next_restart_is_stopped_before_its_file_goes() -> None:
    system = _systemd("activating/auto-restart")
    before = {"enabled": False, "active": False, "masked": False}
    Unit(group="agent:x", name="x.service").undo(system, before, None)
    did = [argv[2] for argv in system.ran if argv[2] != "show"]
    assert did == ["stop", "disable", "reset-failed"]


_ENDED = """
import os, signal, sys
from swarmbus.cli.installing import taken_back_on_signals
number = getattr(signal, sys.argv[1])
with taken_back_on_signals():
    try:
        os.kill(os.getpid(), number)
    except KeyboardInterrupt:
        os.kill(os.getpid(), number)
        print("taken back", flush=True)
        raise
print("went on")
"""


@pytest.mark.parametrize(("name", "number"), [("SIGTERM", 15), ("SIGHUP", 1)])
def test_a_signal_takes_back_and_then_ends_us(name: str, number: int) -> None:
    ran = subprocess.run([sys.executable, "-c", _ENDED, name], capture_output=True, text=True, timeout=20)
    assert (ran.returncode, ran.stdout) == (-number, "taken back\n"), ran.stderr
