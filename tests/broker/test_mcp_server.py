"""``swarmbus mcp-server`` as a host has it: tools and resource, beside a listener daemon and alone."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from pathlib import Path

import pytest
from mcp.client.subscriptions import ResourceUpdated
from mcp.types import TextResourceContents

from swarmbus.limits import CONTENT_TYPES, MAX_BODY_BYTES, PRIORITIES
from tests.broker.agents import listening, send_stored, sent, until_received, until_state
from tests.lab.listener import Listener
from tests.lab.loop import in_loop
from tests.lab.mcp_host import Host, mcp_host, server_words
from tests.lab.mosquitto import Broker

TOOLS = ["delivery_status", "list_agents", "read_inbox", "send_message", "thread", "watch_inbox"]


# --- what a host is told -------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "era"), [("legacy", "2025-11-25"), ("auto", "2026-07-28")])
@in_loop
async def test_tools_say_what_they_take_give_and_do(broker: Broker, mode: str, era: str) -> None:
    async with mcp_host("coder", broker, mode=mode) as host:
        assert host.client.protocol_version == era
        assert "coder" in (host.client.instructions or "")
        tools = {tool.name: tool for tool in (await host.client.list_tools()).tools}
    assert sorted(tools) == TOOLS
    for tool in tools.values():
        assert tool.output_schema
        assert "result" in tool.output_schema["required"], tool.name
        assert tool.annotations
        assert tool.annotations.destructive_hint is False
    reads_only = [
        name for name, tool in tools.items() if tool.annotations and tool.annotations.read_only_hint
    ]
    assert sorted(reads_only) == ["delivery_status", "list_agents", "thread"]
    of_send = tools["send_message"].input_schema
    assert of_send["required"] == ["to", "subject", "body"]
    assert tuple(of_send["properties"]["content_type"]["enum"]) == CONTENT_TYPES
    assert tuple(of_send["properties"]["priority"]["enum"]) == PRIORITIES
    of_read = tools["read_inbox"].input_schema
    assert list(of_read["properties"]) == ["ack_ids", "max_messages", "wait_seconds"]
    assert "required" not in of_read


@in_loop
async def test_standard_output_is_the_protocols_alone(broker: Broker) -> None:
    process = await asyncio.create_subprocess_exec(
        *server_words("coder", broker, "-v"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    assert process.stdin
    assert process.stdout
    process.stdin.write(
        json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about}).encode()
    )
    process.stdin.write(b"\nno JSON\n")
    first = json.loads(await process.stdout.readline())
    assert first["result"]["serverInfo"]["name"] == "swarmbus"
    process.stdin.close()
    rest = await process.stdout.read()
    assert [json.loads(line)["jsonrpc"] for line in rest.splitlines()] in ([], ["2.0"])
    assert await process.wait() == 0


# --- reading -------------------------------------------------------------------------------------------


@in_loop
async def test_what_is_not_acknowledged_comes_again(listener: Listener | None, broker: Broker) -> None:
    async with mcp_host("coder", broker) as host, listening(broker, "planner") as planner:
        await until_received("coder")
        one, two = [(await planner.send("coder", name, "b", wait="stored")).id for name in ("one", "two")]
        first = await host.call("read_inbox")
        assert first.subjects == ["one", "two"]
        assert [message["redelivered"] for message in first.facts["result"]] == [False, False]
        second = await host.call("read_inbox", ack_ids=[one])
        assert (second.subjects, second.facts["acknowledged"]) == (["two"], [one])
        assert second.facts["result"][0]["redelivered"] is True
        # The first word of it is what its sender is told, and only then.
        await until_state("planner", one, "seen")
        assert sent("planner", two).state == "stored"
    async with mcp_host("coder", broker) as host:
        assert (await host.call("read_inbox", ack_ids=[two, "strange"])).facts["not_pending"] == ["strange"]
        again = await host.call("read_inbox")
        assert (again.subjects, again.text) == ([], "No message.")


@in_loop
async def test_acknowledgement_only(listener: Listener | None, broker: Broker) -> None:
    async with mcp_host("coder", broker) as host:
        await until_received("coder")
        (one, _) = await send_stored(broker, "one", "two")
        only = await host.call("read_inbox", ack_ids=[one], max_messages=0)
        assert (only.subjects, only.facts["acknowledged"], only.facts["pending"]) == ([], [one], 1)


@in_loop
async def test_waiting_ends_with_the_message(listener: Listener | None, broker: Broker) -> None:
    async with mcp_host("coder", broker) as host:
        await until_received("coder")
        waiting = asyncio.create_task(host.call("read_inbox", wait_seconds=60))
        await asyncio.sleep(0.3)
        await send_stored(broker, "one")
        assert (await asyncio.wait_for(waiting, 10)).subjects == ["one"]


@in_loop
async def test_watching_is_the_elder_way_each_message_once(listener: Listener | None, broker: Broker) -> None:
    async with mcp_host("coder", broker) as host:
        await until_received("coder")
        await send_stored(broker, "one", "two")
        assert (await host.call("watch_inbox", timeout=10)).subjects == ["one"]
        assert (await host.call("watch_inbox", timeout=10)).subjects == ["two"]
        nothing = await host.call("watch_inbox", timeout=0.2)
        assert (nothing.failed, nothing.facts["result"]) == (False, [])
        assert (await host.call("read_inbox")).subjects == []


@in_loop
async def test_bodies_of_64_kib_come_one_at_a_time(broker: Broker) -> None:
    async with mcp_host("coder", broker) as host:
        await until_received("coder")
        await send_stored(broker, "one", "two", body="x" * MAX_BODY_BYTES)
        first = await host.call("read_inbox")
        assert (first.subjects, first.facts["pending"]) == (["one"], 2)
        assert first.facts["result"][0]["body"] == "x" * MAX_BODY_BYTES
        assert (await host.call("read_inbox", ack_ids=first.ids)).subjects == ["two"]


@in_loop
async def test_server_begins_with_what_the_agent_has_not_seen(broker: Broker) -> None:
    async with listening(broker, "coder") as coder:
        await send_stored(broker, "one", "two", "three")
        await coder.read_inbox(2)
        async with mcp_host("coder", broker) as host:
            assert (await host.call("read_inbox")).subjects == ["three"]


@in_loop
async def test_reading_by_the_command_line_takes_nothing_from_the_server(broker: Broker) -> None:
    async with listening(broker, "coder") as coder, mcp_host("coder", broker) as host:
        await host.call("read_inbox")
        await send_stored(broker, "one")
        assert len(await coder.read_inbox()) == 1
        assert (await host.call("read_inbox")).subjects == ["one"]


# --- a broker that is away is not an empty inbox -------------------------------------------------------


@in_loop
async def test_broker_that_is_away_is_an_error_and_no_empty_inbox(
    listener: Listener | None, broker: Broker
) -> None:
    async with mcp_host("coder", broker) as host:
        await until_received("coder")
        assert (await host.call("read_inbox")).subjects == []
        broker.kill()
        for call in (("read_inbox", {}), ("watch_inbox", {"timeout": 0.5}), ("list_agents", {})):
            await _until_it_fails(host, *call)
        broker.start()
        await _until_it_works(host)


@in_loop
async def test_what_is_here_is_handed_out_without_a_broker(listener: Listener | None, broker: Broker) -> None:
    async with mcp_host("coder", broker) as host:
        await until_received("coder")
        await send_stored(broker, "one")
        broker.kill()
        give_up = time.monotonic() + 20
        while (inbox := await host.call("read_inbox")).facts["trouble"] is None:
            assert time.monotonic() < give_up
        assert inbox.subjects == ["one"]
        assert "There may be more" in inbox.text


async def _until_it_fails(host: Host, tool: str, arguments: dict[str, float]) -> None:
    give_up = time.monotonic() + 20
    while not (answer := await host.call(tool, **arguments)).failed:
        assert answer.facts["result"] == []
        assert time.monotonic() < give_up, f"{tool} says nothing of the broker"
    assert "[broker-unreachable]" in answer.text


async def _until_it_works(host: Host) -> None:
    give_up = time.monotonic() + 40
    while (answer := await host.call("read_inbox")).failed:
        assert time.monotonic() < give_up, answer.text


# --- sending -------------------------------------------------------------------------------------------


@in_loop
async def test_sending_says_how_far_it_has_come(listener: Listener | None, broker: Broker) -> None:
    async with listening(broker, "planner") as planner, mcp_host("coder", broker) as host:
        stored = await host.call("send_message", to="planner", subject="s", body="b", wait="stored")
        assert (stored.facts["result"], stored.failed) == ("stored", False)
        await planner.read_inbox()
        give_up = time.monotonic() + 10
        while (status := await host.call("delivery_status", id=stored.facts["id"])).facts["result"] != "seen":
            assert time.monotonic() < give_up
        # A receipt may be quicker than the broker's answer.
        happened = [event["what"] for event in status.facts["events"]]
        assert sorted(happened) == ["accepted", "queued", "seen", "stored"]
        elder = await host.call(
            "send_message", to="planner", subject="s", body="b", content_type="text/markdown"
        )
        assert elder.facts["result"] in ("accepted", "stored")


@in_loop
async def test_errors_say_what_to_do(broker: Broker) -> None:
    async with listening(broker, "planner"), mcp_host("coder", broker) as host:
        absent = await host.call("send_message", to="plannner", subject="s", body="b")
        assert absent.failed
        assert "online are: planner" in absent.text
        wrong = await host.call("send_message", to="Planner!", subject="s", body="b")
        assert "[invalid-agent-id]" in wrong.text
        assert "a-z" in wrong.text
        sent_one = await host.call("send_message", to="planner", subject="s", body="b")
        mixed_up = await host.call(
            "send_message", to="planner", subject="s", body="b", reply_to=sent_one.facts["id"]
        )
        assert mixed_up.failed
        assert "in_reply_to" in mixed_up.text
        everybody = await host.call("send_message", to="broadcast", subject="s", body="b", wait="seen")
        assert everybody.failed
        large = await host.call("send_message", to="planner", subject="s", body="x" * (MAX_BODY_BYTES + 1))
        assert "shared storage" in large.text
        assert (await host.call("delivery_status", id="strange")).failed


@in_loop
async def test_message_sent_without_a_broker_goes_out_when_it_is_back(
    listener: Listener | None, broker: Broker
) -> None:
    async with listening(broker, "planner"), mcp_host("coder", broker) as host:
        await until_received("coder")
        # Planner is known to be of our wire: until it is back, the message waits for it.
        await host.call("send_message", to="planner", subject="first", body="b", wait="stored")
        broker.kill()
        queued = await host.call("send_message", to="planner", subject="later", body="b")
        assert (queued.facts["result"], queued.failed) == ("queued", False)
        assert "do not send it again" in queued.text
        broker.start()
        await until_state("coder", queued.facts["id"], "stored", timeout=60)


@in_loop
async def test_message_to_one_that_is_away_goes_out_when_it_is_back(
    listener: Listener | None, broker: Broker
) -> None:
    async with mcp_host("coder", broker) as host:
        await until_received("coder")
        async with listening(broker, "planner", persistent=False):
            await host.call("send_message", to="planner", subject="first", body="b", wait="stored")
        # The broker keeps nothing for it; who has sent the message has to send it again.
        kept = await host.call("send_message", to="planner", subject="later", body="b")
        assert (kept.facts["result"], kept.failed) == ("queued", False)
        async with listening(broker, "planner", persistent=False):
            await until_state("coder", kept.facts["id"], "stored", timeout=30)


@in_loop
async def test_thread_is_found_from_any_of_its_messages(broker: Broker) -> None:
    async with listening(broker, "planner") as planner, mcp_host("coder", broker) as host:
        await until_received("coder")
        question = await planner.send("coder", "question", "?", wait="stored")
        await planner.send("coder", "something else", "-", wait="stored")
        answer = await host.call(
            "send_message", to="planner", subject="answer", body="!", in_reply_to=question.id, wait="stored"
        )
        thanks = await planner.send("coder", "thanks", ".", in_reply_to=answer.facts["id"], wait="stored")
        for message_id in (question.id, answer.facts["id"], thanks.id):
            thread = await host.call("thread", id=message_id)
            assert thread.subjects == ["question", "answer", "thanks"]
        assert [message["verified"] for message in thread.facts["result"]] == [False, None, False]


@in_loop
async def test_outbox_file_of_the_agent_gets_what_is_sent(
    broker: Broker, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARMBUS_OUTBOX", f"{home}/{{agent_id}}-outbox.md")
    async with listening(broker, "planner"), mcp_host("coder", broker) as host:
        await host.call("send_message", to="planner", subject="for the record", body="b")
    assert "To: planner | for the record" in (home / "coder-outbox.md").read_text()


# --- the resource --------------------------------------------------------------------------------------


@in_loop
async def test_subscriber_of_the_inbox_hears_of_mail_and_of_acknowledgements(broker: Broker) -> None:
    async with mcp_host("coder", broker) as host:
        await until_received("coder")
        async with host.client.listen(resource_subscriptions=["swarmbus://inbox"]) as updates:
            await send_stored(broker, "one")
            assert await asyncio.wait_for(anext(updates), 10) == ResourceUpdated(uri="swarmbus://inbox")
            assert "subject: one" in await _inbox_of(host)
            assert "subject: one" in await _inbox_of(host)  # reading it hands nothing out
            inbox = await host.call("read_inbox")
            assert inbox.facts["result"][0]["redelivered"] is False
            await host.call("read_inbox", ack_ids=inbox.ids)
            await asyncio.wait_for(anext(updates), 10)
            assert await _inbox_of(host) == "No message."


async def _inbox_of(host: Host) -> str:
    read = await host.client.read_resource("swarmbus://inbox")
    (contents,) = read.contents
    assert isinstance(contents, TextResourceContents)
    return contents.text
