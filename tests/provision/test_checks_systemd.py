"""Checks of Python and the user's systemd, over canned facts: well, amiss, and not to be seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.provision.doctor_facts import LAYOUT, NOT_FOUND, UNIT, Host, bad

Break = Callable[[Host], None]


def _unit(**changed: str) -> Break:
    return lambda host: host.unit.update(changed)


def _no_unit(host: Host) -> None:
    host.unit = {**NOT_FOUND, "Id": UNIT}
    del host.system.files[LAYOUT.units / UNIT]


def _no_unit_and_no_listener(host: Host) -> None:
    _no_unit(host)
    host.without_listener()


def _old_python(host: Host) -> None:
    host.python = (3, 10, 12)


def _no_linger(host: Host) -> None:
    del host.system.files[Path("/var/lib/systemd/linger/pi")]


def _no_runtime(host: Host) -> None:
    host.system.environ = {}


def _no_socket(host: Host) -> None:
    del host.system.files[Path("/run/user/1000/bus")]


def test_on_a_healthy_host_nothing_is_amiss() -> None:
    report = Host().doctor()
    assert bad(report) == []
    assert report.summary["ok"] == len(report.results)
    assert report.exit_status == 0


@pytest.mark.parametrize(
    ("code", "breaking", "status", "words"),
    [
        ("python.version", _old_python, "fail", "3.10.12"),
        ("systemd.absent", Host.without_systemd, "info", "systemd does not run here"),
        ("systemd.linger", _no_linger, "fail", "linger is off"),
        ("systemd.user-bus", _no_runtime, "fail", "/run/user/1000"),
        ("systemd.user-bus", _no_socket, "fail", "nothing listens in /run/user/1000"),
        ("systemd.unit-missing", _no_unit, "info", "nothing starts it after a reboot"),
        ("systemd.unit-missing", _no_unit_and_no_listener, "fail", f"there is no {UNIT}"),
        ("systemd.unit-masked", _unit(LoadState="masked"), "fail", "is masked"),
        ("systemd.unit-disabled", _unit(UnitFileState="disabled"), "warn", "is disabled"),
        ("systemd.unit-failed", _unit(ActiveState="failed", Result="signal"), "fail", "signal"),
        (
            "systemd.unit-failed",
            _unit(ActiveState="activating", SubState="auto-restart", Result="exit-code", ExecMainStatus="2"),
            "fail",
            "again and again: exit-code, exit status 2",
        ),
        (
            "systemd.unit-failed",
            _unit(ActiveState="failed", Result="exit-code", ExecMainStatus="3"),
            "fail",
            "another listener of coder",
        ),
        ("systemd.reload-pending", _unit(NeedDaemonReload="yes"), "fail", "still has the old one"),
    ],
)
def test_what_is_amiss_is_told(code: str, breaking: Break, status: str, words: str) -> None:
    host = Host()
    assert host.ask(code).status == "ok"
    breaking(host)
    result = host.ask(code)
    assert (result.status, words in result.message) == (status, True), result.message


@pytest.mark.parametrize(
    ("breaking", "codes"),
    [
        (_no_linger, ["systemd.linger"]),
        (_no_socket, ["systemd.user-bus"]),
        (_no_unit_and_no_listener, ["systemd.unit-missing"]),
        (_unit(ActiveState="failed"), ["systemd.unit-failed"]),
        (_unit(UnitFileState="disabled"), ["systemd.unit-disabled"]),
    ],
)
def test_only_the_root_cause_is_told(breaking: Break, codes: list[str]) -> None:
    host = Host()
    breaking(host)
    assert [code for code, _ in bad(host.doctor())] == codes


@pytest.mark.parametrize(
    "code",
    [
        f"systemd.{name}"
        for name in ("unit-missing", "unit-masked", "unit-disabled", "unit-failed", "reload-pending")
    ],
)
def test_without_an_answer_of_systemd_nothing_is_said_about_units(code: str) -> None:
    host = Host(manager=False)
    result = host.ask(code)
    assert result.status == "skip"
    assert "Failed to connect to bus" in result.message


@pytest.mark.parametrize("code", ["systemd.linger", "systemd.user-bus", "systemd.unit-missing"])
def test_without_systemd_its_checks_are_skipped_with_the_reason(code: str) -> None:
    host = Host()
    host.without_systemd()
    result = host.ask(code)
    assert (result.status, result.message) == ("skip", "systemd does not run here")


def test_without_linger_listeners_and_canary_are_looked_at_all_the_same() -> None:
    host = Host()
    _no_linger(host)
    report = host.doctor()
    skipped = [result.check.code for result in report.results if result.status == "skip"]
    assert (host.bus.flown, skipped) == ([["coder"]], [])


def test_an_agent_without_a_unit_is_named_and_nothing_is_said_of_its_unit() -> None:
    host = Host()
    _no_unit_and_no_listener(host)
    statuses = {result.check.code: str(result.status) for result in host.doctor().results}
    assert statuses["systemd.unit-masked"] == "skip"
    assert host.ask("systemd.unit-masked").message == "coder has no unit"
    assert host.ask("systemd.linger").message == "coder has no unit"


def test_units_that_wait_for_their_broker_have_not_failed() -> None:
    host = Host()
    host.unit.update(ActiveState="activating", SubState="start")
    assert host.ask("systemd.unit-failed").status == "ok"


def test_all_units_are_asked_about_by_one_process() -> None:
    host = Host()
    host.doctor()
    shows = [argv for argv in host.system.ran if argv[:3] == ("systemctl", "--user", "show")]
    assert len(shows) == 1
    assert UNIT in shows[0]


# units of the system


def test_a_healthy_agent_of_the_system_needs_neither_linger_nor_a_systemd_of_the_user() -> None:
    host = Host()
    host.under_the_system()
    report = host.doctor()
    assert bad(report) == []
    skipped = {result.check.code: result.message for result in report.results if result.status == "skip"}
    assert set(skipped) == {"systemd.linger", "systemd.user-bus"}
    assert skipped["systemd.linger"] == "the system's systemd runs coder, not the user's"


def test_an_agent_of_the_system_with_a_wake_command_needs_both() -> None:
    host = Host()
    host.under_the_system()
    host.set(invoke="/bin/true")
    assert host.ask("systemd.linger").status == "fail"
    assert host.ask("systemd.user-bus").status == "fail"


@pytest.mark.parametrize(
    ("code", "breaking", "fix"),
    [
        ("systemd.unit-masked", _unit(LoadState="masked"), f"sudo systemctl unmask {UNIT}"),
        ("systemd.unit-disabled", _unit(UnitFileState="disabled"), f"sudo systemctl enable {UNIT}"),
        (
            "systemd.unit-failed",
            _unit(ActiveState="failed", Result="signal"),
            f"sudo systemctl reset-failed {UNIT} && sudo systemctl start {UNIT}",
        ),
        (
            "systemd.reload-pending",
            _unit(NeedDaemonReload="yes"),
            f"sudo systemctl daemon-reload && sudo systemctl restart {UNIT}",
        ),
        ("agent.listener-running", Host.without_listener, f"sudo systemctl start {UNIT}"),
    ],
)
def test_fixes_name_the_manager_that_has_the_unit(code: str, breaking: Break, fix: str) -> None:
    host = Host()
    host.under_the_system()
    breaking(host)
    result = host.ask(code)
    assert (result.status in ("warn", "fail"), result.fix[0]) == (True, fix)
