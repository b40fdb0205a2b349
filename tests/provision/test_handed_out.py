"""Root's steps that an administrator runs: what they bring about is ours from then on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from swarmbus.errors import ExitStatus, UsageError
from swarmbus.provision import handed_out
from swarmbus.provision.carry_out import carry_out
from swarmbus.provision.manifest import Manifest
from swarmbus.provision.outcome import GateReport, Outcome, Prepared
from swarmbus.provision.prepare import prepare
from swarmbus.provision.resources.base import Verb
from swarmbus.provision.resume import request_to_resume
from swarmbus.provision.root import RootStep, RootStepsNeeded
from swarmbus.provision.system import RootAccess
from tests.provision.installing import LAYOUT, inspector
from tests.provision.machine import Machine
from tests.provision.sandbox import Sandbox, tree
from tests.provision.test_init import CONF_D, Host

FLAGS = {"agent_id": ["planner", "coder"], "port": 1883}


class WrongPassword(Sandbox):
    """sudo would ask, and does not like the answer."""

    def run_as_root(self, steps: Sequence[RootStep], tell: Callable[[RootStep], None]) -> None:
        raise RootStepsNeeded("sudo did not let us", steps=steps)


class NoSudo(WrongPassword):
    """There is none."""

    def root_access(self) -> RootAccess:
        return "none"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "root")


def _prepare(host: Host, kind: type[Sandbox], **flags: object) -> Prepared:
    return prepare(kind(host.root, host.machine), flags, layout=LAYOUT, inspector=inspector())


def _administrator(host: Host, prepared: Prepared) -> None:
    host.system().run_as_root(prepared.plan.root_steps, lambda step: None)


def _resume(host: Host, kind: type[Sandbox] = NoSudo) -> Outcome:
    system = kind(host.root, host.machine)
    request = request_to_resume(system, LAYOUT)
    return carry_out(prepare(system, request, layout=LAYOUT, inspector=inspector()))


def _ours(host: Host) -> set[str]:
    return {entry.id for entry in Manifest.load(host.system(), LAYOUT.provision) if not entry.adopted}


def test_a_refused_run_is_resumed_when_the_administrator_has_done_his_part(host: Host) -> None:
    before = tree(host.root, without=[".provision", "machine.json"])
    prepared = _prepare(host, WrongPassword, **FLAGS)
    outcome = carry_out(prepared)
    assert (outcome.exit_status, outcome.rolled_back) == (ExitStatus.NEEDS_ROOT, True)
    left = tree(host.root, without=[".provision", "machine.json"])
    assert {name for name in left if name not in before} <= {
        "home/pi/.local",
        "home/pi/.local/state",
        "home/pi/.local/state/swarmbus",
    }
    _administrator(host, prepared)
    done = _resume(host)
    assert done.exit_status is ExitStatus.DONE, done.error
    assert [agent for agent in ("planner", "coder") if host.unit(f"user:swarmbus-{agent}.service")["active"]]
    assert {"package:mosquitto", f"file:{CONF_D}", "linger:pi"} <= _ours(host)
    assert not host.prepare().plan.changed
    with pytest.raises(UsageError, match="no run of init waits"):
        _resume(host)


def test_without_sudo_nothing_is_begun_and_a_later_change_of_root_is_handed_out(host: Host) -> None:
    host.init(agent_id="planner")
    before = tree(host.root, without=[".provision"])
    prepared = _prepare(host, NoSudo, port=1885)
    with pytest.raises(RootStepsNeeded) as caught:
        carry_out(prepared)
    assert "listener 1885" in caught.value.script
    assert tree(host.root, without=[".provision"]) == before
    _administrator(host, prepared)
    assert _resume(host).exit_status is ExitStatus.DONE
    assert "port = 1885" in host.read(LAYOUT.config)
    assert not host.prepare().plan.changed


def test_resumed_too_early_it_needs_root_still(host: Host) -> None:
    carry_out(_prepare(host, WrongPassword, **FLAGS))
    assert _resume(host, WrongPassword).exit_status is ExitStatus.NEEDS_ROOT
    assert handed_out.load(host.system(), LAYOUT.provision) is not None


def test_what_the_administrator_had_done_of_it_is_ours_when_he_is_asked_again(host: Host) -> None:
    host.init(agent_id="planner")
    prepared = _prepare(host, NoSudo, scope="system")
    with pytest.raises(RootStepsNeeded):
        carry_out(prepared)
    host.system().run_as_root(prepared.plan.root_steps[:2], lambda step: None)
    with pytest.raises(RootStepsNeeded):
        _resume(host, NoSudo)
    _administrator(host, _prepare(host, NoSudo, scope="system"))
    assert _resume(host).exit_status is ExitStatus.DONE
    asked = [action for action in prepared.plan.changes if action.scope == "root"]
    assert {action.id for action in asked if action.verb is Verb.CREATE} <= _ours(host)


def test_what_was_there_before_the_script_does_not_become_ours(host: Host) -> None:
    host.install_mosquitto()
    prepared = _prepare(host, WrongPassword, **FLAGS)
    carry_out(prepared)
    _administrator(host, prepared)
    assert _resume(host).exit_status is ExitStatus.DONE
    assert "package:mosquitto" not in _ours(host)
    assert f"file:{CONF_D}" in _ours(host)


def test_what_the_administrator_did_is_taken_back_with_the_run(host: Host) -> None:
    host.init(agent_id="planner")
    prepared = _prepare(host, NoSudo, port=1885)
    with pytest.raises(RootStepsNeeded):
        carry_out(prepared)
    _administrator(host, prepared)
    system = host.system()
    failed = carry_out(
        prepare(system, request_to_resume(system, LAYOUT), layout=LAYOUT, inspector=inspector()),
        gate=lambda _: GateReport(ok=False, summary="no answer"),
    )
    assert failed.rolled_back
    assert handed_out.load(system, LAYOUT.provision) is not None, "what root did has to be resumed still"
    assert "1885" not in host.read(LAYOUT.config)


def test_the_plan_shows_what_root_did_as_ours(host: Host) -> None:
    prepared = _prepare(host, WrongPassword, **FLAGS)
    carry_out(prepared)
    _administrator(host, prepared)
    again = _prepare(host, NoSudo, **FLAGS)
    verbs = {action.id: action.verb for action in again.plan.actions if action.scope == "root"}
    assert set(verbs.values()) == {Verb.KEEP}
    assert not again.plan.needs_root


def test_what_runs_for_the_user_has_to_end_before_roots_script_starts_its_successor(host: Host) -> None:
    host.init(agent_id="planner")
    with pytest.raises(RootStepsNeeded) as caught:
        carry_out(_prepare(host, NoSudo, scope="system"))
    assert (caught.value.hint or "").startswith("first: systemctl --user stop swarmbus-planner.service")
    host.system().run_program(("systemctl", "--user", "stop", "swarmbus-planner.service"), root=False)
    again = _prepare(host, NoSudo, scope="system")
    _administrator(host, again)
    assert _resume(host).exit_status is ExitStatus.DONE
    assert host.unit("system:swarmbus-planner.service")["active"]
    assert not host.at(LAYOUT.units / "swarmbus-planner.service").exists()


def test_a_damaged_record_is_said(host: Host) -> None:
    carry_out(_prepare(host, WrongPassword, **FLAGS))
    host.write(LAYOUT.provision / "handed-out.json", "{}")
    with pytest.raises(Exception, match="is damaged"):
        host.prepare()


def test_machine_of_the_tests_does_what_the_script_says(host: Host) -> None:
    """The steps that the tests run one by one are those of the script that is printed."""
    prepared = _prepare(host, WrongPassword, **FLAGS)
    script = carry_out(prepared).as_json()["root_script"]
    for step in prepared.plan.root_steps:
        assert f"echo '==> {step.title}'" in script
        for command in step.commands:
            assert command.argv[-1] in script
    assert isinstance(host.machine, Machine)
