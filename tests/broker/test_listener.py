"""The listener daemon as systemd and its peers see it: one of a kind, ready when it says so, hard to lose."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from swarmbus.control import request
from swarmbus.envelope import AgentMessage
from swarmbus.errors import ListenerRunning
from swarmbus.presence import Presence, ask_presence
from tests.broker.agents import (
    Collect,
    address,
    bus_of,
    envelope_json,
    listening,
    publish,
    raw,
    stored,
    subjects,
)
from tests.lab.loop import in_loop, until
from tests.lab.mosquitto import Broker

#: A listener as a process: a handler that takes its time, and says when it begins and ends.
SLOW_DAEMON = """
import asyncio, sys
from pathlib import Path
from swarmbus import AgentBus

class Slow:
    name = "slow"
    async def handle(self, msg):
        with Path(sys.argv[2]).open("a") as file: file.write(f"begin {msg.subject}\\n")
        await asyncio.sleep(1.0)
        with Path(sys.argv[2]).open("a") as file: file.write(f"end {msg.subject}\\n")

bus = AgentBus("coder", "127.0.0.1", int(sys.argv[1]), presence_interval=0.3)
bus.register_handler(Slow())
bus.run()
"""


def daemon(broker: Broker, log: Path, **environment: str) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-c", SLOW_DAEMON, str(broker.port), str(log)]
    return subprocess.Popen(argv, env=os.environ | environment)


async def presence_of(broker: Broker, agent_id: str) -> Presence | None:
    found = await ask_presence(address(broker))
    return next((presence for presence in found if presence.agent == agent_id), None)


async def until_status(broker: Broker, agent_id: str, status: str, *, timeout: float = 10.0) -> Presence:
    give_up = time.monotonic() + timeout
    while True:
        presence = await presence_of(broker, agent_id)
        if presence is not None and presence.status == status:
            return presence
        assert time.monotonic() < give_up, f"{agent_id} is {presence}, not {status}"
        await asyncio.sleep(0.05)


@in_loop
async def test_second_listener_is_refused_with_the_pid_of_the_first(broker: Broker) -> None:
    async with listening(broker, "coder"):
        with pytest.raises(ListenerRunning, match=str(os.getpid())) as refusal:
            await bus_of(broker, "coder").listen()
        assert refusal.value.pid == os.getpid()
        status = await asyncio.to_thread(request, "coder", {"op": "status"})
        assert status["connected"] is True
    async with listening(broker, "coder"):
        pass


@in_loop
async def test_sigterm_lets_a_running_handler_finish_and_says_goodbye(broker: Broker, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = daemon(broker, log)
    try:
        await until_status(broker, "coder", "online")
        await publish(broker, "agents/coder/inbox", envelope_json(subject="one"))
        await publish(broker, "agents/coder/inbox", envelope_json(subject="two"))
        await until(lambda: log.exists() and "begin one" in log.read_text())
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 10) == 0
    finally:
        process.kill()
        process.wait()
    assert log.read_text().splitlines() == ["begin one", "end one"]
    presence = await presence_of(broker, "coder")
    assert presence is not None
    assert presence.status == "offline"
    slow = Collect("slow")
    async with listening(broker, "coder", slow):
        await until(lambda: slow.subjects == ["two"])


@in_loop
async def test_killed_listener_is_offline_by_its_will(broker: Broker, tmp_path: Path) -> None:
    process = daemon(broker, tmp_path / "log")
    try:
        online = await until_status(broker, "coder", "online")
        process.kill()
        offline = await until_status(broker, "coder", "offline")
    finally:
        process.kill()
        process.wait()
    assert online.instance == offline.instance
    assert offline.wire == 1  # its senders go on waiting for receipts


@in_loop
async def test_hanging_listener_becomes_stale(broker: Broker, tmp_path: Path) -> None:
    process = daemon(broker, tmp_path / "log")
    try:
        await until_status(broker, "coder", "online")
        process.send_signal(signal.SIGSTOP)
        await until_status(broker, "coder", "stale", timeout=5)
        process.send_signal(signal.SIGCONT)
        await until_status(broker, "coder", "online", timeout=5)
    finally:
        process.kill()
        process.wait()


@in_loop
async def test_presence_says_who_and_since_when(broker: Broker) -> None:
    async with listening(broker, "coder"), raw(broker, "agents/coder/presence") as (_, arrivals):
        await until(lambda: bool(arrivals))
        said = json.loads(arrivals[0].payload)
        assert arrivals[0].retained
    assert said["agent"] == "coder"
    assert said["status"] == "online"
    assert said["wire"] == 1
    assert said["host"] == socket.gethostname()
    assert {"version", "fingerprint", "instance", "since", "ts", "interval"} <= said.keys()


@in_loop
async def test_systemd_is_told_of_readiness_after_the_subscription(broker: Broker, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(15)
        broker.pause()  # not ready before the broker has answered
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000000"}
        process = daemon(broker, tmp_path / "log", **environment)
        try:
            await asyncio.sleep(1.0)
            channel.setblocking(False)
            said = []
            with pytest.raises(BlockingIOError):
                while True:
                    said.append(channel.recv(4096))
            assert not any(b"READY=1" in one for one in said)
            broker.resume()
            channel.settimeout(15)
            while b"READY=1" not in (one := await asyncio.to_thread(channel.recv, 4096)).splitlines():
                pass
            assert b"STATUS=" in one
            assert await publish(broker, "agents/coder/inbox", envelope_json(subject="subscribed")) == 0
            while b"WATCHDOG=1" not in (await asyncio.to_thread(channel.recv, 4096)).splitlines():
                pass
            process.terminate()
            while b"STOPPING=1" not in (await asyncio.to_thread(channel.recv, 4096)).splitlines():
                pass
        finally:
            process.kill()
            process.wait()
    assert subjects("coder") == ["subscribed"]


@in_loop
async def test_listener_comes_back_by_itself_after_the_broker(broker: Broker) -> None:
    ready: list[object] = []
    collect = Collect()
    bus = bus_of(broker, "coder")
    bus.register_handler(collect)
    listener = asyncio.create_task(bus.listen(on_ready=ready.append))
    await until(lambda: len(ready) == 1)
    for number in range(2):
        broker.kill()
        await asyncio.sleep(0.1)
        assert not listener.done()
        broker.start()
        await until_status(broker, "coder", "online")
        await publish(broker, "agents/coder/inbox", envelope_json(subject=f"after {number}"))
        await until(lambda: len(collect.messages) == number + 1)  # noqa: B023
    assert len(ready) == 1, "on_ready is for the first connection"
    bus.stop()
    await listener
    assert collect.subjects == ["after 0", "after 1"]


@in_loop
async def test_listener_notices_a_broker_that_hangs(broker: Broker) -> None:
    """Its connections stay open, and the keep alive takes its time."""
    bus = bus_of(broker, "coder")
    listener = asyncio.create_task(bus.listen(heartbeat=0.5))
    await until_status(broker, "coder", "online")
    broker.pause()
    give_up = time.monotonic() + 5
    while (status := await asyncio.to_thread(request, "coder", {"op": "status"}))["connected"]:
        assert time.monotonic() < give_up
        await asyncio.sleep(0.05)
    assert "no answer" in status["last_error"]
    broker.resume()
    while not (status := await asyncio.to_thread(request, "coder", {"op": "status"}))["connected"]:
        assert time.monotonic() < give_up + 15
        await asyncio.sleep(0.05)
    assert status["last_error"] is None
    bus.stop()
    await listener


@in_loop
async def test_listener_starts_and_stops_without_a_broker(broker: Broker) -> None:
    broker.kill()
    bus = bus_of(broker, "coder")
    listener = asyncio.create_task(bus.listen())
    await asyncio.sleep(0.3)
    assert not listener.done()
    status = await asyncio.to_thread(request, "coder", {"op": "status"})
    assert status["connected"] is False
    assert str(broker.port) in status["last_error"]
    delivery = await bus.send(to="coder", subject="later", body="")
    assert delivery.state == "queued"
    broker.start()
    await until(lambda: subjects("coder") == ["later"])
    bus.stop()
    await asyncio.wait_for(listener, 5)


@in_loop
async def test_stop_ends_a_listener_at_any_moment(broker: Broker) -> None:
    """Also while it is losing or looking for its broker."""
    for moment in (0.0, 0.01, 0.03, 0.1, 0.3):
        bus = bus_of(broker, "coder")
        listener = asyncio.create_task(bus.listen())
        await asyncio.sleep(moment)
        broker.kill()
        await asyncio.sleep(moment)
        bus.stop()
        await asyncio.wait_for(listener, 6)
        broker.start()


@in_loop
async def test_status_tells_what_doctor_asks(broker: Broker) -> None:
    async with listening(broker, "coder", Collect("first"), Collect("second")):
        await publish(broker, "agents/coder/inbox", envelope_json())
        await publish(broker, "agents/coder/inbox", b"rubbish")
        await until(lambda: bool(stored("coder")))
        status = await asyncio.to_thread(request, "coder", {"op": "status"})
    assert status["agent_id"] == "coder"
    assert status["pid"] == os.getpid()
    assert (status["broker"], status["port"], status["protocol"]) == ("127.0.0.1", broker.port, 5)
    assert (status["connected"], status["last_error"], status["unread"]) == (True, None, 1)
    assert [handler["name"] for handler in status["handlers"]] == ["first", "second"]


@in_loop
async def test_handler_may_send_through_the_listener(broker: Broker) -> None:
    class Answer:
        name = "answer"

        async def handle(self, msg: AgentMessage) -> None:
            await coder.send(
                to=msg.reply_to or msg.from_agent, subject=f"Re: {msg.subject}", body="", wait="stored"
            )

    coder = bus_of(broker, "coder")
    coder.register_handler(Answer())
    listener = asyncio.create_task(coder.listen())
    async with listening(broker, "planner") as planner:
        await until_status(broker, "coder", "online")
        await planner.send(to="coder", subject="question", body="")
        await until(lambda: subjects("planner") == ["Re: question"])
    coder.stop()
    await listener


@in_loop
async def test_one_bad_handler_start_keeps_the_listener_from_starting_and_leaves_nothing(
    broker: Broker,
) -> None:
    class Broken(Collect):
        async def start(self) -> None:
            raise OSError("no such folder")

    with pytest.raises(OSError, match="no such folder"):
        async with listening(broker, "coder", Broken()):
            pass
    async with listening(broker, "coder"):
        pass


@in_loop
async def test_takeover_by_a_second_host_does_not_spin(broker: Broker, tmp_path: Path) -> None:
    """Two hosts with one agent id throw each other out: with growing pauses, and both say so."""
    other = tmp_path / "other host"
    environment = {"SWARMBUS_STATE_DIR": str(other)}
    mark = broker.mark()
    process = daemon(broker, tmp_path / "log", **environment)
    try:
        await until_status(broker, "coder", "online")
        async with listening(broker, "coder"):
            await asyncio.sleep(3)
    finally:
        process.kill()
        process.wait()
    taken = broker.log.splitlines()[mark:]
    assert 2 <= sum("already connected" in line for line in taken) <= 12
