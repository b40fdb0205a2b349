"""A second run that asks again and finds nothing changed: quick, and never wrong about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swarmbus.provision import settled
from swarmbus.provision.prepare import prepare
from swarmbus.provision.settled import Noting
from tests.provision.installing import LAYOUT, inspector
from tests.provision.sandbox import Sandbox
from tests.provision.test_init import CONF_D, CONFIG, UNIT, Host

FOLDER = LAYOUT.provision


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path / "root")
    made.init(agent_id="planner")
    return made


def _remember(host: Host, request: object = "the request") -> None:
    noting = Noting(host.system())
    plan = prepare(noting.as_system, {}, layout=LAYOUT, inspector=inspector()).plan
    assert not plan.changed
    assert noting.noted is not None
    settled.remember(host.system(), FOLDER, request, noting.noted, plan.as_json())


def _recall(host: Host, request: object = "the request") -> dict[str, Any] | None:
    return settled.recall(host.system(), FOLDER, request)


def test_the_plan_comes_back_where_nothing_has_changed(host: Host) -> None:
    assert _recall(host) is None
    _remember(host)
    plan = prepare(host.system(), {}, layout=LAYOUT, inspector=inspector()).plan
    assert _recall(host) == plan.as_json()


def test_asking_again_changes_nothing(host: Host) -> None:
    _remember(host)
    system = host.system()
    assert settled.recall(system, FOLDER, "the request") is not None
    assert system.changes == 0


@pytest.mark.parametrize("path", [CONFIG, UNIT, CONF_D, Path("/var/lib/systemd/linger/pi")])
def test_a_file_that_was_edited_or_removed_is_noticed(host: Host, path: Path) -> None:
    _remember(host)
    text = host.read(path)
    host.write(path, text + "# mine\n")
    if path.suffix:
        assert _recall(host) is None
    host.write(path, text)
    assert _recall(host) is not None
    host.at(path).unlink()
    assert _recall(host) is None


def test_a_mode_that_was_changed_is_noticed(host: Host) -> None:
    _remember(host)
    host.at(UNIT).chmod(0o666)
    assert _recall(host) is None


@pytest.mark.parametrize("unit", ["user:swarmbus-planner.service", "system:mosquitto.service"])
def test_a_unit_that_stopped_is_noticed(host: Host, unit: str) -> None:
    _remember(host)
    manager, name = unit.split(":")
    words = ("systemctl", "--user") if manager == "user" else ("/usr/bin/systemctl",)
    host.system().run_program((*words, "stop", name), root=True)
    assert _recall(host) is None


def test_another_request_and_another_environment_are_not_the_same(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    _remember(host)
    assert _recall(host, "another") is None

    class Moved(Sandbox):
        @property
        def environ(self) -> dict[str, str]:
            return {**super().environ, "SWARMBUS_STATE_DIR": "/srv"}

    assert settled.recall(Moved(host.root, host.machine), FOLDER, "the request") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}', '{"asked": {}}'])
def test_a_record_that_is_none_only_costs_time(host: Host, text: str) -> None:
    _remember(host)
    host.write(FOLDER / "settled.json", text)
    assert _recall(host) is None


def test_who_does_more_than_to_look_is_not_remembered(host: Host) -> None:
    noting = Noting(host.system())
    system = noting.as_system
    assert system.stat(UNIT) is not None
    assert noting.noted
    system.remove(UNIT)
    assert noting.noted is None
