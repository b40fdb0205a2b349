"""MCP servers that come and go: several of one agent, listener daemons that start and stop, and the end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from swarmbus.lock import lock_holder
from swarmbus.paths import agent_dir, lock_path
from tests.broker.agents import bus_of, envelope_json, publish, send_stored, until_received
from tests.lab.listener import Listener
from tests.lab.loop import in_loop, until
from tests.lab.mcp_host import mcp_host, server_pids, server_words
from tests.lab.mosquitto import Broker

# --- several servers of one agent ----------------------------------------------------------------------


@in_loop
async def test_two_servers_share_and_neither_gets_what_the_other_has(
    listener: Listener | None, broker: Broker
) -> None:
    async with mcp_host("coder", broker) as left, mcp_host("coder", broker) as right:
        await until_received("coder")
        await send_stored(broker, *"abcdef")
        first = await left.call("read_inbox", max_messages=2)
        assert first.subjects == ["a", "b"]
        assert (await right.call("read_inbox", max_messages=3)).subjects == ["c", "d", "e"]
        assert (await left.call("read_inbox", ack_ids=first.ids)).subjects == ["f"]


@in_loop
async def test_what_a_killed_server_had_goes_to_another(listener: Listener | None, broker: Broker) -> None:
    left = await asyncio.create_subprocess_exec(
        *server_words("coder", broker),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        await until_received("coder")
        await send_stored(broker, "one")
        await _ask(left, "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=_CLIENT)
        asked = await _ask(left, "tools/call", name="read_inbox", arguments={})
        assert asked["structuredContent"]["result"][0]["subject"] == "one"
        async with mcp_host("coder", broker) as right:
            assert (await right.call("read_inbox")).subjects == []
            left.kill()
            assert (await right.call("read_inbox", wait_seconds=20)).subjects == ["one"]
            # And it is the other one now that receives.
            await send_stored(broker, "two")
            await until_received("coder")
            again = await right.call("read_inbox", wait_seconds=20)
            assert again.subjects == ["one", "two"]
    finally:
        if left.returncode is None:
            left.kill()
        await left.wait()


_CLIENT = {"name": "test", "version": "1"}


async def _ask(process: asyncio.subprocess.Process, method: str, **params: object) -> dict[str, Any]:
    assert process.stdin
    assert process.stdout
    question = {"jsonrpc": "2.0", "id": method, "method": method, "params": params}
    process.stdin.write(json.dumps(question).encode() + b"\n")
    result: dict[str, Any] = json.loads(await process.stdout.readline())["result"]
    return result


@in_loop
async def test_window_that_is_put_to_sleep_is_told_to_the_others(broker: Broker) -> None:
    async with mcp_host("coder", broker):
        await until_received("coder")
        (asleep,) = server_pids("coder")
        async with mcp_host("coder", broker) as awake:
            assert (await awake.call("read_inbox")).subjects == []
            os.kill(asleep, signal.SIGSTOP)
            try:
                inbox = await awake.call("read_inbox")
                assert inbox.failed
                assert f"kill -CONT {asleep}" in inbox.text
            finally:
                os.kill(asleep, signal.SIGCONT)
            assert (await awake.call("read_inbox")).subjects == []


@in_loop
async def test_listener_that_starts_and_stops_while_the_server_runs(broker: Broker) -> None:
    async with mcp_host("coder", broker) as host:
        await until_received("coder")
        await send_stored(broker, "before")
        with Listener("coder", broker) as listener:
            assert lock_holder(lock_path("coder")) == (listener.pid, "listener")
            await send_stored(broker, "beside")
            inbox = await host.call("read_inbox", wait_seconds=20)
            assert inbox.subjects == ["before", "beside"]
            assert listener.terminate() == 0
        await send_to_session(broker, "after")
        inbox = await host.call("read_inbox", ack_ids=inbox.ids, wait_seconds=20)
        assert inbox.subjects == ["after"]


async def send_to_session(broker: Broker, subject: str) -> None:
    """Whether somebody receives at this moment or not: the broker keeps the session."""
    async with bus_of(broker, "planner") as planner:
        await planner.send("coder", subject, "b")


@in_loop
async def test_a_hundred_messages_while_servers_come_and_go_come_once_each(broker: Broker) -> None:
    seen: list[str] = []
    async with mcp_host("coder", broker):
        await until_received("coder")

    async def window(count: int) -> None:
        async with mcp_host("coder", broker) as host:
            ids: list[str] = []
            while len(seen) < count:
                inbox = await host.call("read_inbox", ack_ids=ids, max_messages=3, wait_seconds=1)
                ids = inbox.ids
                seen.extend(inbox.subjects)
            await host.call("read_inbox", ack_ids=ids, max_messages=0)

    async def sender() -> None:
        async with bus_of(broker, "planner") as planner:
            for number in range(100):
                await planner.send("coder", str(number), "b")
                await asyncio.sleep(0.01)

    sending = asyncio.create_task(sender())
    for count in (30, 60, 100):
        await asyncio.gather(window(count), window(count))
    await sending
    assert sorted(seen, key=int) == [str(number) for number in range(100)]


# --- options, and the end ------------------------------------------------------------------------------


@in_loop
async def test_presence_while_it_receives_and_no_longer(broker: Broker) -> None:
    planner = bus_of(broker, "planner")
    async with mcp_host("coder", broker):
        await until_received("coder")
        assert await planner.list_agents() == []
    process = await asyncio.create_subprocess_exec(
        *server_words("coder", broker, "--presence"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    await _until_listed(broker, ["coder"])
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0
    assert await planner.list_agents() == []
    process = await asyncio.create_subprocess_exec(
        *server_words("coder", broker, "--presence"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    await _until_listed(broker, ["coder"])
    process.kill()
    await process.wait()
    await _until_listed(broker, [])


async def _until_listed(broker: Broker, agents: list[str]) -> None:
    give_up = time.monotonic() + 20
    while (online := await bus_of(broker, "planner").list_agents()) != agents:
        assert time.monotonic() < give_up, online
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(("words", "kept"), [((), ["one"]), (("--no-persistent",), [])])
@in_loop
async def test_what_comes_while_no_server_runs_waits_in_the_session(
    broker: Broker, words: tuple[str, ...], kept: list[str]
) -> None:
    async with mcp_host("coder", broker, *words):
        await until_received("coder")
    await publish(broker, "agents/coder/inbox", envelope_json(subject="one"))
    async with mcp_host("coder", broker, *words) as host:
        assert (await host.call("read_inbox", wait_seconds=0.5)).subjects == kept


@in_loop
async def test_signals_of_claude_code_end_it_also_while_it_waits(
    listener: Listener | None, broker: Broker
) -> None:
    async def end_it() -> float:
        (pid,) = server_pids("coder")
        began = time.monotonic()
        os.kill(pid, signal.SIGINT)
        await asyncio.sleep(0.1)
        if server_pids("coder"):
            os.kill(pid, signal.SIGTERM)
        await until(lambda: server_pids("coder") == [])
        return time.monotonic() - began

    process = await asyncio.create_subprocess_exec(
        *server_words("coder", broker), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    await _ask(process, "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=_CLIENT)
    await until_received("coder")
    assert process.stdin
    watching = {"name": "watch_inbox", "arguments": {"timeout": 600}}
    question = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": watching}
    process.stdin.write(json.dumps(question).encode() + b"\n")
    await asyncio.sleep(0.3)
    assert await end_it() < 30  # of the 600 seconds that it would have waited
    assert await process.wait() == 0
    assert [path.name for path in (agent_dir("coder") / "mcp").iterdir()] == ["lock"]


@in_loop
async def test_state_folder_is_where_the_mailbox_is(broker: Broker, tmp_path: Path) -> None:
    async with mcp_host("coder", broker, "--state-dir", str(tmp_path)) as host:
        await host.call("read_inbox")
        assert (tmp_path / "coder" / "mailbox.db").exists()
    assert not agent_dir("coder").exists()
