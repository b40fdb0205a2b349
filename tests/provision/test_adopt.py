"""Whole adoptions on a sandbox: what is taken over, what is left alone, and what comes back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarmbus.errors import Conflict, ExitStatus, ListenerRunning, UsageError
from swarmbus.provision.adopt import Adoption, prepare_adoption, was_interrupted
from swarmbus.provision.carry_out import carry_out
from swarmbus.provision.mosquitto import OUR_FILE
from swarmbus.provision.outcome import GateReport, Outcome, Prepared
from swarmbus.provision.prepare import prepare
from swarmbus.provision.rollback import roll_back
from swarmbus.provision.system import ProcessSeen
from tests.provision.installing import LAYOUT, inspector
from tests.provision.machine import STATE, Machine, bare_debian
from tests.provision.old_units import AUTH, BY_DOCUMENTATION, TORN, UNIT
from tests.provision.sandbox import Sandbox, tree

CHECKOUT = Path(__file__).resolve().parents[2]
CODER = "user:swarmbus-coder-2.service"
UNIT_FILE = LAYOUT.units / "swarmbus-coder-2.service"
DROP_INS = LAYOUT.units / "swarmbus-coder-2.service.d"
SETTINGS = LAYOUT.home / ".claude/settings.json"
TAILSCALE = Path("/etc/mosquitto/conf.d/tailscale.conf")
CLAUDE = {
    "mcpServers": {"swarmbus": {"command": "swarmbus", "args": ["mcp-server", "--agent-id", "coder-2"]}}
}

OLD = UNIT.replace("/usr/bin/env wake", "cat --wake")

#: What the engine keeps for itself, and folders that stay when they are not empty.
OF_THE_ENGINE = (".provision", "home/pi/.local")


class WithWake(Sandbox):
    """There is a wake command."""

    def which(self, program: str, path: str | None = None) -> Path | None:
        return Path("/usr/bin/cat") if program == "/usr/bin/cat" else super().which(program, path)


class Host:
    """A sandbox on which the existing tool runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.machine = Machine()
        root.mkdir()
        system = self.system()
        bare_debian(system)
        system.run_program(("apt-get", "update"), root=True)
        system.run_program(("apt-get", "install", "mosquitto"), root=True)

    def system(self) -> Sandbox:
        return WithWake(self.root, self.machine)

    def at(self, path: Path) -> Path:
        return self.root / path.relative_to("/")

    def read(self, path: Path) -> str:
        return self.at(path).read_text()

    def write(self, path: Path, text: str, mode: int = 0o644) -> None:
        self.at(path).parent.mkdir(parents=True, exist_ok=True)
        self.at(path).write_text(text)
        self.at(path).chmod(mode)

    def old(self, text: str = OLD, agent: str = "coder-2", *, runs: bool = True) -> None:
        name = f"swarmbus-{agent}.service"
        self.write(LAYOUT.units / name, text)
        self.system().run(["systemctl", "--user", "enable", name])
        if runs:
            self.system().run(["systemctl", "--user", "start", name])
        self.machine.log.clear()

    def unit(self, name: str = CODER) -> dict[str, Any]:
        found: dict[str, Any] = self.machine.state(self.system())["units"][name]
        return found

    def look(self, *ids: str) -> Adoption:
        return prepare_adoption(self.system(), ids, layout=LAYOUT, inspector=inspector())

    def plan(self, *ids: str) -> Prepared:
        prepared = self.look(*ids).prepared
        assert prepared is not None
        return prepared

    def adopt(self, *ids: str, ok: bool = True) -> Outcome:
        return carry_out(self.plan(*ids), gate=lambda _: GateReport(ok=ok, summary="canary"))

    def config(self) -> dict[str, Any]:
        return tomllib.loads(self.read(LAYOUT.config))

    def tree(self) -> dict[str, tuple[str, str]]:
        return tree(self.root, without=(*OF_THE_ENGINE, "run/user", "var/lib/apt"))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "root")


def adopt_once(system: Sandbox) -> None:
    """What is interrupted; a run that finds an interrupted one takes that back first."""
    if was_interrupted(system, LAYOUT):
        roll_back(system, layout=LAYOUT)
    prepared = prepare_adoption(system, layout=LAYOUT, inspector=inspector()).prepared
    if prepared is not None:
        outcome = carry_out(prepared)
        assert not outcome.failed, outcome.error


def test_everything_is_taken_over(host: Host) -> None:
    host.old()
    host.write(DROP_INS / "auth.conf", AUTH, 0o600)
    host.write(SETTINGS, json.dumps(CLAUDE))
    outcome = host.adopt()
    assert outcome.exit_status is ExitStatus.DONE
    assert host.config() == {
        "agent_id": "coder-2",
        "broker": "localhost",
        "port": 1883,
        "agents": {
            "coder-2": {
                "inbox": "/home/pi/sync/coder-2-inbox.md",
                "outbox": "/home/pi/sync/coder-2-outbox.md",
                "invoke": "/usr/bin/cat --wake coder-2",
                "wake": "each",
                "username": "coder",
                "ca_cert": "/etc/ssl/own.pem",
                "password_file": "/home/pi/.config/swarmbus/coder-2.password",
            }
        },
    }
    password = LAYOUT.config.parent / "coder-2.password"
    assert host.read(password) == "hunter2\n"
    assert host.at(password).stat().st_mode & 0o777 == 0o600
    assert "-m swarmbus start --agent-id coder-2" in host.read(UNIT_FILE)
    assert not host.at(DROP_INS / "auth.conf").exists()
    assert json.loads(host.read(SETTINGS)) == {"mcpServers": {}}


def test_the_old_daemon_ends_once_and_when_all_is_ready(host: Host) -> None:
    host.old()
    host.adopt()
    of_agent = [line for line in host.machine.log if "coder" in line]
    assert of_agent == ["user:restart:swarmbus-coder-2.service"]
    assert host.machine.log[-1] == of_agent[0], "nothing is left to be done then"
    assert host.unit() == {"enabled": True, "active": True, "read": host.read(UNIT_FILE)}


def test_a_unit_that_never_ran_is_started(host: Host) -> None:
    host.old(TORN.replace("100.101.102.103", "localhost"), runs=False)
    outcome = host.adopt()
    assert host.unit() == {"enabled": True, "active": True, "read": host.read(UNIT_FILE)}
    assert any("had lost the arguments" in note for note in outcome.notes)


def test_a_second_time_and_init_find_nothing_to_do(host: Host) -> None:
    host.old()
    host.write(DROP_INS / "auth.conf", AUTH + "Nice=5\n", 0o600)
    host.adopt()
    assert host.look().prepared is None
    again = prepare(host.system(), {}, layout=LAYOUT, inspector=inspector())
    assert not again.plan.changed, [action.resource.id for action in again.plan.changes]


def test_rolled_back_when_the_canary_dies(host: Host) -> None:
    host.old()
    host.write(DROP_INS / "auth.conf", AUTH, 0o600)
    host.write(SETTINGS, json.dumps(CLAUDE))
    before = host.tree()
    outcome = host.adopt(ok=False)
    assert (outcome.failed, outcome.rolled_back) == (True, True), outcome.notes
    assert host.tree() == before
    assert host.unit()["read"] == OLD, "the old one runs again"


def test_taken_back_later(host: Host) -> None:
    host.old()
    host.write(DROP_INS / "auth.conf", AUTH + "Nice=5\n", 0o600)
    host.write(SETTINGS, json.dumps(CLAUDE))
    before = host.tree()
    host.adopt()
    outcome = roll_back(host.system(), layout=LAYOUT, finished=True)
    assert outcome is not None
    assert outcome.rolled_back, outcome.notes
    assert host.tree() == before
    assert host.unit()["read"] == OLD


@pytest.mark.parametrize("where", ["drop-in", "unit", "command line"])
def test_no_password_is_shown(host: Host, where: str) -> None:
    line = "Environment=SWARMBUS_BROKER_PASSWORD=hunter2"
    text = OLD.replace("--broker", "--password hunter2 --broker") if where == "command line" else OLD
    host.old(text.replace("Type=simple", line) if where == "unit" else text)
    if where == "drop-in":
        host.write(DROP_INS / "auth.conf", AUTH, 0o600)
    entry = {"mcpServers": {"swarmbus": {"env": {"SWARMBUS_BROKER_PASSWORD": "hunter2"}}}}
    host.write(SETTINGS, json.dumps(entry))
    prepared = host.plan()
    assert "hunter2" not in json.dumps(prepared.plan.as_json())
    assert "hunter2" not in repr(prepared)
    outcome = carry_out(prepared)
    assert "hunter2" not in json.dumps(outcome.as_json())
    holders = [
        path.relative_to(host.root)
        for path in host.root.rglob("*")
        if path.is_file() and b"hunter2" in path.read_bytes() and path != host.at(STATE)
    ]
    for path in holders:
        assert path.name == "coder-2.password" or "blobs" in path.parts, path
        assert (host.root / path).stat().st_mode & 0o077 == 0, path


def test_what_only_the_old_unit_said_is_kept(host: Host) -> None:
    host.old(OLD.replace("Type=simple", "Type=simple\nEnvironment=KEY=%h/key\nMemoryMax=1G"))
    host.adopt()
    drop_in = host.read(DROP_INS / "adopted.conf")
    assert drop_in.endswith('\n[Service]\nEnvironment="KEY=%h/key"\nMemoryMax=1G\n')


def test_agents_of_different_brokers(host: Host) -> None:
    host.old()
    host.old(OLD.replace("coder-2", "planner"), "planner")
    host.old(BY_DOCUMENTATION, "laptop")
    host.adopt()
    config = host.config()
    assert (config["broker"], config["port"]) == ("localhost", 1883)
    laptop = config["agents"]["laptop"]
    assert (laptop["broker"], laptop["port"], laptop["tls"]) == ("mqtt.example.com", 8883, True)
    assert "broker" not in config["agents"]["planner"]


def test_one_of_several(host: Host) -> None:
    host.old()
    host.old(BY_DOCUMENTATION, "laptop")
    host.adopt("coder-2")
    assert host.read(LAYOUT.units / "swarmbus-laptop.service") == BY_DOCUMENTATION
    assert host.adopt("laptop").exit_status is ExitStatus.DONE
    assert set(host.config()["agents"]) == {"coder-2", "laptop"}


def test_beside_an_agent_that_is_ours(host: Host) -> None:
    carry_out(
        prepare(host.system(), {"agent_id": "ours", "port": 1884}, layout=LAYOUT, inspector=inspector())
    )
    host.old()
    host.machine.log.clear()
    host.adopt()
    assert host.config()["port"] == 1884
    assert host.config()["agents"]["coder-2"]["port"] == 1883
    assert not any("ours" in line for line in host.machine.log), "it is not restarted"


def test_nothing_there(host: Host) -> None:
    assert host.look().prepared is None
    with pytest.raises(UsageError, match="no unit of the existing tool runs 'planner'"):
        host.look("planner")


def test_what_is_not_understood_is_said_and_left(host: Host) -> None:
    host.old()
    host.old("[Service]\nExecStart=/x/swarmbus start --frobnicate\n", "odd")
    outcome = host.adopt()
    assert any("swarmbus-odd.service is left as it is" in note for note in outcome.notes)
    with pytest.raises(UsageError, match="--frobnicate"):
        host.look("odd")


def test_a_wake_command_that_is_not_there(host: Host) -> None:
    host.old(UNIT)
    with pytest.raises(UsageError, match="names '/usr/bin/env', and there is no such program"):
        host.look()


def test_settings_that_cannot_be_parsed_are_left_and_said(host: Host) -> None:
    host.old()
    text = "// mine\n" + json.dumps(CLAUDE)
    host.write(SETTINGS, text)
    outcome = host.adopt()
    assert outcome.exit_status is ExitStatus.DONE
    assert host.read(SETTINGS) == text
    assert any("settings.json is left as it is" in note for note in outcome.notes)


def test_tailscale_without_a_listener_on_loopback(host: Host) -> None:
    host.old()
    text = "listener 1883 100.101.102.103\nallow_anonymous true\n"
    host.write(TAILSCALE, text)
    outcome = host.adopt()
    assert host.read(TAILSCALE) == text
    assert "\nlistener 1883\nbind_interface lo\n" in host.read(OUR_FILE)
    notes = "\n".join(outcome.notes)
    assert f"{OUR_FILE} adds it" in notes
    assert "gives up at boot when 100.101.102.103" in notes


def test_a_broker_that_keeps_its_queue_in_memory_is_not_restarted(host: Host) -> None:
    host.old()
    host.write(
        Path("/etc/mosquitto/mosquitto.conf"), "persistence false\ninclude_dir /etc/mosquitto/conf.d\n"
    )
    host.adopt()
    assert not host.at(OUR_FILE).exists()
    assert not any("mosquitto" in line for line in host.machine.log)


def test_a_unit_that_is_a_link_is_left(host: Host) -> None:
    host.write(LAYOUT.home / "dotfiles/unit", OLD)
    host.at(LAYOUT.units).mkdir(parents=True)
    host.at(UNIT_FILE).symlink_to(host.at(LAYOUT.home / "dotfiles/unit"))
    adoption = host.look()
    assert adoption.prepared is None
    assert "symbolic link" in adoption.notes[0]


class ByHand(WithWake):
    """With a listener of the existing tool that somebody has started in a terminal."""

    def list(self, path: Path) -> list[str]:
        return ["4242"] if path == Path("/proc") else super().list(path)

    def process(self, pid: int) -> ProcessSeen | None:
        argv = (
            "/x/python",
            "/x/swarmbus",
            "start",
            "--agent-id",
            "coder-2",
            "--inbox",
            "/a b",
            "--password",
            "p",
        )
        return ProcessSeen(pid, 1, argv, self.user.uid)


def test_started_by_hand_only(host: Host) -> None:
    adoption = prepare_adoption(ByHand(host.root, host.machine), layout=LAYOUT, inspector=inspector())
    assert adoption.prepared is None
    assert adoption.notes == (
        "the existing tool runs 'coder-2' by hand: end it (kill 4242), "
        "then: swarmbus init --agent-id coder-2 --inbox '/a b'",
    )


def test_started_by_hand_beside_its_unit(host: Host) -> None:
    host.old()
    with pytest.raises(ListenerRunning) as refusal:
        prepare_adoption(ByHand(host.root, host.machine), layout=LAYOUT, inspector=inspector())
    assert refusal.value.pid == 4242


_SWEEP = """
import os, sys
from pathlib import Path
from tests.provision.test_adopt import WithWake, adopt_once
from tests.provision.machine import Machine
for number, root in enumerate(sys.argv[1:], 1):
    child = os.fork()
    if child == 0:
        adopt_once(WithWake(Path(root), Machine(), kill_at=number))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(root, os.WTERMSIG(status) if os.WIFSIGNALED(status) else f"ended {os.WEXITSTATUS(status)}")
"""


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in which an fsync costs nothing, where there is one."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


def test_killed_after_any_change_and_healed_or_taken_back(in_memory: Path) -> None:
    first = Host(in_memory / "first")
    first.old()
    first.write(DROP_INS / "auth.conf", AUTH + "Nice=5\n", 0o600)
    first.write(SETTINGS, json.dumps(CLAUDE))
    before = first.tree()
    copies = [in_memory / "whole"]
    shutil.copytree(first.root, copies[0])
    whole = WithWake(copies[0], Machine())
    adopt_once(whole)
    wanted = tree(copies[0], without=(*OF_THE_ENGINE, "run/user", "var/lib/apt"))
    assert whole.changes > 60

    roots = [in_memory / f"{number:03}" for number in range(1, whole.changes + 1)]
    for root in roots:
        shutil.copytree(first.root, root)
    command = [sys.executable, "-c", _SWEEP, *map(str, roots)]
    swept = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=100)
    assert swept.stdout.splitlines() == [f"{root} 9" for root in roots], swept.stderr

    for number, root in enumerate(roots):
        system = WithWake(root, Machine())
        if was_interrupted(system, LAYOUT) and number % 2:
            with pytest.raises(Conflict, match="killed in the middle"):
                prepare_adoption(system, layout=LAYOUT, inspector=inspector())
            roll_back(system, layout=LAYOUT)
            assert tree(root, without=(*OF_THE_ENGINE, "run/user", "var/lib/apt")) == before, root
        else:
            adopt_once(system)
            assert tree(root, without=(*OF_THE_ENGINE, "run/user", "var/lib/apt")) == wanted, root


def test_nothing_is_taken_over_by_agents_of_the_system(host: Host) -> None:
    host.old()
    carry_out(
        prepare(
            host.system(), {"agent_id": "planner", "scope": "system"}, layout=LAYOUT, inspector=inspector()
        )
    )
    with pytest.raises(UsageError, match="units of the system") as caught:
        host.look()
    assert "swarmbus init --scope user first" in (caught.value.hint or "")
