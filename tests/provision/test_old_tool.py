"""What an installation of the existing tool looks like, and what is made of it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from swarmbus.provision.old_tool import OldAgent, recognise, unread_by_mcp
from swarmbus.provision.system import ProcessSeen
from swarmbus.provision.unit_file import NotUnderstoodError, split_words
from tests.provision.fake_system import FakeSystem
from tests.provision.installing import LAYOUT
from tests.provision.old_units import AUTH, BY_DOCUMENTATION, TORN, UNIT

FOLDER = "/home/pi/.config/systemd/user"


def one(unit: str, name: str = "coder-2", **drop_ins: str) -> OldAgent:
    system = FakeSystem()
    system.put(f"{FOLDER}/swarmbus-{name}.service", unit)
    for drop_in, text in drop_ins.items():
        system.put(f"{FOLDER}/swarmbus-{name}.service.d/{drop_in}.conf", text)
    found = recognise(system, LAYOUT)
    assert found.problems == {}
    (agent,) = found.agents
    return agent


def problem(unit: str, name: str = "coder-2") -> str:
    system = FakeSystem()
    system.put(f"{FOLDER}/swarmbus-{name}.service", unit)
    found = recognise(system, LAYOUT)
    assert found.agents == ()
    return found.problems[Path(FOLDER) / f"swarmbus-{name}.service"]


def service(*lines: str) -> str:
    return "\n".join(["[Service]", *lines, ""])


def test_the_unit_of_its_installer() -> None:
    agent = one(UNIT)
    assert agent.id == "coder-2"
    assert agent.command.options == {
        "agent_id": "coder-2",
        "broker": "localhost",
        "inbox": "/home/pi/sync/coder-2-inbox.md",
        "invoke": "/usr/bin/env wake coder-2",
    }
    assert (agent.command.port, agent.command.persistent) == (1883, True)
    assert agent.outbox == "/home/pi/sync/coder-2-outbox.md"
    assert agent.log == "/home/pi/logs/swarmbus-coder-2.log"
    assert (agent.kept, agent.drop_ins, agent.torn, agent.password) == ((), (), False, None)


def test_a_unit_that_lost_its_arguments() -> None:
    agent = one(TORN)
    assert agent.torn
    assert (agent.id, agent.command.broker) == ("coder-2", "100.101.102.103")
    assert agent.command.options["inbox"] == "/home/pi/sync/coder-2-inbox.md"


def test_the_unit_of_its_documentation() -> None:
    agent = one(BY_DOCUMENTATION, "laptop")
    assert (agent.command.broker, agent.command.port) == ("mqtt.example.com", 8883)
    assert agent.command.options["inbox"] == "/home/pi/sync/laptop-inbox.md"
    assert (agent.credentials, agent.password) == ({"username": "laptop", "tls": True}, "hunter2")
    assert agent.unit.secret
    assert agent.kept == ()


def test_the_drop_in_with_the_credentials() -> None:
    agent = one(UNIT, auth=AUTH)
    assert agent.credentials == {"username": "coder", "ca_cert": "/etc/ssl/own.pem"}
    assert agent.password == "hunter2"
    assert [drop_in.path.name for drop_in in agent.drop_ins] == ["auth.conf"]
    assert "hunter2" not in repr(agent)


def test_the_command_line_wins_over_the_environment() -> None:
    agent = one(UNIT.replace("--broker", "--username me --password=other --no-tls --broker"), auth=AUTH)
    assert (agent.credentials["username"], agent.credentials["tls"], agent.password) == ("me", False, "other")


def test_a_later_drop_in_wins_and_an_empty_line_forgets() -> None:
    again = service(
        "ExecStart=", "ExecStart=-/opt/swarmbus start --agent-id=coder-2 --port 1884 --no-persistent"
    )
    agent = one(UNIT, override=again, zz=service("MemoryMax=1G"))
    assert (agent.command.port, agent.command.persistent) == (1884, False)
    assert [drop_in.path.name for drop_in in agent.drop_ins] == ["override.conf"], "the other one may stay"


def test_what_ours_does_not_say_is_kept() -> None:
    text = UNIT.replace(
        "Type=simple", 'Type=simple\nEnvironment="KEY=a b" SWARMBUS_AGENT_ID=coder-2\nMemoryMax=1G'
    )
    text = text.replace("After=network.target", "After=network.target tunnel.service")
    assert one(text, auth=AUTH + "Nice=5\n").kept == (
        ("Unit", "After=tunnel.service"),
        ("Service", 'Environment="KEY=a b"'),
        ("Service", "MemoryMax=1G"),
        ("Service", "Nice=5"),
    )


def test_an_environment_file() -> None:
    system = FakeSystem()
    system.put(f"{FOLDER}/swarmbus-coder-2.service", UNIT + service("EnvironmentFile=-%h/own.env"))
    system.put(
        "/home/pi/own.env", "# mine\nSWARMBUS_BROKER_PASSWORD='hunter 2'\nSWARMBUS_BROKER_USERNAME=u\n"
    )
    (agent,) = recognise(system, LAYOUT).agents
    assert (agent.password, agent.credentials) == ("hunter 2", {"username": "u"})
    assert agent.kept == (("Service", "EnvironmentFile=-%h/own.env"),)


@pytest.mark.parametrize(
    "start",
    [
        "swarmbus start",
        "/x/bin/python /x/bin/swarmbus start",
        "/usr/bin/python3 -m swarmbus.cli start",
        "@/x/bin/swarmbus swarmbus start",
        "${HOME}/bin/swarmbus start",
    ],
)
def test_ways_of_starting_it(start: str) -> None:
    agent = one(service(f"ExecStart={start} --agent-id $WHO", "Environment=WHO=coder-2"))
    assert agent.id == "coder-2"


@pytest.mark.parametrize(
    "unit",
    [
        "# written by swarmbus 1.0.0; not for editing\n" + UNIT,
        service("ExecStart=/bin/true"),
        service("ExecStart=/x/swarmbus mcp-server --agent-id coder-2"),
        service("ExecStart=/x/not-swarmbus start"),
        "",
    ],
)
def test_what_is_none(unit: str) -> None:
    system = FakeSystem()
    system.put(f"{FOLDER}/swarmbus-coder-2.service", unit)
    found = recognise(system, LAYOUT)
    assert (found.agents, found.problems) == ((), {})


@pytest.mark.parametrize(
    ("unit", "says"),
    [
        (service("ExecStart=/x/swarmbus start --agent-id other"), "give the unit that name"),
        (service("ExecStart=/x/swarmbus start --frobnicate"), "'--frobnicate'"),
        (service("ExecStart=/x/swarmbus start --inbox %Z/x"), "%Z"),
        (service('ExecStart=/x/swarmbus start --inbox "x'), "quote"),
        (service("ExecStart=/x/swarmbus start --port mqtt"), "'mqtt'"),
        (service("ExecStart=/x/swarmbus start", "ExecStart=/x/swarmbus start"), "2 times"),
    ],
)
def test_what_is_not_understood_is_said(unit: str, says: str) -> None:
    assert says in problem(unit)


def _running(system: FakeSystem, pid: int, argv: str, cgroup: str = "/user.slice/session-1.scope") -> None:
    system.put(f"/proc/{pid}/cgroup", f"0::{cgroup}\n")
    system.processes[pid] = ProcessSeen(pid, 1, tuple(argv.split()), 1000)


def test_a_listener_started_by_hand() -> None:
    system = FakeSystem()
    unit = "/user.slice/user-1000.slice/user@1000.service/app.slice/swarmbus-coder-2.service"
    _running(system, 41, "/x/python /x/swarmbus start --agent-id planner --inbox /home/pi/i.md")
    _running(system, 42, "/x/python /x/swarmbus start --agent-id coder-2", unit)
    _running(system, 43, "/x/python /x/swarmbus mcp-server --agent-id coder-2")
    _running(system, 44, "/x/python -I -m swarmbus start --agent-id ours")
    _running(system, 45, "vi swarmbus start")
    _running(system, 46, "/x/python /x/swarmbus start --agent-id mine")
    system.held[LAYOUT.agent_dir("mine") / "listener.lock"] = b'{"pid": 46, "role": "listener"}'
    found = recognise(system, LAYOUT).by_hand
    assert [(process.pid, process.what, process.command.agent_id) for process in found] == [
        (41, "start", "planner"),
        (43, "mcp-server", "coder-2"),
    ]


def test_the_entry_in_the_settings_of_claude_code() -> None:
    system = FakeSystem()
    assert recognise(system, LAYOUT).claude is None
    entry = {"command": "swarmbus", "args": ["mcp-server", "--agent-id", "coder-2", "--broker", "x"]}
    path = "/home/pi/.claude/settings.json"
    system.put(path, json.dumps({"mcpServers": {"swarmbus": entry}}))
    claude = recognise(system, LAYOUT).claude
    assert claude is not None
    assert (claude.agent_id, claude.secret, claude.problem) == ("coder-2", False, None)
    system.put(path, '{"mcpServers": {"swarmbus": {}},}')
    claude = recognise(system, LAYOUT).claude
    assert claude is not None
    assert claude.problem


def test_messages_of_its_mcp_server(tmp_path: Path) -> None:
    system, path = FakeSystem(), Path("/home/pi/.local/state/swarmbus/coder-2.sqlite3")
    assert unread_by_mcp(system, path) == 0
    system.put(str(path), "no database")
    assert unread_by_mcp(system, path) == 0
    with sqlite3.connect(tmp_path / "x") as database:
        database.execute("CREATE TABLE inbox_messages (id TEXT, acknowledged_at TEXT)")
        database.execute("INSERT INTO inbox_messages VALUES ('1', NULL), ('2', 'then'), ('3', NULL)")
    database.close()
    system.files[path].data = (tmp_path / "x").read_bytes()
    assert unread_by_mcp(system, path) == 2


@pytest.mark.parametrize(
    ("value", "words"),
    [
        # systemd.service(5), "Command lines", and systemd.syntax(7), "Quoting"
        ("a  b\tc", ["a", "b", "c"]),
        ("'a b' \"c 'd'\" e'f g'h", ["a b", "c 'd'", "ef gh"]),
        (r"a\x20b \101 \u00fc c\sd", ["a b", "A", "ü", "c d"]),
        (r"a\"b 'it\'s' C:\Programs", ['a"b', "it's", r"C:\Programs"]),
        ("'' x", ["", "x"]),
        ("", []),
    ],
)
def test_words(value: str, words: list[str]) -> None:
    assert split_words(value) == words


def test_an_open_quote() -> None:
    with pytest.raises(NotUnderstoodError):
        split_words("'a")
