"""The doctor on a real broker and a real listener: well, and then broken, one thing at a time."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from swarmbus import control, topics
from swarmbus.broker import Broker as Address
from swarmbus.bus import AgentBus
from swarmbus.config import load_settings
from swarmbus.connection import Connection
from swarmbus.errors import NoSubscriber
from swarmbus.mailbox import Mailbox
from swarmbus.paths import agent_dir, lock_path, mailbox_path, socket_path
from swarmbus.provision.canary import HOPS, canary
from swarmbus.provision.doctor import Report, Result, run_doctor
from swarmbus.provision.local_system import LocalSystem
from swarmbus.provision.mailbox_look import look_into_mailbox
from tests.conftest import MakeBroker
from tests.lab.listener import Listener
from tests.lab.mosquitto import Broker

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def command_on_the_path(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[None]:
    """So that a fix can be typed as it is printed; what it has started ends with the test."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    yield
    with suppress(OSError, ValueError, KeyError):
        pid = json.loads(lock_path("coder").read_bytes())["pid"]
        if f"HOME={home}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def listener(broker: Broker, home: Path) -> Iterator[Listener]:
    with Listener("coder", broker) as listener:
        yield listener


def _doctor(broker: Broker, **more: object) -> Report:
    settings = load_settings({"agent_id": "coder", "broker": broker.host, "port": broker.port, **more})
    return run_doctor(LocalSystem(), settings, agent_ids=["coder"])


def _bad(report: Report) -> list[tuple[str, str]]:
    return [
        (one.check.code, str(one.status)) for one in report.results if one.status in ("warn", "fail", "crash")
    ]


def _of(report: Report, code: str) -> Result:
    return next(result for result in report.results if result.check.code == code)


def _type(command: str, listener: Listener | None = None) -> None:
    """Run a fix as a person would, and reap our child if it is that which the fix ends."""
    assert subprocess.run(["bash", "-n", "-c", command]).returncode == 0
    typed = subprocess.Popen(
        ["bash", "-c", command],
        cwd=os.environ["HOME"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 40
    while typed.poll() is None and time.monotonic() < deadline:
        _ = listener is not None and listener.running  # asking reaps it
        time.sleep(0.02)
    typed.kill()
    _, said = typed.communicate()
    assert typed.returncode == 0, f"{command}\n{said}"


def _publish(broker: Broker, topic: str, payload: str, *, retain: bool = False) -> None:
    async def publish() -> None:
        address = Address(broker.host, broker.port)
        async with await Connection.open(address, client_id="test") as connection:
            await connection.publish(topic, payload, retain=retain)

    asyncio.run(publish())


def _wait(until: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not until():
        assert time.monotonic() < deadline, "not so after 10 s"
        time.sleep(0.02)


def _tree(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """All files with mode, time and content; of the log's shared-memory index only that it is there."""
    return {
        str(path.relative_to(folder)): (seen.st_mode, seen.st_mtime_ns, seen.st_size, path.read_bytes())
        if path.is_file() and not path.name.endswith("-shm")
        else (seen.st_mode, 0, 0, b"")
        for path in sorted(folder.rglob("*"))
        if (seen := path.stat())
    }


def test_on_a_healthy_host_all_is_well_and_quick(broker: Broker, listener: Listener) -> None:
    report = _doctor(broker)
    assert _bad(report) == []
    assert report.exit_status == 0
    assert report.summary["ok"] >= 17
    assert report.seconds < 2
    assert list(_of(report, "mqtt.canary").evidence) == [f"{hop}_ms" for hop in HOPS]


def test_the_canary_leaves_nothing_behind(broker: Broker, listener: Listener, home: Path) -> None:
    assert _of(_doctor(broker), "mqtt.canary").status == "ok"
    inbox = home / "sync/coder-inbox.md"
    assert not inbox.exists() or inbox.read_text() == ""
    with Mailbox.open(mailbox_path("coder")) as mailbox:
        assert mailbox.take("onlooker", 10) == []
        assert mailbox.quarantine.count() == 0
        _wait(lambda: mailbox._connection.execute("SELECT count(*) FROM canaries").fetchone() == (0,))


@pytest.mark.parametrize("running", [True, False])
def test_no_check_changes_a_file(broker: Broker, listener: Listener, home: Path, running: bool) -> None:
    skip = ["mqtt.canary"]  # a message, which the listener itself stores and forgets
    if not running:
        listener.terminate()
    settings = load_settings({"agent_id": "coder", "broker": broker.host, "port": broker.port})
    before = _tree(home)
    run_doctor(LocalSystem(), settings, agent_ids=["coder"], skip=skip)
    assert _tree(home) == before


def test_without_an_agent_id_running_agents_are_found(broker: Broker, listener: Listener, home: Path) -> None:
    settings = load_settings({"broker": broker.host, "port": broker.port})
    with Mailbox.open(mailbox_path("only-sends")):
        pass
    assert run_doctor(LocalSystem(), settings).agents == ("coder",)


def test_a_stopped_listener_is_found_by_the_canary_which_names_the_hop(
    broker: Broker, listener: Listener
) -> None:
    os.kill(listener.pid, signal.SIGSTOP)
    report = _doctor(broker)
    assert _bad(report) == [("mqtt.canary", "fail")]
    result = _of(report, "mqtt.canary")
    assert result.evidence["failed"] == "listener"
    assert "stopped by a signal" in result.message
    _type(result.fix[0])
    assert _bad(_doctor(broker)) == []


def test_a_killed_listener_is_found_and_the_fix_starts_one(broker: Broker, listener: Listener) -> None:
    listener.kill()
    report = _doctor(broker)
    assert _bad(report) == [("agent.listener-running", "fail")]
    _type(_of(report, "agent.listener-running").fix[0])
    assert _bad(_doctor(broker)) == []


def test_a_stopped_broker_is_told_once(broker: Broker, listener: Listener) -> None:
    broker.terminate()
    report = _doctor(broker)
    assert _bad(report) == [("broker.running", "fail")]
    assert _of(report, "mqtt.canary").because == "broker.running"
    assert report.exit_status == 1


def test_a_hanging_broker_is_not_one_that_is_away(broker: Broker, listener: Listener) -> None:
    broker.pause()
    try:
        assert _bad(_doctor(broker)) == [("mqtt.connect", "fail")]
    finally:
        broker.resume()


def test_refused_credentials_are_told_apart(
    make_broker: MakeBroker, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)
    subprocess.run(
        ["mosquitto_passwd", "-b", str(passwords), "coder", "right"], check=True, capture_output=True
    )
    broker = make_broker("allow_anonymous false", f"password_file {passwords}")
    monkeypatch.setenv("SWARMBUS_BROKER_USERNAME", "coder")
    monkeypatch.setenv("SWARMBUS_BROKER_PASSWORD", "right")
    with Listener("coder", broker):
        assert _bad(_doctor(broker)) == []
        monkeypatch.setenv("SWARMBUS_BROKER_PASSWORD", "wrong")
        report = _doctor(broker)
        assert _bad(report) == [("mqtt.connect", "fail")]
        assert "wrong user name or password" in _of(report, "mqtt.connect").message
        monkeypatch.delenv("SWARMBUS_BROKER_USERNAME")
        monkeypatch.delenv("SWARMBUS_BROKER_PASSWORD")
        assert "it wants some" in _of(_doctor(broker), "mqtt.connect").message


def test_a_listener_that_runs_other_code_is_stale_until_it_is_restarted(
    broker: Broker, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "older"
    shutil.copytree(CHECKOUT / "swarmbus", copy / "swarmbus", ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "swarmbus/topics.py").open("a") as topics_file:
        topics_file.write("# as it was before the upgrade\n")
    monkeypatch.chdir(copy)  # python -m looks here first
    with Listener("coder", broker) as listener:
        monkeypatch.chdir(home)
        report = _doctor(broker)
        assert _bad(report) == [("code.stale-daemon", "fail")]
        _type(_of(report, "code.stale-daemon").fix[0], listener)
        assert _bad(_doctor(broker)) == []


def test_an_inbox_that_cannot_be_made_is_found(broker: Broker, listener: Listener, home: Path) -> None:
    shutil.rmtree(home / "sync")
    (home / "sync").write_text("in the way")
    report = _doctor(broker)
    assert _bad(report) == [("agent.inbox-writable", "fail")]
    _type(_of(report, "agent.inbox-writable").fix[0])
    assert _bad(_doctor(broker)) == []
    assert (home / "sync.aside").read_text() == "in the way"


def test_what_could_not_be_read_is_a_warning_until_it_is_dropped(broker: Broker, listener: Listener) -> None:
    _publish(broker, topics.inbox("coder"), "not an envelope")
    _wait(lambda: control.request("coder", {"op": "status"})["quarantined"])
    report = _doctor(broker)
    assert _bad(report) == [("agent.quarantine", "warn")]
    assert report.exit_status == 0
    for command in _of(report, "agent.quarantine").fix:
        _type(command)
    assert _bad(_doctor(broker)) == []


def test_a_message_to_nobody_is_a_warning_until_it_is_dropped(broker: Broker, listener: Listener) -> None:
    with pytest.raises(NoSubscriber):
        asyncio.run(AgentBus("coder", broker.host, broker.port).send("ghost", "s", "b"))
    # The sender is told before the failure is committed.
    _wait(
        lambda: (
            [one.state for one in look_into_mailbox(mailbox_path("coder")).undelivered] == ["no-subscriber"]
        )
    )
    report = _doctor(broker)
    assert _bad(report) == [("agent.outbound-stuck", "warn")]
    for command in _of(report, "agent.outbound-stuck").fix:
        _type(command)
    assert _bad(_doctor(broker)) == []


def test_a_wake_command_that_is_not_there_is_found_before_a_message_comes(broker: Broker, home: Path) -> None:
    with Listener("coder", broker, "--invoke=wake-the-coder now"):
        report = _doctor(broker)
        assert _bad(report) == [("agent.invoke-runnable", "fail")]
        assert _of(report, "agent.invoke-runnable").evidence["PATH"] == os.environ["PATH"]


def test_a_wake_command_that_may_not_be_run_is_mended_by_the_fix(broker: Broker, home: Path) -> None:
    wake = home / "wake me"
    wake.write_text("#!/bin/sh\n")
    with Listener("coder", broker, f"--invoke={shlex.quote(str(wake))}"):
        report = _doctor(broker)
        assert _bad(report) == [("agent.invoke-runnable", "fail")]
        _type(_of(report, "agent.invoke-runnable").fix[0])
        assert _bad(_doctor(broker)) == []


def test_a_wake_command_that_fails_is_a_warning(broker: Broker, home: Path) -> None:
    with Listener("coder", broker, "--invoke=false"):
        asyncio.run(AgentBus("planner", broker.host, broker.port).send("coder", "s", "b", priority="high"))
        _wait(lambda: _handler("invoke")["attempts"])
        assert _bad(_doctor(broker)) == [("agent.wake-failing", "warn")]


def test_presence_of_another_listener_is_told(broker: Broker, listener: Listener) -> None:
    other = {"agent": "coder", "status": "online", "instance": "another", "host": "pi9"}
    _publish(broker, topics.presence("coder"), json.dumps(other), retain=True)
    report = _doctor(broker)
    assert _bad(report) == [("agent.presence", "fail")]
    assert "on pi9" in _of(report, "agent.presence").message
    _type(_of(report, "agent.presence").fix[0], listener)
    assert _bad(_doctor(broker)) == []


def test_a_removed_control_socket_is_told(broker: Broker, listener: Listener) -> None:
    socket_path("coder").unlink()
    report = _doctor(broker)
    assert _bad(report) == [("agent.control-socket", "fail")]
    _type(_of(report, "agent.control-socket").fix[0], listener)
    assert _bad(_doctor(broker)) == []


def test_a_damaged_mailbox_is_why_no_listener_runs(broker: Broker, listener: Listener) -> None:
    listener.kill()
    for file in agent_dir("coder").glob("mailbox.db*"):
        file.unlink()
    mailbox_path("coder").write_bytes(b"damaged" * 1000)
    report = _doctor(broker)
    assert _bad(report) == [("agent.mailbox", "fail")]
    assert _of(report, "agent.listener-running").because == "agent.mailbox"
    _type(_of(report, "agent.mailbox").fix[0])
    listener.start()
    assert _bad(_doctor(broker)) == []


def test_the_command_prints_json_and_says_by_its_status_what_it_found(
    broker: Broker, listener: Listener
) -> None:
    def call(*words: str) -> tuple[int, str]:
        where = [f"--broker={broker.host}", f"--port={broker.port}", "--agent-id=coder"]
        ran = subprocess.run(["swarmbus", "doctor", *where, *words], capture_output=True, text=True)
        return ran.returncode, ran.stdout

    status, printed = call("--json")
    assert status == 0
    assert json.loads(printed)["schema"] == "swarmbus.doctor/1"
    listener.kill()
    status, printed = call("--only=agent.listener-running")
    assert status == 1
    assert "no listener of coder runs" in printed
    assert call("--skip=agent", "--skip=mqtt,code")[0] == 0
    assert call("--only=agent.listner-running")[0] == 2
    status, printed = call("--explain", "mqtt.canary")
    assert (status, printed.splitlines()[0]) == (0, "# mqtt.canary: a message comes through")


def test_a_canary_waits_for_a_listener_that_is_only_just_starting(broker: Broker, home: Path) -> None:
    settings = load_settings({"agent_id": "coder", "broker": broker.host, "port": broker.port})
    result = canary(settings)
    assert (result.failed, result.retry) == ("listener", True)
    late = (
        f"sleep 1; exec swarmbus start --agent-id coder --broker {broker.host} --port {broker.port} --detach"
    )
    with subprocess.Popen(["sh", "-c", late], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        result = canary(settings, patience=20.0)
    assert result.ok, result.summary
    assert list(result.hops) == list(HOPS)


def test_a_canary_without_a_broker_fails_at_the_first_hop(broker: Broker, home: Path) -> None:
    broker.terminate()
    result = canary(load_settings({"agent_id": "coder", "broker": broker.host, "port": broker.port}))
    assert (result.ok, result.failed, dict(result.hops)) == (False, "connect", {})


def _handler(name: str) -> dict[str, object]:
    handlers = control.request("coder", {"op": "status"})["handlers"]
    found: dict[str, object] = next(handler for handler in handlers if handler["name"] == name)
    return found
