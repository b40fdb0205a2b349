"""Whole installations on a sandbox taken away again: what goes, what comes back, and what is somebody's."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from swarmbus.config import Settings
from swarmbus.errors import BrokerUnreachable, Conflict, ExitStatus, UsageError
from swarmbus.provision.carry_out import carry_out
from swarmbus.provision.environments import Kept
from swarmbus.provision.goodbye import Goodbye
from swarmbus.provision.installation import Installation
from swarmbus.provision.outcome import GateReport, Outcome, Prepared
from swarmbus.provision.prepare import prepare
from swarmbus.provision.resources.base import Verb
from swarmbus.provision.root import RootStepsNeeded
from swarmbus.provision.spec import InstallSpec
from swarmbus.provision.system import Result, RootAccess
from swarmbus.provision.uninstall import prepare_uninstall
from swarmbus.provision.upgrade_record import Record, save
from tests.provision.installing import LAYOUT, Remembering, inspector
from tests.provision.machine import Machine, bare_debian
from tests.provision.sandbox import Sandbox, tree

CONFIG = LAYOUT.config
UNIT = LAYOUT.units / "swarmbus-planner.service"
CONF_D = Path("/etc/mosquitto/conf.d")
OUR_FILE = CONF_D / "50-swarmbus.conf"
INBOX = Path("/home/pi/sync/planner-inbox.md")


class Host:
    """One sandbox and its machine, over several runs."""

    def __init__(self, root: Path, kind: type[Sandbox] = Sandbox) -> None:
        self.root = root
        self.kind = kind
        self.machine = Machine()
        root.mkdir()
        bare_debian(self.system())
        self.system().run_program(("apt-get", "update"), root=True)
        self.write(Path("/run/user") / str(self.system().user.uid) / "bus", "", mode=0o600)

    def system(self) -> Sandbox:
        return self.kind(self.root, self.machine)

    def init(self, **flags: Any) -> None:
        outcome = carry_out(prepare(self.system(), flags, layout=LAYOUT, inspector=inspector()))
        assert not outcome.failed, outcome.error

    def plan(self, *agents: str, **more: Any) -> Prepared:
        prepared = self.look(*agents, **more)
        assert prepared is not None
        return prepared

    def look(self, *agents: str, **more: Any) -> Prepared | None:
        return prepare_uninstall(self.system(), agents, layout=LAYOUT, inspector=inspector(), **more)

    def uninstall(self, *agents: str, **more: Any) -> Outcome:
        outcome = carry_out(self.plan(*agents, **more))
        assert not outcome.failed, outcome.error
        return outcome

    def at(self, path: Path) -> Path:
        return self.root / path.relative_to("/")

    def read(self, path: Path) -> str:
        return self.at(path).read_text()

    def write(self, path: Path, text: str, mode: int = 0o644) -> None:
        self.at(path).parent.mkdir(parents=True, exist_ok=True)
        self.at(path).write_text(text)
        self.at(path).chmod(mode)

    def tree(self) -> dict[str, tuple[str, str]]:
        """What is there; dpkg's list without the trace of what was removed."""
        found = tree(self.root)
        machine = json.loads(found.pop("machine.json", ("", "{}"))[1])
        units = {
            name: (unit["active"], unit["enabled"])
            for name, unit in machine.get("units", {}).items()
            if unit["active"] or unit["enabled"]
        }
        return {**found, "units": ("", json.dumps(units, sort_keys=True))}

    def unit(self, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.machine.state(self.system())["units"][name]
        return found

    def installs(self, package: str) -> None:
        assert self.system().run_program(("apt-get", "install", package), root=True).ok
        self.machine.log.clear()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "root")


def _verbs(what: Prepared) -> dict[str, Verb]:
    return {action.resource.id: action.verb for action in what.plan.actions}


def _receives(host: Host, agent: str = "planner") -> None:
    """What a listener leaves: a mailbox, its lock and socket, an inbox file, a reader's place."""
    for name in ("mailbox.db", "mailbox.db-wal", "listener.lock", "control.sock"):
        host.write(LAYOUT.agent_dir(agent) / name, "", mode=0o600)
    host.write(Path(f"/home/pi/sync/{agent}-inbox.md"), "## [2026-11-25 12:00] From: coder | hello\n")
    host.write(Path(f"/home/pi/.swarmbus/cursors/{agent}--default.cursor"), "12 34")


def test_a_bare_host_is_bare_again(host: Host) -> None:
    before = host.tree()
    host.init(agent_id="planner")
    assert host.tree() != before
    outcome = host.uninstall("planner")
    assert (outcome.changed, outcome.exit_status) == (True, ExitStatus.DONE)
    assert host.tree() == before
    assert not host.look(everything=True)


def test_several_runs_of_init_are_taken_back_as_one(host: Host) -> None:
    host.write(CONFIG, '# mine\nusername = "pi"  # and mine\n', mode=0o644)
    before = host.tree()
    host.init(agent_id="planner", invoke="cat -n")
    host.init(agent_id=["coder", "reviewer"], port=1885)
    host.init(agent_id="coder", invoke="cat")
    host.uninstall(everything=True)
    assert host.tree() == before


def test_linger_that_was_there_before_stays(host: Host) -> None:
    host.write(Path("/var/lib/systemd/linger/pi"), "")
    before = host.tree()
    host.init(agent_id="planner")
    assert "linger:pi" not in _verbs(host.plan(everything=True))
    host.uninstall(everything=True)
    assert host.tree() == before


def test_linger_goes_after_all_that_needs_the_users_systemd(host: Host) -> None:
    host.init(agent_id="planner")
    told = Remembering()
    carry_out(host.plan(everything=True), observer=told)
    done = told.stages("done")
    assert done[-1] == "linger:pi"
    assert done.index("unit:user:swarmbus-planner.service") < done.index("user:daemon-reload")
    assert "user:restart:swarmbus-planner.service" not in done
    assert [event.title for event in told.events if event.step == f"file:{UNIT}"][-1] == f"remove {UNIT}"


def test_a_mosquitto_that_was_there_before_goes_on_without_our_file(host: Host) -> None:
    host.installs("mosquitto")
    host.write(CONF_D / "own.conf", "listener 1883\n")
    before = host.tree()
    host.init(agent_id="planner")
    outcome = host.uninstall(everything=True)
    assert "system:restart:mosquitto.service" in outcome.handlers
    assert host.unit("system:mosquitto.service")["read"] == "listener 1883\n"
    assert host.tree() == before


def test_messages_stay_and_it_is_said_where(host: Host) -> None:
    before = host.tree()
    host.init(agent_id="planner")
    _receives(host)
    outcome = host.uninstall(everything=True)
    folder = LAYOUT.agent_dir("planner")
    of_the_user = ("home/pi/.local", "home/pi/sync", "home/pi/.swarmbus")
    assert {name for name in set(host.tree()) - set(before) if not name.startswith(of_the_user)} == set()
    assert host.at(folder / "mailbox.db").exists()
    assert not host.at(LAYOUT.provision).exists()
    assert f"{folder} stays, with the messages of planner; --purge deletes it" in outcome.notes
    assert f"{INBOX} stays: it is yours" in outcome.notes


def test_purge_takes_messages_too_and_leaves_what_is_not_ours(host: Host) -> None:
    before = host.tree()
    host.init(agent_id="planner")
    _receives(host)
    _receives(host, "sender")  # an agent that only ever sent
    notes = host.plan(everything=True, purge=True).plan.notes
    assert f"deleted for good: what planner has in {LAYOUT.agent_dir('planner')}" in notes
    host.write(LAYOUT.agent_dir("sender") / "notes.txt", "mine")
    host.write(LAYOUT.state / "planner.sqlite3", "of the MCP server of swarmbus-py")
    host.uninstall(everything=True, purge=True)
    left = {name: value for name, value in host.tree().items() if name not in before}
    state = str(LAYOUT.state.relative_to("/"))
    assert set(left) - {"home/pi/.local", "home/pi/.local/state", state, "home/pi/sync"} == {
        f"{state}/sender",
        f"{state}/sender/notes.txt",
        f"{state}/planner.sqlite3",
        "home/pi/sync/planner-inbox.md",
        "home/pi/sync/sender-inbox.md",
    }


def test_inbox_files_of_an_account_of_ours_are_messages_like_any(host: Host) -> None:
    host.init(agent_id="planner")
    _receives(host)
    assert host.plan(everything=True, nobodys=True).plan.notes[-1] == f"{INBOX} stays: it is yours"
    host.uninstall(everything=True, purge=True, nobodys=True)
    assert not host.at(INBOX.parent).exists()


def test_inbox_files_of_an_account_of_ours_go_with_messages_that_stayed(host: Host) -> None:
    host.init(agent_id="planner")
    _receives(host)
    host.uninstall(everything=True, nobodys=True)
    assert host.at(INBOX).exists()
    host.uninstall(everything=True, purge=True, nobodys=True)
    assert not host.at(INBOX.parent).exists()


def test_one_of_two_agents_stays_where_the_other_could_not_read_its_settings(host: Host) -> None:
    host.init(agent_id=["planner", "coder"])
    host.write(CONFIG, host.read(CONFIG) + "broken = [\n")
    before = host.tree()
    with pytest.raises(Conflict, match="cannot be parsed, and the agents that stay need it"):
        host.look("coder")
    assert host.tree() == before
    host.uninstall(everything=True)


def test_purge_of_one_agent_leaves_the_messages_of_the_other(host: Host) -> None:
    host.init(agent_id=["planner", "coder"])
    for agent in ("planner", "coder"):
        _receives(host, agent)
    host.uninstall("planner", purge=True)
    assert not host.at(LAYOUT.agent_dir("planner")).exists()
    assert host.at(LAYOUT.agent_dir("coder") / "mailbox.db").exists()
    assert host.at(Path("/home/pi/.swarmbus/cursors/coder--default.cursor")).exists()
    assert not host.at(Path("/home/pi/.swarmbus/cursors/planner--default.cursor")).exists()


def test_messages_that_stayed_can_be_purged_afterwards(host: Host) -> None:
    host.init(agent_id="planner")
    _receives(host)
    host.uninstall(everything=True)
    assert host.look(everything=True) is None
    host.uninstall(everything=True, purge=True)
    assert not host.at(LAYOUT.state).exists()


def test_a_mailbox_in_use_is_not_deleted(host: Host) -> None:
    host.init(agent_id="planner")
    _receives(host)
    with host.at(LAYOUT.agent_dir("planner") / "listener.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        outcome = host.uninstall(everything=True, purge=True)
    assert host.at(LAYOUT.agent_dir("planner") / "mailbox.db").exists()
    assert any("something of planner still runs" in note for note in outcome.notes)


def test_what_was_edited_stays_and_is_named(host: Host) -> None:
    host.init(agent_id="planner")
    edited = host.read(UNIT) + "# mine\n"
    host.write(UNIT, edited)
    host.write(CONFIG, host.read(CONFIG).replace("port = 1883", "port = 1884"))
    outcome = host.uninstall(everything=True)
    assert host.read(UNIT) == edited
    assert host.read(CONFIG).strip() == "port = 1884"
    for name in (f"file:{UNIT}", f"toml:{CONFIG}:port"):
        assert f"{name} is not wanted any more, but was changed since; it stays" in outcome.notes
    assert not host.unit("user:swarmbus-planner.service")["active"]


def test_config_keeps_what_the_user_has_written_into_it(host: Host) -> None:
    host.write(CONFIG, '# mine\nusername = "pi"\n', mode=0o644)
    host.init(agent_id=["planner", "coder"])
    text = host.read(CONFIG)
    host.write(CONFIG, f"# first line\n{text}inbox_keep = 9\n")
    host.uninstall("coder")
    host.uninstall("planner")
    left = host.read(CONFIG)
    assert "# first line\n# mine\n" in left
    assert "inbox_keep = 9" in left
    for key in ("broker", "port", "agent_id", "inbox ="):
        assert key not in left


def test_what_init_laid_beside_a_file_goes(host: Host) -> None:
    host.init(agent_id="planner")
    host.write(UNIT, host.read(UNIT) + "# mine\n")
    newer = prepare(host.system(), {}, layout=LAYOUT, inspector=inspector(python="/opt/new/bin/python"))
    carry_out(newer)
    beside = UNIT.with_name(f"{UNIT.name}.swarmbus-new")
    assert host.at(beside).exists()
    host.uninstall("planner")
    assert not host.at(beside).exists()
    assert host.at(UNIT).exists()


def test_one_of_two_agents_goes_and_the_other_does_not_notice(host: Host) -> None:
    host.init(agent_id="coder")
    before = host.tree()
    host.init(agent_id="planner", invoke="cat")
    host.machine.log.clear()
    what = host.plan("planner")
    assert {action.resource.group for action in what.plan.changes} == {"agent:planner"}
    outcome = carry_out(what, gate=lambda _: GateReport(ok=True, summary="canary"))
    assert outcome.handlers == ("user:daemon-reload",)
    assert [line for line in host.machine.log if "restart" in line or "coder" in line] == []
    after = {name: value for name, value in host.tree().items() if ".provision" not in name}
    assert after == {name: value for name, value in before.items() if ".provision" not in name}
    again = prepare(host.system(), {}, layout=LAYOUT, inspector=inspector())
    assert ([agent.id for agent in again.spec.agents], again.plan.changed) == (["coder"], False)


def test_the_first_agent_hands_over_what_the_others_share(host: Host) -> None:
    before = host.tree()
    host.init(agent_id=["planner", "coder"])
    assert 'agent_id = "planner"' in host.read(CONFIG)
    host.uninstall("planner")
    assert 'agent_id = "coder"' in host.read(CONFIG)
    assert host.at(Path("/home/pi/sync")).is_dir()
    with pytest.raises(UsageError, match="'planner' is not set up"):
        host.look("planner")
    host.uninstall("coder")
    assert host.tree() == before


def test_when_the_other_agent_does_not_answer_any_more_everything_is_taken_back(host: Host) -> None:
    host.init(agent_id=["planner", "coder"])
    before = tree(host.root, without=[".provision", "machine.json"])
    outcome = carry_out(host.plan("planner"), gate=lambda _: GateReport(ok=False, summary="no answer"))
    assert (outcome.exit_status, outcome.rolled_back) == (ExitStatus.NO, True)
    assert tree(host.root, without=[".provision", "machine.json"]) == before
    assert host.unit("user:swarmbus-planner.service")["active"]
    assert not prepare(host.system(), {}, layout=LAYOUT, inspector=inspector()).plan.changed
    host.uninstall(everything=True)
    assert not host.at(CONFIG).exists()


def test_a_failure_in_the_middle_is_taken_back(tmp_path: Path) -> None:
    class AptFails(Sandbox):
        def run_program(self, argv: tuple[str, ...], *, root: bool) -> Result:
            fails = "purge" in argv and "-s" not in argv
            return super().run_program(("false",) if fails else argv, root=root)

    host = Host(tmp_path / "root")
    host.init(agent_id="planner")
    before = tree(host.root, without=[".provision", "machine.json"])
    host.kind = AptFails
    outcome = carry_out(host.plan(everything=True))
    assert (outcome.exit_status, outcome.rolled_back) == (ExitStatus.NO, True)
    assert tree(host.root, without=[".provision", "machine.json"]) == before
    assert host.unit("user:swarmbus-planner.service")["active"]
    host.kind = Sandbox
    assert not prepare(host.system(), {}, layout=LAYOUT, inspector=inspector()).plan.changed


def test_without_any_way_to_root_nothing_is_begun_and_the_script_says_what_root_would_do(host: Host) -> None:
    class NoSudo(Sandbox):
        def root_access(self) -> RootAccess:
            return "none"

    host.init(agent_id="planner")
    before = host.tree()
    host.kind = NoSudo
    with pytest.raises(RootStepsNeeded) as caught:
        host.uninstall(everything=True)
    assert host.tree() == before
    script = caught.value.script
    assert f"rm -f -- {OUR_FILE}" in script
    assert "purge mosquitto libcjson1" in script
    assert "disable-linger pi" in script
    assert "apt-get -q -y -o DPkg::Lock::Timeout=120 install" not in script
    titles = [line for line in script.splitlines() if line.startswith("echo ")]
    assert len(titles) == 5, titles  # unit, file, package, linger, and that they are done
    assert not (LAYOUT.provision / "handed-out.json").exists()


def test_when_an_administrator_has_done_roots_part_the_user_does_the_rest(host: Host) -> None:
    before = host.tree()
    host.init(agent_id="planner")
    system = host.system()
    system.run_as_root(host.plan(everything=True).plan.root_steps, lambda step: None)

    class NoSudo(Sandbox):
        def root_access(self) -> RootAccess:
            return "none"

    host.kind = NoSudo
    host.uninstall(everything=True)
    assert host.tree() == before


def _connected(host: Host, *rows: str) -> None:
    """Connections as the kernel tells of them: local and remote end, and the user of the local one."""
    lines = ["  sl  local_address rem_address   st"]
    for number, row in enumerate(rows):
        local, remote, uid = row.split()
        lines.append(
            f"   {number}: {local} {remote} 01 00000000:00000000 00:00000000 00000000 {uid} 0 {number} 1"
        )
    host.write(Path("/proc/net/tcp"), "\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("rows", "who"),
    [
        (
            ["0100007F:075B 0100007F:D431 109", "0100007F:D431 0100007F:075B 1001"],
            "a program of user anna",
        ),
        (["0407A8C0:075B 0507A8C0:D431 109"], "192.168.7.5"),
    ],
)
def test_a_mosquitto_to_which_somebody_else_is_connected_stays(host: Host, rows: list[str], who: str) -> None:
    host.write(Path("/etc/passwd"), "anna:x:1001:1001::/home/anna:/bin/sh\n")
    host.init(agent_id="planner")
    _connected(host, *rows)
    outcome = host.uninstall(everything=True)
    assert (
        f"mosquitto stays, for {who} is connected; to remove it: sudo apt-get purge mosquitto"
        in outcome.notes
    )
    assert host.machine.state(host.system())["packages"] == ["libcjson1", "mosquitto"]
    unit = host.unit("system:mosquitto.service")
    assert (unit["active"], unit["enabled"], unit["read"]) == (True, True, "")
    assert not host.at(LAYOUT.provision).exists()


def test_our_file_stays_while_it_has_the_port_of_somebody_else(host: Host) -> None:
    host.installs("mosquitto")
    host.write(CONF_D / "own.conf", "listener 1884\n")
    host.init(agent_id="planner", port=1885)
    _connected(host, "0100007F:075D 0100007F:D431 109", "0100007F:D431 0100007F:075D 1001")
    outcome = host.uninstall(everything=True)
    assert host.at(OUR_FILE).exists()
    assert any(f"{OUR_FILE} stays" in note and "user 1001" in note for note in outcome.notes)


def test_a_mosquitto_that_others_have_set_up_or_need_stays(host: Host) -> None:
    host.init(agent_id="planner")
    host.write(CONF_D / "bridge.conf", "connection hub\n")
    why = "mosquitto stays, for /etc/mosquitto/conf.d/bridge.conf is not ours"
    assert any(note.startswith(why) for note in host.plan(everything=True).plan.notes)
    host.at(CONF_D / "bridge.conf").unlink()
    status = host.read(Path("/var/lib/dpkg/status")).rstrip("\n")
    digest = "0123456789abcdef0123456789abcdef"
    assert status.split("\n\n")[-1].startswith("Package: mosquitto\n")
    host.write(
        Path("/var/lib/dpkg/status"), f"{status}\nConffiles:\n /etc/mosquitto/mosquitto.conf {digest}\n\n"
    )
    notes = host.plan(everything=True).plan.notes
    assert any("/etc/mosquitto/mosquitto.conf was changed" in note for note in notes)


def test_our_own_listeners_are_no_reason_for_mosquitto_to_stay(host: Host) -> None:
    host.init(agent_id="planner")
    uid = host.system().user.uid
    _connected(host, "0100007F:075B 0100007F:D431 109", f"0100007F:D431 0100007F:075B {uid}")
    assert "package:mosquitto" in [
        action.id for action in host.plan(everything=True).plan.changes if action.verb is Verb.DELETE
    ]


@dataclass
class _Broker:
    """A bus that remembers whose presence was cleared, or is not there."""

    cleared: list[tuple[str, int, str | None, str]] = field(default_factory=list)
    there: bool = True

    def clear_presence(self, settings: Settings, agent_id: str) -> None:
        if not self.there:
            raise BrokerUnreachable("cannot reach the broker")
        self.cleared.append((settings.broker, settings.port, settings.password, agent_id))


def _goodbye(bus: Any, settings: Settings) -> Any:
    return lambda agents, kept: Goodbye(bus, dict.fromkeys(agents, settings))


def test_the_presence_of_who_is_gone_is_cleared_at_a_broker_that_stays(host: Host) -> None:
    host.init(agent_id="planner", broker="hub.example.net")
    bus = _Broker()
    goodbye = _goodbye(bus, Settings(broker="hub.example.net", password="x"))
    what = host.plan(everything=True, goodbye=goodbye)
    carry_out(what)
    assert bus.cleared == [("hub.example.net", 1883, "x", "planner")]


def test_a_broker_that_cannot_be_reached_stops_nothing_and_is_said(host: Host) -> None:
    host.init(agent_id="planner", broker="hub.example.net")
    goodbye = _goodbye(_Broker(there=False), Settings(broker="hub.example.net"))
    what = host.plan(everything=True, goodbye=goodbye)
    outcome = carry_out(what)
    assert not outcome.failed
    assert "the presence of planner stays at hub.example.net:1883: cannot reach the broker" in outcome.notes


def test_presence_is_cleared_by_the_port_that_mosquitto_has_without_our_file(host: Host) -> None:
    host.installs("mosquitto")
    host.write(CONF_D / "own.conf", "listener 1884\n")
    host.init(agent_id="planner", port=1885)
    bus = _Broker()
    carry_out(host.plan(everything=True, goodbye=_goodbye(bus, Settings(port=1885))))
    assert bus.cleared == [("localhost", 1884, None, "planner")]


def test_the_settings_for_a_goodbye_are_read_before_they_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: Host
) -> None:
    secret = Path("/home/pi/planner.password")
    host.write(secret, "hunter2\n", mode=0o600)
    config = tmp_path / "config.toml"
    config.write_text(f'[agents.planner]\nusername = "pi"\npassword_file = "{secret}"\n')
    monkeypatch.setenv("SWARMBUS_CONFIG", str(config))
    bus = _Broker()
    said = Goodbye.to(host.system(), bus, ["planner"], InstallSpec(agents=(), broker="hub", port=1999))  # type: ignore[arg-type]
    host.at(secret).unlink()
    assert said(None) == ()
    assert bus.cleared == [("hub", 1999, "hunter2", "planner")]


def test_unclear_and_wrong_calls_are_refused(host: Host) -> None:
    assert host.look(everything=True) is None
    with pytest.raises(UsageError, match="'planner' is not set up on this host") as caught:
        host.look("planner")
    assert caught.value.hint == "here: none"
    host.init(agent_id=["planner", "coder"])
    with pytest.raises(UsageError, match="several agents: planner, coder"):
        host.look()
    with pytest.raises(UsageError, match="'reviewer'") as caught:
        host.look("planner", "reviewer")
    assert caught.value.hint == "here: planner, coder"


def test_an_interrupted_upgrade_comes_first(host: Host) -> None:
    host.init(agent_id="planner")
    here = Installation("venv", Path("/srv/venv"))
    record = Record(here, "swarmbus", ("planner",), Kept(Path("/srv/old")), "20261125120000")
    save(host.system(), LAYOUT, record)
    with pytest.raises(Conflict, match="an upgrade was interrupted"):
        host.look(everything=True)
