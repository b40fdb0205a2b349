"""The list of agents: complete, and not to be fooled by what others write."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from swarmbus.broker import Broker as Address
from swarmbus.errors import BrokerUnreachable
from swarmbus.presence import ask_presence, read_presence
from tests.broker.agents import address, bus_of, listening, publish, raw
from tests.lab.loop import in_loop
from tests.lab.mosquitto import Broker, unused_port

NOW = datetime(2026, 4, 14, 5, 0, 0, tzinfo=UTC)


def lease(age: float, interval: float | None = 60.0, status: str = "online") -> bytes:
    said = {
        "agent": "x",
        "status": status,
        "ts": (NOW - timedelta(seconds=age)).isoformat(),
        "interval": interval,
    }
    return json.dumps(said).encode()


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (lease(0), "online"),
        (lease(179), "online"),
        (lease(181), "stale"),
        (lease(-3_600), "online"),  # a clock that is ahead
        (lease(181, status="offline"), "offline"),
        (lease(1e6, interval=None), "online"),
        (b'{"agent": "x", "status": "online"}', "online"),  # the existing tool has no lease
        (b'{"status": "online", "ts": "2026-04-14T05:00:00", "interval": 1}', "online"),  # without a zone
        (b'{"status": "online", "ts": "yesterday", "interval": 1}', "online"),
    ],
)
def test_lease_that_has_run_out_is_stale(payload: bytes, status: str) -> None:
    presence = read_presence("coder", payload, NOW)
    assert presence is not None
    assert (presence.agent, presence.status) == ("coder", status)


@pytest.mark.parametrize(
    "payload",
    [b"", b"x", b"\xff", b"null", b"[]", b"{}", b'{"status": "Online"}', b'{"status": null}', b"[" * 100_000],
    ids=lambda payload: repr(payload[:20]),
)
def test_what_is_no_presence_is_none(payload: bytes) -> None:
    assert read_presence("coder", payload) is None


def test_what_cannot_be_shown_is_left_out() -> None:
    said = {"status": "online", "host": "\x1b[2Jpi", "version": "\ud800", "since": 7, "instance": "ok"}
    presence = read_presence("coder", json.dumps(said).encode())
    assert presence is not None
    assert (presence.host, presence.version, presence.since, presence.instance) == (None, None, None, "ok")


@in_loop
async def test_list_of_ten_thousand_is_complete(broker: Broker) -> None:
    names = [f"agent-{number:05}" for number in range(10_000)]
    async with raw(broker) as (connection, _):
        await asyncio.gather(
            *(
                connection.publish(f"agents/{name}/presence", b'{"status": "online"}', retain=True)
                for name in names
            )
        )
    assert await bus_of(broker, "onlooker").list_agents() == names


@in_loop
async def test_nobody_there_is_an_empty_list_and_at_once(broker: Broker) -> None:
    async with asyncio.timeout(1):
        assert await bus_of(broker, "onlooker").list_agents() == []


@in_loop
async def test_list_has_who_is_online_and_the_rest_when_asked(broker: Broker) -> None:
    async with listening(broker, "planner"):
        pass
    await publish(broker, "agents/elder/presence", b'{"agent": "elder", "status": "online"}', retain=True)
    long_ago = b'{"status": "online", "ts": "2020-01-01T00:00:00Z", "interval": 60}'
    await publish(broker, "agents/forgotten/presence", long_ago, retain=True)
    async with listening(broker, "coder") as coder:
        assert await coder.list_agents() == ["coder", "elder"]
        found = {presence.agent: presence for presence in await coder.list_presence()}
    assert {agent: presence.status for agent, presence in found.items()} == {
        "coder": "online",
        "elder": "online",
        "forgotten": "stale",
        "planner": "offline",
    }
    assert found["coder"].as_dict()["wire"] == 1
    assert found["elder"].wire is None


@in_loop
async def test_forged_and_broken_presences_do_not_spoil_the_list(broker: Broker) -> None:
    broken = {
        "agents/Nobody!/presence": b'{"status": "online"}',
        "agents/broadcast/presence": b'{"status": "online"}',
        "agents/presence/presence": b'{"status": "online"}',
        "agents//presence": b'{"status": "online"}',
        "agents/mallory/presence": b'{"agent": "coder", "status": "offline"}',
        "agents/rubbish/presence": b"\xff\x00",
        "agents/huge/presence": b'{"status": "online", "interval": 1e308, "ts": "2026-01-01T00:00:00Z"}',
        "agents/long/presence": b'{"status": "online", "host": "' + b"x" * 100_000 + b'"}',
        "agents/wire/presence": b'{"status": "online", "wire": 1e400}',
        "swarmbus/marker/x": b"",
    }
    async with listening(broker, "coder") as coder:
        for topic, payload in broken.items():
            await publish(broker, topic, payload, retain=True)
        assert await coder.list_agents() == ["coder", "huge", "long", "wire"]


@in_loop
async def test_presence_that_was_cleared_is_gone(broker: Broker) -> None:
    async with listening(broker, "coder"):
        pass
    await publish(broker, "agents/coder/presence", b"", retain=True)
    assert await ask_presence(address(broker)) == []


@in_loop
async def test_list_without_a_broker_is_an_error_and_not_empty() -> None:
    with pytest.raises(BrokerUnreachable):
        await ask_presence(Address("127.0.0.1", unused_port()))
