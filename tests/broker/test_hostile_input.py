"""Whatever is published to an agent, the next good message is stored, and the listener stays."""

from __future__ import annotations

import json

import pytest

from tests.broker.agents import Collect, envelope, envelope_json, listening, publish, quarantined, stored
from tests.broker.agents import subjects as subjects_of
from tests.lab.loop import in_loop, until
from tests.lab.mosquitto import Broker

SURROGATE = '"\\ud800"'  # JSON may spell half a character; UTF-8 cannot

RUBBISH = {
    "empty": b"",
    "no JSON": b"hello?",
    "not UTF-8": b'{"id": "\xff\xfe"}',
    "NUL bytes": b"\0" * 64,
    "a number": b"7",
    "null": b"null",
    "an empty object": b"{}",
    "not an agent id": envelope_json(**{"from": "Nobody!"}).encode(),
    "a reserved sender": envelope_json(**{"from": "broadcast"}).encode(),
    "a body that is too long": envelope_json(body="é" * 32_769).encode(),
    "half a character": envelope_json(body="BODY").replace('"BODY"', SURROGATE).encode(),
    "no id": envelope_json(id="").encode(),
    "an id of 201 characters": envelope_json(id="x" * 201).encode(),
    "a time that is none": envelope_json(ts="yesterday").encode(),
    "a batch of rubbish": b'[1, null, "x", {}, []]',
    "a batch without its end": b"[" + envelope_json().encode(),
    "a batch with half a character": f"[{envelope_json(body='BODY')}]".replace('"BODY"', SURROGATE).encode(),
    "nested lists": b"[" * 100_000,
    "nested lists that end": b"[" * 900 + b"]" * 900,
    "nested objects": b'{"a":' * 100_000,
}

#: Odd, but with everything an envelope needs: these are messages.
ODD = {
    "keys of Python": envelope(
        **{"cls": 1, "self": 2, "_fields_set": 3, "_verified": True, "model_extra": 4}
    ),
    "a second sender": envelope(from_agent="somebody"),
    "wire of text": envelope(wire="one"),
    "wire of a list": envelope(wire=[1]),
    "wire that is huge": envelope(wire=10**30),
    "not a number": envelope(load=float("nan"), more=float("inf")),
    "a year before time zones": envelope(ts="0001-01-01T00:00:00+14:00"),
    "a time without zone": envelope(ts="2026-04-14T05:00:00"),
    "a time as a number": envelope(ts=1_776_142_800),
    "a kind that is none": envelope(kind={"canary": 1}),
    "a priority of its own": envelope(priority="whenever"),
    "control characters": envelope(subject="a\nb\x1b[2J\0", body="\0\x07\r\n"),
    "an empty body": envelope(body="", subject=""),
}


@pytest.mark.parametrize("payload", RUBBISH.values(), ids=RUBBISH.keys())
@in_loop
async def test_rubbish_is_quarantined_and_not_in_the_way(broker: Broker, payload: bytes) -> None:
    async with listening(broker, "coder"):
        await publish(broker, "agents/coder/inbox", payload)
        await publish(broker, "agents/coder/inbox", envelope_json(subject="next"))
        await until(lambda: "next" in subjects_of("coder"))
    assert subjects_of("coder") == ["next"]
    kept = quarantined("coder")
    assert kept
    assert {entry.kind for entry in kept} == {"unreadable"}
    assert all(entry.reason and entry.topic == "agents/coder/inbox" for entry in kept)


@pytest.mark.parametrize("batched", [False, True], ids=["alone", "in a batch"])
@pytest.mark.parametrize("fields", ODD.values(), ids=ODD.keys())
@in_loop
async def test_odd_message_is_stored_and_handled(
    broker: Broker, fields: dict[str, object], batched: bool
) -> None:
    collect = Collect()
    payload = json.dumps([fields] if batched else fields)
    async with listening(broker, "coder", collect) as coder:
        await publish(broker, "agents/coder/inbox", payload)
        await publish(broker, "agents/coder/inbox", envelope_json(subject="next"))
        await until(lambda: "next" in collect.subjects)
        assert (await coder.read_inbox())[0]["id"] == fields["id"]
    assert collect.messages[0].id == fields["id"]
    assert collect.messages[0].from_agent == "stranger"
    assert collect.messages[0].verified is False
    assert not quarantined("coder")


@in_loop
async def test_one_bad_item_of_a_batch_does_not_spoil_the_others(broker: Broker) -> None:
    bad = envelope_json(extra="BAD").replace('"BAD"', SURROGATE)
    batch = f"[{envelope_json(subject='first')}, {bad}, {{}}, {envelope_json(subject='last')}]"
    async with listening(broker, "coder"):
        await publish(broker, "agents/coder/inbox", batch)
        await until(lambda: "last" in subjects_of("coder"))
    assert [message.subject for message in stored("coder")] == ["first", "last"]
    assert len(quarantined("coder")) == 2


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"[]",
        b"7",
        b'{"from": "stranger"}',
        b'{"from": "stranger", "stored": 5}',
        b'{"from": "stranger", "stored": null}',
        b'{"from": "stranger", "stored": [[], {}, null, 7]}',
        b'{"from": "stranger", "stored": ["\\ud800"]}',
        b'{"from": "stranger", "seen": {"a": 1}}',
        b'{"from": "stranger", "marker": []}',
        b'{"from": {"a": 1}}',
    ],
)
@in_loop
async def test_receipts_that_are_none_do_no_harm(broker: Broker, payload: bytes) -> None:
    async with listening(broker, "coder"):
        await publish(broker, "agents/coder/receipts", payload)
        await publish(broker, "agents/coder/inbox", envelope_json(subject="next"))
        await until(lambda: "next" in subjects_of("coder"))


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff",
        b"[]",
        b'{"status": "online", "interval": 1e308, "ts": "2026-01-01T00:00:00Z"}',
        b'{"status": "online", "interval": Infinity, "ts": "2026-01-01T00:00:00Z"}',
        b'{"status": "online", "interval": NaN, "ts": "2026-01-01T00:00:00Z"}',
        b'{"status": "online", "interval": 1' + b"0" * 400 + b', "ts": "2026-01-01T00:00:00Z"}',
        b'{"status": "online", "interval": 60, "ts": "0001-01-01T00:00:00+14:00"}',
        b'{"status": "online", "wire": 1000000000000000000000000000000}',
        b'{"status": "online", "wire": true}',
        b'{"status": ["online"], "wire": 1}',
    ],
)
@in_loop
async def test_presence_that_is_none_does_no_harm_to_a_sender(broker: Broker, payload: bytes) -> None:
    async with listening(broker, "coder"), listening(broker, "planner") as planner:
        await planner.send(to="coder", subject="first", body="", wait="stored")
        await publish(broker, "agents/coder/presence", payload)
        await planner.send(to="coder", subject="second", body="")
        await publish(broker, "agents/planner/inbox", envelope_json(to="planner", subject="next"))
        await until(lambda: "next" in subjects_of("planner"))
        await until(lambda: "second" in subjects_of("coder"))
