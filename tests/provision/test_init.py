"""Whole runs on a sandbox: what is done, what is left alone, and what is taken back."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from swarmbus.errors import (
    CannotRun,
    Conflict,
    ExitStatus,
    ListenerRunning,
    NeedsRoot,
    StorageError,
    UsageError,
)
from swarmbus.provision.carry_out import carry_out
from swarmbus.provision.outcome import Gate, GateReport, Outcome, Prepared
from swarmbus.provision.prepare import prepare
from swarmbus.provision.request import request_from_document
from swarmbus.provision.resources.base import Verb
from swarmbus.provision.root import RootStep, RootStepsNeeded
from swarmbus.provision.run import Event
from swarmbus.provision.system import RootAccess, User
from tests.provision.fake_system import FakeSystem
from tests.provision.installing import LAYOUT, Remembering, inspector
from tests.provision.machine import Machine, bare_debian
from tests.provision.sandbox import Sandbox, tree

CONFIG = LAYOUT.config
UNIT = LAYOUT.units / "swarmbus-planner.service"
CONF_D = Path("/etc/mosquitto/conf.d/50-swarmbus.conf")
CHECKOUT = Path(__file__).resolve().parents[2]


class Host:
    """One sandbox and its machine, over several runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.machine = Machine()
        root.mkdir()
        bare_debian(self.system())

    def system(self) -> Sandbox:
        return Sandbox(self.root, self.machine)

    def prepare(self, **flags: Any) -> Prepared:
        return prepare(self.system(), flags, layout=LAYOUT, inspector=inspector())

    def init(self, gate: Gate | None = None, **flags: Any) -> Outcome:
        return carry_out(self.prepare(**flags), gate=gate)

    def read(self, path: Path) -> str:
        return self.at(path).read_text()

    def write(self, path: Path, text: str) -> None:
        self.at(path).parent.mkdir(parents=True, exist_ok=True)
        self.at(path).write_text(text)

    def at(self, path: Path) -> Path:
        return self.root / path.relative_to("/")

    def unit(self, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.machine.state(self.system())["units"][name]
        return found

    def install_mosquitto(self) -> None:
        system = self.system()
        system.run_program(("apt-get", "update"), root=True)
        assert system.run_program(("apt-get", "install", "mosquitto"), root=True).ok
        self.machine.log.clear()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "root")


def _verbs(what: Prepared) -> dict[str, Verb]:
    return {action.resource.id: action.verb for action in what.plan.actions}


def _no(_: Prepared) -> GateReport:
    return GateReport(ok=False, summary="no answer")


def test_everything_is_there_after_one_run(host: Host) -> None:
    outcome = host.init(agent_id="planner", gate=lambda _: GateReport(ok=True, summary="41 ms"))
    assert (outcome.exit_status, outcome.changed, outcome.rolled_back) == (ExitStatus.DONE, True, False)
    assert host.unit("user:swarmbus-planner.service")["active"]
    assert host.unit("system:mosquitto.service")["active"]
    assert host.unit("system:mosquitto.service")["read"] == host.read(CONF_D)
    assert host.at(LAYOUT.state).stat().st_mode & 0o777 == 0o700
    assert outcome.as_json()["gate"] == {"ok": True, "summary": "41 ms"}


def test_agents_that_a_document_does_not_name_go(host: Host) -> None:
    host.init(agent_id=["coder", "planner"], invoke="cat {agent_id}")
    host.write(LAYOUT.agent_dir("coder") / "mailbox.db", "mail")
    host.machine.log.clear()
    request = request_from_document({"agents": [{"id": "planner"}]})
    what = prepare(host.system(), request, layout=LAYOUT, inspector=inspector())
    assert any("coder goes" in note for note in what.plan.notes)
    assert carry_out(what).exit_status is ExitStatus.DONE
    assert not host.at(LAYOUT.units / "swarmbus-coder.service").exists()
    assert "user:swarmbus-coder.service" not in host.machine.state(host.system())["units"]
    assert host.unit("user:swarmbus-planner.service")["active"]
    assert not any("planner" in line for line in host.machine.log), "who stays is not touched"
    config = host.read(CONFIG)
    assert "coder" not in config
    assert 'agent_id = "planner"' in config
    assert host.read(LAYOUT.agent_dir("coder") / "mailbox.db") == "mail"
    again = prepare(host.system(), request, layout=LAYOUT, inspector=inspector())
    assert not again.plan.changed
    assert not prepare(
        host.system(), request_from_document({"port": 1883}), layout=LAYOUT, inspector=inspector()
    ).plan.changed, "a document that names no agents takes none away"


def test_a_second_run_changes_nothing_and_restarts_nothing(host: Host) -> None:
    host.init(agent_id="planner")
    before = tree(host.root)
    host.machine.log.clear()
    again = host.prepare()
    assert {action.verb for action in again.plan.actions} == {Verb.KEEP}
    outcome = carry_out(again)
    assert (outcome.changed, outcome.handlers, outcome.exit_status) == (False, (), ExitStatus.DONE)
    assert host.machine.log == []
    assert tree(host.root) == before


def test_looking_at_a_finished_host_starts_two_programs(host: Host) -> None:
    host.init(agent_id=["planner", "coder", "reviewer"])
    ran: list[tuple[str, ...]] = []

    class Counting(Sandbox):
        def run(self, argv: Any, **options: Any) -> Any:
            ran.append(tuple(argv))
            return super().run(argv, **options)

    what = prepare(Counting(host.root, host.machine), {}, layout=LAYOUT, inspector=inspector())
    assert not what.plan.changed
    # one for the facts, then one a manager for all units together
    assert len(ran) == 3, ran


def test_the_steps_are_told_in_order(host: Host) -> None:
    told = Remembering()
    carry_out(host.prepare(agent_id="planner"), observer=told)
    done = told.stages("done")
    assert done == told.stages("begun") == told.stages("changed")
    numbers = [event.number for event in told.events if event.stage == "done"]
    assert numbers == list(range(1, len(done) + 1))
    assert {event.total for event in told.events} == {len(done)}
    assert done[-2:] == ["unit:user:swarmbus-planner.service", "unit:user:swarmbus.health.timer"]


def test_a_new_release_alone_does_not_touch_a_file(host: Host) -> None:
    host.init(agent_id="planner")
    host.write(UNIT, host.read(UNIT).replace("written by swarmbus ", "written by swarmbus 0.9-older-", 1))
    assert not host.prepare().plan.changed


def test_a_listener_that_runs_old_code_is_restarted_and_no_other(host: Host) -> None:
    host.init(agent_id=["planner", "coder"])
    after_an_upgrade = inspector(old_code=("coder",))
    what = prepare(host.system(), {}, layout=LAYOUT, inspector=after_an_upgrade)
    assert not what.plan.changes
    assert carry_out(what).handlers == ("user:restart:swarmbus-coder.service",)


def test_fewer_options_do_not_drop_earlier_choices(host: Host) -> None:
    host.init(agent_id="planner", invoke="cat -n", port=1885)
    host.init(agent_id="coder")
    what = host.prepare()
    assert not what.plan.changed
    assert [agent.id for agent in what.spec.agents] == ["planner", "coder"]
    assert (what.spec.port, what.spec.agents[0].invoke) == (1885, "/usr/bin/cat -n")


def test_what_the_user_writes_into_config_toml_counts(host: Host) -> None:
    host.init(agent_id="planner", invoke="cat {agent_id}")
    text = (
        host.read(CONFIG).replace('invoke = "/usr/bin/cat"\n', "# no wake\n").replace("planner-inbox", "box")
    )
    host.write(CONFIG, text)
    assert not host.prepare().plan.changed
    host.init(inbox="~/elsewhere.md")
    assert host.read(CONFIG) == text.replace("~/sync/box.md", "~/elsewhere.md")


def test_only_the_agent_whose_setting_changed_is_restarted(host: Host) -> None:
    host.init(agent_id=["planner", "coder"])
    host.machine.log.clear()
    outcome = host.init(agent_id="coder", invoke="cat {agent_id}")
    assert outcome.handlers == ("user:restart:swarmbus-coder.service",)
    assert host.machine.log == ["user:reset-failed", "user:restart:swarmbus-coder.service"]


def test_an_edited_unit_is_kept(host: Host) -> None:
    host.init(agent_id="planner")
    host.write(UNIT, host.read(UNIT) + "# mine\n")
    what = host.prepare()
    assert _verbs(what)[f"file:{UNIT}"] is Verb.KEEP
    assert not what.plan.changed


def test_when_both_sides_moved_ours_is_laid_beside(host: Host) -> None:
    host.init(agent_id="planner")
    edited = host.read(UNIT).replace("WatchdogSec=60", "WatchdogSec=600")
    host.write(UNIT, edited)
    system = host.system()
    newer = prepare(system, {}, layout=LAYOUT, inspector=inspector(python="/opt/new/bin/python"))
    assert [action.resource.id for action in newer.plan.conflicts] == [f"file:{UNIT}"]
    outcome = carry_out(newer)
    beside = UNIT.with_name("swarmbus-planner.service.swarmbus-new")
    assert outcome.exit_status is ExitStatus.CONFLICT
    assert host.read(UNIT) == edited
    assert "ExecStart=/opt/new/bin/python " in host.read(beside)

    taken = prepare(
        system, {"take": [str(UNIT)]}, layout=LAYOUT, inspector=inspector(python="/opt/new/bin/python")
    )
    outcome = carry_out(taken)
    assert outcome.exit_status is ExitStatus.DONE
    assert "ExecStart=/opt/new/bin/python " in host.read(UNIT)
    assert not host.at(beside).exists()
    assert outcome.handlers == ("user:daemon-reload", "user:restart:swarmbus-planner.service")


def test_a_file_that_was_there_before_us_is_not_overwritten(host: Host) -> None:
    host.write(UNIT, "[Service]\nExecStart=/home/pi/own\n")
    what = host.prepare(agent_id="planner")
    assert _verbs(what)[f"file:{UNIT}"] is Verb.CONFLICT
    carry_out(what)
    assert host.read(UNIT) == "[Service]\nExecStart=/home/pi/own\n"


@pytest.mark.parametrize(("mode", "verb"), [(0o666, Verb.UPDATE), (0o600, Verb.KEEP)])
def test_more_rights_than_ours_are_taken_away_and_less_are_kept(host: Host, mode: int, verb: Verb) -> None:
    host.init(agent_id="planner")
    host.at(UNIT).chmod(mode)
    assert _verbs(host.prepare())[f"file:{UNIT}"] is verb
    host.init()
    assert host.at(UNIT).stat().st_mode & 0o777 == (0o644 if verb is Verb.UPDATE else mode)


def test_a_state_folder_open_to_others_is_closed(host: Host) -> None:
    host.init(agent_id="planner")
    host.at(LAYOUT.state).chmod(0o755)
    host.init()
    assert host.at(LAYOUT.state).stat().st_mode & 0o777 == 0o700


def test_an_unparseable_config_stops_the_run_before_anything_is_done(host: Host) -> None:
    host.write(CONFIG, 'broker = "localhost\n')
    before = tree(host.root)
    what = host.prepare(agent_id="planner")
    assert what.plan.blocked
    outcome = carry_out(what)
    assert outcome.exit_status is ExitStatus.CONFLICT
    assert "line 1" in what.plan.conflicts[0].comparison.reason
    assert tree(host.root) == before


def test_a_config_kept_elsewhere_is_edited_there(host: Host) -> None:
    dotfile = Path("/home/pi/dotfiles/swarmbus.toml")
    host.write(dotfile, "# mine\n")
    host.at(CONFIG).parent.mkdir(parents=True)
    host.at(CONFIG).symlink_to("../../dotfiles/swarmbus.toml")
    host.init(agent_id="planner")
    assert host.at(CONFIG).is_symlink()
    assert host.read(dotfile).startswith('# mine\nagent_id = "planner"\n')


def test_a_folder_kept_elsewhere_is_used_there(host: Host) -> None:
    elsewhere = host.at(Path("/home/pi/disk"))
    elsewhere.mkdir()
    host.at(Path("/home/pi/sync")).symlink_to("disk")
    what = host.prepare(agent_id="planner")
    assert _verbs(what)["directory:/home/pi/sync"] is Verb.ADOPT
    elsewhere.rmdir()
    assert _verbs(host.prepare(agent_id="planner"))["directory:/home/pi/sync"] is Verb.CONFLICT


def test_a_link_in_place_of_a_unit_is_a_conflict(host: Host) -> None:
    host.at(UNIT).parent.mkdir(parents=True)
    host.at(UNIT).symlink_to("/dev/null")
    assert _verbs(host.prepare(agent_id="planner"))[f"file:{UNIT}"] is Verb.CONFLICT


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder to another user needs root")
def test_nothing_is_written_through_a_folder_of_another_user(host: Host) -> None:
    other = host.root / "home/other"
    other.mkdir()
    os.chown(other, 12345, 12345)
    (host.root / "home/pi/.config").symlink_to(other)
    outcome = host.init(agent_id="planner")
    assert isinstance(outcome.error, StorageError)
    assert "belongs to user 12345" in outcome.error.message
    assert list(other.iterdir()) == []


def test_when_the_canary_dies_everything_is_taken_back(host: Host) -> None:
    before = tree(host.root, without=[".provision"])
    outcome = host.init(gate=_no, agent_id="planner")
    assert (outcome.exit_status, outcome.rolled_back) == (ExitStatus.NO, True)
    after = tree(host.root, without=[".provision", "machine.json", "apt/lists", "run/user", "dpkg/status"])
    left = {name for name in after if name not in before}
    assert left == {"home/pi/.local", "home/pi/.local/state", "home/pi/.local/state/swarmbus"}
    assert host.machine.state(host.system())["packages"] == []


def test_the_broker_that_was_running_runs_again_without_our_file(host: Host) -> None:
    host.install_mosquitto()
    outcome = host.init(gate=_no, agent_id="planner")
    assert outcome.rolled_back
    assert not host.at(CONF_D).exists()
    assert host.unit("system:mosquitto.service")["active"]
    assert host.unit("system:mosquitto.service")["read"] == ""
    assert [line for line in host.machine.log if "mosquitto" in line] == [
        "system:restart:mosquitto.service"
    ] * 2


def test_a_listener_that_does_not_start_takes_everything_back(host: Host) -> None:
    host.machine.broken_units = frozenset({"swarmbus-planner.service"})
    outcome = host.init(agent_id="planner")
    assert outcome.rolled_back
    assert outcome.error is not None
    assert "swarmbus-planner.service does not stay up" in outcome.error.message
    assert not host.at(UNIT).exists()


def test_an_edit_made_meanwhile_survives_the_rollback(host: Host) -> None:
    def edits(_: Prepared) -> GateReport:
        host.write(UNIT, "# edited while the canary flew\n")
        return _no(_)

    outcome = host.init(gate=edits, agent_id="planner")
    assert host.read(UNIT) == "# edited while the canary flew\n"
    assert any("was changed since" in note for note in outcome.notes)


def test_an_interrupt_from_the_keyboard_takes_everything_back(host: Host) -> None:
    class Impatient(Remembering):
        def tell(self, event: Event) -> None:
            if (event.step, event.stage) == ("unit:system:mosquitto.service", "changed"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(host.prepare(agent_id="planner"), observer=Impatient())
    assert host.machine.state(host.system())["packages"] == []
    assert not host.at(CONFIG).exists()
    assert not host.prepare().resumed


def test_sudo_with_the_home_of_its_caller_is_refused() -> None:
    system = FakeSystem(user=User("root", 0, 0, Path("/home/pi")), environ={"SUDO_USER": "pi"})
    system.put("/home/pi/.profile")
    system.files[Path("/home/pi")].uid = 1000
    with pytest.raises(UsageError, match="called through sudo"):
        prepare(system, {}, layout=LAYOUT, inspector=inspector())


def test_a_mosquitto_configuration_that_is_broken_is_left_alone(host: Host) -> None:
    host.install_mosquitto()
    host.write(Path("/etc/mosquitto/conf.d/own.conf"), "nonsense 7\n")
    before = tree(host.root)
    with pytest.raises(CannotRun, match="mosquitto does not accept its configuration"):
        host.init(agent_id="planner")
    assert tree(host.root) == before


def test_without_any_way_to_root_nothing_is_begun(host: Host) -> None:
    class NoSudo(Sandbox):
        def root_access(self) -> RootAccess:
            return "none"

        def which(self, program: str, path: str | None = None) -> Path | None:
            return None

    before = tree(host.root)
    with pytest.raises(RootStepsNeeded) as caught:
        prepare(NoSudo(host.root, host.machine), {}, layout=LAYOUT, inspector=inspector())
    assert isinstance(caught.value, NeedsRoot)
    assert caught.value.hint == "an administrator can run: sudo apt-get install -y mosquitto"
    assert tree(host.root) == before


def test_a_password_that_sudo_does_not_take_leaves_nothing_half_done(host: Host) -> None:
    class WrongPassword(Sandbox):
        def run_as_root(self, steps: Sequence[RootStep], tell: Callable[[RootStep], None]) -> None:
            raise RootStepsNeeded("sudo did not let us", steps=steps)

    what = prepare(WrongPassword(host.root, host.machine), {}, layout=LAYOUT, inspector=inspector())
    outcome = carry_out(what)
    assert (outcome.exit_status, outcome.rolled_back) == (ExitStatus.NEEDS_ROOT, True)
    assert not host.at(CONFIG).exists()
    assert isinstance(outcome.error, RootStepsNeeded)
    assert "apt-get" in outcome.error.script
    assert "/etc/mosquitto/conf.d/50-swarmbus.conf" in outcome.error.script


def test_linger_that_logind_refuses_is_no_reason_to_give_up_without_root(host: Host) -> None:
    class NoSudo(Sandbox):
        def root_access(self) -> RootAccess:
            return "none"

    system = NoSudo(host.root, host.machine)
    host.write(Path(f"/run/user/{system.user.uid}/bus"), "")
    what = prepare(system, {"broker": "hub.example.net"}, layout=LAYOUT, inspector=inspector())
    outcome = carry_out(what)
    assert outcome.exit_status is ExitStatus.DONE
    assert any("sudo loginctl enable-linger pi" in note for note in outcome.notes)


def test_a_listener_started_by_hand_is_in_the_way(host: Host) -> None:
    lock = LAYOUT.agent_dir("planner") / "listener.lock"
    host.write(lock, '{"pid": 4711, "role": "listener"}')
    with host.at(lock).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ListenerRunning, match="pid 4711"):
            host.prepare(agent_id="planner")
    host.prepare(agent_id="planner")


def test_a_change_after_the_plan_was_shown_stops_the_run(host: Host) -> None:
    what = host.prepare(agent_id="planner")
    host.write(UNIT, "somebody else's\n")
    host.write(CONFIG, 'broker = "hub"\n')
    with pytest.raises(Conflict, match="after the plan was shown"):
        carry_out(what)
    assert host.read(UNIT) == "somebody else's\n"


_TWICE = """
import sys
from pathlib import Path
from swarmbus.provision.run import Event
from swarmbus.provision.carry_out import carry_out
from swarmbus.provision.prepare import prepare
from tests.provision.installing import LAYOUT, inspector
from tests.provision.machine import Machine
from tests.provision.sandbox import Sandbox
system = Sandbox(Path(sys.argv[1]), Machine())
what = prepare(system, {"agent_id": "planner"}, layout=LAYOUT, inspector=inspector())
print("planned", flush=True)
sys.stdin.readline()
print(int(carry_out(what).exit_status))
"""


def test_two_runs_at_once_do_not_interleave(host: Host) -> None:
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", _TWICE, str(host.root)],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for run in runs:
        assert run.stdout is not None
        assert run.stdout.readline() == "planned\n"
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("\n")
        run.stdin.flush()
    assert [run.communicate(timeout=60)[0] for run in runs] == ["0\n", "0\n"]
    assert not host.prepare().plan.changed
    assert json.loads(host.read(LAYOUT.provision / "manifest.json"))["entries"]


def test_a_wake_command_that_does_not_exist_is_a_usage_error(host: Host) -> None:
    with pytest.raises(UsageError, match="there is no program 'claude'"):
        host.prepare(agent_id="planner", invoke="claude -p")
