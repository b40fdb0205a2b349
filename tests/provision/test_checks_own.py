"""Whether a dead monitor is seen: by the time of its last look, the timer and the host's uptime."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.provision.doctor_facts import LAYOUT, NOT_FOUND, NOW, Host

CODE = "own.health-overdue"


def _never(host: Host) -> None:
    del host.system.files[LAYOUT.doctor / "health.json"]


def _no_timer(host: Host) -> None:
    host.timer = {**NOT_FOUND, "Id": host.timer["Id"]}


def _stopped(host: Host) -> None:
    host.timer["ActiveState"] = "inactive"


def _both(*breaking: Callable[[Host], None]) -> Callable[[Host], None]:
    def carry_out(host: Host) -> None:
        for one in breaking:
            one(host)

    return carry_out


def _hours_ago(host: Host) -> None:
    host.looked_at_health(NOW - 7200)


def _up_for_a_minute(host: Host) -> None:
    host.system.put("/proc/uptime", "60.17 200.00\n")


@pytest.mark.parametrize(
    ("breaking", "status", "words"),
    [
        (lambda host: None, "ok", "last looked at 60 s ago"),
        (_hours_ago, "warn", "last looked at 2 h ago, and should be every 5 min"),
        (_both(_hours_ago, _up_for_a_minute), "ok", "last looked at 2 h ago"),
        (_both(_hours_ago, _no_timer), "warn", "last looked at 2 h ago"),
        (_never, "info", "the timer has only just been set up"),
        (_both(_never, _stopped), "warn", "never looked at: swarmbus.health.timer is inactive"),
        (_both(_never, _no_timer), "info", "nothing here looks at health by itself"),
        (lambda host: host.looked_at_health(NOW + 50), "ok", "last looked at 0 s ago"),
        (_both(_never, Host.without_systemd), "info", "nothing here looks at health by itself"),
    ],
)
def test_health_overdue(breaking: Callable[[Host], None], status: str, words: str) -> None:
    host = Host()
    breaking(host)
    result = host.ask(CODE)
    assert (result.status, words in result.message) == (status, True), result.message


def test_what_mends_it_is_the_timer_or_where_there_is_no_systemd_cron() -> None:
    host = Host()
    _both(_never, _stopped)(host)
    result = host.ask(CODE)
    enable, start = result.fix[0].split(" && ")
    assert enable == "systemctl --user enable --now swarmbus.health.timer"
    assert start == "systemctl --user start swarmbus.health.service"
    assert result.repair == ("unit:user:swarmbus.health.timer", "user:restart:swarmbus.health.service")
    host.without_systemd()
    result = host.ask(CODE)
    assert result.repair == ()
    assert "crontab -" in result.fix[0]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": "swarmbus.health/2"}', '{"schema": "swarmbus.health/1"}']
)
def test_a_record_that_cannot_be_read_is_none(text: str) -> None:
    host = Host()
    host.system.put(str(LAYOUT.doctor / "health.json"), text)
    assert host.facts().health() is None
