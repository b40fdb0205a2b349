"""Checks of what an agent's unit says and what became of it, over canned facts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from swarmbus.provision.system import Result
from tests.provision.doctor_facts import LAYOUT, NOW, UNIT, Host, bad

Break = Callable[[Host], None]
UNIT_FILE = str(LAYOUT.units / UNIT)
DROP_IN = f"{UNIT_FILE}.d/more.conf"
JOURNAL = (
    "journalctl --no-pager --output=json --since=-24h --lines=500 MESSAGE_ID=d9b373ed55a64feb8242e02dbe79a49c"
)


def _unit(**changed: str) -> Break:
    return lambda host: host.unit.update(changed)


def _loop(host: Host) -> None:
    host.unit["NRestarts"] = "7"
    host.system.put("/proc/stat", f"btime {int(NOW) - 140}\n")


def _mode(mode: int) -> Break:
    return lambda host: setattr(host.system.files[Path(UNIT_FILE)], "mode", mode)


def _secret(mode: int = 0o644) -> Break:
    def breaking(host: Host) -> None:
        host.system.put(DROP_IN, "[Service]\nEnvironment=A=1\nEnvironment=SWARMBUS_BROKER_PASSWORD=x\n", mode)
        host.unit["DropInPaths"] = DROP_IN

    return breaking


def _edited(host: Host) -> None:
    host.system.put(UNIT_FILE, "[Unit]\n# mine\n")


def _elsewhere(host: Host) -> None:
    host.system.put("/etc/systemd/user/x.service", "")
    host.unit["FragmentPath"] = "/etc/systemd/user/x.service"


def _large_log(host: Host) -> None:
    host.system.put("/home/pi/logs/coder.log", "x" * (51 << 20))
    host.unit["StandardOutput"] = "append:/home/pi/logs/coder.log"


def _hung(host: Host) -> None:
    entry = {
        "USER_UNIT": UNIT,
        "UNIT_RESULT": "watchdog",
        "__REALTIME_TIMESTAMP": str(int(NOW - 600) * 10**6),
    }
    other = {**entry, "UNIT_RESULT": "signal"}
    host.answers[JOURNAL] = Result((), 0, f"{json.dumps(other)}\n{json.dumps(entry)}\nnonsense\n")


@pytest.mark.parametrize(
    ("code", "breaking", "status", "words"),
    [
        (
            "systemd.unit-syntax",
            _unit(
                LoadState="bad-setting", LoadError='org.freedesktop.systemd1.BadUnitSetting "No ExecStart="'
            ),
            "fail",
            f"cannot use {UNIT}: No ExecStart=",
        ),
        ("systemd.exec-missing", _unit(ExecStart="{ path=/opt/x ; argv[]=/opt/x }"), "fail", "is not there"),
        (
            "systemd.exec-missing",
            _unit(ExecStart="{ path=/etc/passwd ; argv[]=/etc/passwd }"),
            "fail",
            "cannot be executed",
        ),
        ("systemd.sandbox-denied", _unit(Result="exit-code", ExecMainStatus="226"), "fail", "NAMESPACE"),
        ("systemd.restart-loop", _loop, "fail", "again 7 times, the last time 63 s ago"),
        ("systemd.watchdog", _hung, "warn", "1 times in a day"),
        ("systemd.unit-elsewhere", _elsewhere, "warn", "systemd reads /etc/systemd/user/x.service"),
        ("systemd.unit-writable", _mode(0o646), "fail", f"others may write {UNIT_FILE}"),
        ("systemd.env-secret", _secret(), "fail", "holds SWARMBUS_BROKER_PASSWORD"),
        ("systemd.dropin", _secret(), "info", f"is added to by {DROP_IN}"),
        ("systemd.log-append", _large_log, "warn", "51 MiB to /home/pi/logs/coder.log"),
        ("systemd.limits", _unit(TasksCurrent="480"), "warn", "96% of its TasksMax"),
        ("systemd.limits", _unit(MemoryCurrent="950", MemoryMax="1000"), "warn", "95% of its MemoryMax"),
        ("systemd.unit-drift", _edited, "warn", "was changed by hand"),
    ],
)
def test_what_is_amiss_is_told(code: str, breaking: Break, status: str, words: str) -> None:
    host = Host()
    assert host.ask(code).status == "ok"
    breaking(host)
    result = host.ask(code)
    assert (result.status, words in result.message) == (status, True), result.message


@pytest.mark.parametrize(
    ("breaking", "code"),
    [
        (_unit(ExecStart="{ path=/opt/x ; argv[]=/opt/x }"), "systemd.exec-missing"),
        (_unit(ActiveState="failed", Result="exit-code", ExecMainStatus="226"), "systemd.sandbox-denied"),
        (_unit(LoadState="bad-setting"), "systemd.unit-syntax"),
        (_loop, "systemd.restart-loop"),
        (_edited, "systemd.unit-drift"),
    ],
)
def test_only_the_root_cause_is_told(breaking: Break, code: str) -> None:
    host = Host()
    breaking(host)
    assert [told for told, _ in bad(host.doctor())] == [code]


@pytest.mark.parametrize(
    "code",
    [
        f"systemd.{name}"
        for name in (
            *("unit-syntax", "exec-missing", "sandbox-denied", "restart-loop", "watchdog", "unit-elsewhere"),
            *("unit-writable", "env-secret", "dropin", "log-append", "limits"),
        )
    ],
)
def test_without_an_answer_of_systemd_nothing_is_said_about_units(code: str) -> None:
    host = Host(manager=False)
    result = host.ask(code)
    assert (result.status, "Failed to connect to bus" in result.message) == ("skip", True)


def test_a_journal_that_is_hidden_is_no_verdict() -> None:
    host = Host()
    said = "No journal files were opened due to insufficient permissions.\n"
    host.answers[JOURNAL] = Result((), 1, "", said)
    result = host.ask("systemd.watchdog")
    assert (result.status, "insufficient permissions" in result.message) == ("skip", True)


def test_a_unit_that_was_started_again_long_ago_is_no_loop() -> None:
    host = Host()
    host.unit["NRestarts"] = "7"
    assert host.ask("systemd.restart-loop").status == "ok"


def test_a_secret_in_a_file_that_only_its_user_reads_is_none_of_our_business() -> None:
    host = Host()
    _secret(0o600)(host)
    assert host.ask("systemd.env-secret").status == "ok"


def test_what_the_users_own_group_may_nobody_else_may() -> None:
    host = Host()
    _mode(0o664)(host)
    assert host.ask("systemd.unit-writable").status == "ok"
    host.system.files[Path(UNIT_FILE)].gid = 100
    assert host.ask("systemd.unit-writable").status == "fail"


def test_what_a_secret_is_stands_nowhere_in_the_report() -> None:
    host = Host()
    host.system.put(DROP_IN, "[Service]\nEnvironment=API_TOKEN=hunter2\n")
    host.unit["DropInPaths"] = DROP_IN
    assert "hunter2" not in str([result.as_json() for result in host.doctor().results])


def test_without_a_record_nothing_is_said_of_changes() -> None:
    host = Host()
    del host.system.files[LAYOUT.provision / "manifest.json"]
    assert host.ask("systemd.unit-drift").status == "skip"
