"""What is a message, what is not, and that one survives the way over the wire and back."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from swarmbus.envelope import (
    AgentMessage,
    NotAnEnvelope,
    Unreadable,
    join_batch,
    new_message,
    read_envelope,
    read_payload,
)
from swarmbus.errors import InvalidAgentId, InvalidMessage

#: As swarmbus-py 0.2.0 writes it.
THEIRS = {
    "id": "8c3e3a0e-98c1-4a5c-8a52-1d1b6f3b3c11",
    "from": "elder",
    "to": "coder",
    "ts": "2026-04-14T05:00:00.123456Z",
    "subject": "hello",
    "body": "got a minute?",
    "content_type": "text/plain",
    "priority": "normal",
    "reply_to": None,
}


def theirs(**fields: Any) -> bytes:
    return json.dumps(THEIRS | fields).encode()


def test_message_of_the_existing_tool_is_read() -> None:
    message = read_envelope(theirs())
    assert message == AgentMessage(
        id=str(THEIRS["id"]),
        from_agent="elder",
        to="coder",
        ts=datetime(2026, 4, 14, 5, 0, 0, 123456, tzinfo=UTC),
        subject="hello",
        body="got a minute?",
    )


def test_optional_keys_may_be_missing_and_unknown_ones_stay() -> None:
    short = {key: THEIRS[key] for key in ("id", "from", "to", "ts", "subject", "body")}
    message = read_envelope(
        json.dumps(short | {"thread": "t", "hops": 3, "in_reply_to": "m", "kind": "canary"})
    )
    assert (message.content_type, message.priority, message.reply_to) == ("text/plain", "normal", None)
    assert message.extra == {"thread": "t", "hops": 3, "in_reply_to": "m", "kind": "canary"}
    assert (message.in_reply_to, message.kind) == ("m", "canary")


@pytest.mark.parametrize("key", ["kind", "in_reply_to"])
@pytest.mark.parametrize("value", [7, None, [], {"a": 1}, True])
def test_thread_keys_of_another_kind_count_as_missing(key: str, value: object) -> None:
    message = read_envelope(theirs(**{key: value}))
    assert getattr(message, key) is None
    assert message.extra == {key: value}


@pytest.mark.parametrize(
    "fields",
    [
        {"priority": "whenever"},
        {"to": "broadcast"},
        {"to": "system"},
        {"subject": ""},
        {"subject": "two\nlines"},
        {"subject": "x" * 4_096},
        {"body": ""},
        {"body": "x" * 65_536},
        {"body": "é" * 32_768},
        {"id": "x"},
        {"id": "x" * 200},
        {"ts": "2026-04-14T05:00:00+02:00"},
    ],
    ids=lambda fields: str(fields)[:30],
)
def test_what_can_be_kept_is_accepted(fields: dict[str, Any]) -> None:
    message = read_envelope(theirs(**fields))
    ((key, value),) = fields.items()
    kept = getattr(message, key)
    assert (kept.isoformat() if isinstance(kept, datetime) else kept) == value


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"id": ""}, "id"),
        ({"id": "x" * 201}, "id"),
        ({"id": 7}, "id"),
        ({"from": "Elder"}, "'Elder' is not an agent id"),
        ({"from": "broadcast"}, "'broadcast' is not an agent id"),
        ({"from": None}, "from"),
        ({"to": "a/b"}, "'a/b' is not an agent id"),
        ({"to": "presence"}, "reserved"),
        ({"ts": "yesterday"}, "ts"),
        ({"ts": None}, "ts"),
        ({"subject": None}, "subject"),
        ({"subject": "x" * 4_097}, "subject"),
        ({"body": "x" * 65_537}, "65537 bytes"),
        ({"body": "é" * 32_769}, "65538 bytes"),
        ({"body": {"a": 1}}, "body"),
        ({"content_type": "text/html"}, "content_type"),
        ({"priority": "x" * 65}, "priority"),
        ({"priority": 1}, "priority"),
        ({"reply_to": "Boss"}, "reply_to"),
        ({"reply_to": "broadcast"}, "reply_to"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_envelope_is_refused_with_the_reason(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(NotAnEnvelope, match=re.escape(reason)):
        read_envelope(theirs(**fields))


@pytest.mark.parametrize("key", ["id", "from", "to", "ts", "subject", "body"])
def test_key_that_is_missing_is_named(key: str) -> None:
    with pytest.raises(NotAnEnvelope, match=key):
        read_envelope(json.dumps({name: value for name, value in THEIRS.items() if name != key}))


def test_reason_holds_nothing_of_a_huge_payload() -> None:
    with pytest.raises(NotAnEnvelope) as error:
        read_envelope(theirs(body="x" * 1_000_000))
    assert len(str(error.value)) < 200


# --- batches -------------------------------------------------------------------------------------------


def test_batch_is_read_in_order() -> None:
    payload = join_batch([theirs(subject=f"{n}").decode() for n in range(3)]).encode()
    assert [item.subject for item in read_payload(payload) if isinstance(item, AgentMessage)] == [
        "0",
        "1",
        "2",
    ]
    assert join_batch(["{}"]) == "{}"


def test_bad_items_of_a_batch_are_told_one_by_one() -> None:
    good, bad = json.loads(theirs()), {"id": 1}
    first, second, third, fourth = read_payload(json.dumps([good, bad, None, good]).encode())
    assert isinstance(first, AgentMessage)
    assert isinstance(second, Unreadable)
    assert json.loads(second.payload) == bad
    assert second.reason
    assert isinstance(third, Unreadable)
    assert isinstance(fourth, AgentMessage)


@pytest.mark.parametrize("payload", [b"", b"[]", b"[", b"hello", b"\xff", b"[\xff]", b"[" * 50_000, b"7"])
def test_payload_that_holds_no_message_is_kept_as_it_came(payload: bytes) -> None:
    (item,) = read_payload(payload)
    assert isinstance(item, Unreadable)
    assert item.payload == payload
    assert item.reason


# --- ours ----------------------------------------------------------------------------------------------


def ours(**fields: Any) -> AgentMessage:
    usual: dict[str, Any] = {"sender": "planner", "to": "coder", "subject": "hello", "body": "x"}
    return new_message(**usual | fields)


def test_message_of_ours_is_what_the_existing_tool_reads() -> None:
    message = ours(body="\0 🐝", priority="high", reply_to="boss", extra={"thread": "t"})
    said = json.loads(message.to_wire())
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", said["id"])
    assert abs(datetime.fromisoformat(said["ts"]) - datetime.now(UTC)) < timedelta(seconds=5)
    assert said | {"id": "", "ts": ""} == {
        "id": "",
        "from": "planner",
        "to": "coder",
        "ts": "",
        "subject": "hello",
        "body": "\0 🐝",
        "content_type": "text/plain",
        "priority": "high",
        "reply_to": "boss",
        "thread": "t",
        "wire": 1,
    }
    assert read_envelope(message.to_wire()) == message


def test_ids_are_unique() -> None:
    assert len({ours().id for _ in range(1_000)}) == 1_000
    assert ours(message_id="given").id == "given"


@pytest.mark.parametrize("subject", ["x" * 256, "é" * 128, "", "tab? no"])
def test_subjects(subject: str) -> None:
    assert ours(subject=subject).subject == subject


@pytest.mark.parametrize(
    "subject",
    ["x" * 257, "é" * 129, "a\nb", "a\rb", "a\tb", "a\0", "\x1b[2J", "a\x7f", "a\x85b", "a\u2028b", "\udc80"],
)
def test_subject_that_is_not_one_short_line_is_refused(subject: str) -> None:
    with pytest.raises(InvalidMessage, match="subject"):
        ours(subject=subject)


@pytest.mark.parametrize("body", ["x" * 65_536, "é" * 32_768, "🐝" * 16_384, ""])
def test_bodies(body: str) -> None:
    assert read_envelope(ours(body=body).to_wire()).body == body


@pytest.mark.parametrize("body", ["x" * 65_537, "é" * 32_769, "🐝" * 16_385, "\ud800"])
def test_body_that_older_peers_would_refuse_is_refused_here(body: str) -> None:
    with pytest.raises(InvalidMessage, match="body"):
        ours(body=body)


@pytest.mark.parametrize(
    "fields",
    [
        {"sender": "Planner"},
        {"sender": "system"},
        {"to": "a/b"},
        {"to": "inbox"},
        {"reply_to": "broadcast"},
        {"to": ""},
    ],
)
def test_agent_ids_of_ours_are_checked(fields: dict[str, str]) -> None:
    with pytest.raises(InvalidAgentId):
        ours(**fields)


@pytest.mark.parametrize(
    ("fields", "offered"),
    [({"content_type": "text/html"}, "text/markdown"), ({"priority": "urgent"}, "high")],
)
def test_unknown_words_are_refused_with_the_known_ones(fields: dict[str, str], offered: str) -> None:
    with pytest.raises(InvalidMessage) as error:
        ours(**fields)
    assert offered in (error.value.hint or "")


def test_extra_that_is_not_json_is_refused() -> None:
    for value in ("\ud800", object(), b"\xff"):
        with pytest.raises(InvalidMessage, match="JSON"):
            ours(extra={"deep": [value]})


@pytest.mark.parametrize("key", ["id", "from", "to", "ts", "body", "wire"])
def test_extra_cannot_replace_what_we_say(key: str) -> None:
    with pytest.raises(InvalidMessage, match=key):
        new_message(sender="planner", to="coder", subject="", body="", extra={key: "x"})


def test_extra_is_json_in_the_strict_sense() -> None:
    message = read_envelope(theirs(load=float("nan"), nested=[float("inf")]))
    assert json.loads(message.extra_json() or "") == {"load": None, "nested": [None]}
    assert read_envelope(theirs()).extra_json() is None


def test_a_payload_that_would_fill_the_memory_is_not_even_parsed() -> None:
    payload = b"[" + b"1," * 600_000 + b"1]"
    (bad,) = read_payload(payload)
    assert isinstance(bad, Unreadable)
    assert "the limit is" in bad.reason


def test_a_batch_of_rubbish_leaves_a_little_evidence_of_itself() -> None:
    good = new_message(sender="planner", to="coder", subject="", body="").to_wire()
    read = read_payload(f"[{good},{','.join(['1'] * 500)}]".encode())
    bad = [item for item in read if isinstance(item, Unreadable)]
    assert len(read) - len(bad) == 1
    assert len(bad) == 11
    assert "490 more" in bad[-1].reason
    (too_many,) = read_payload(b"[" + b"1," * 1_000 + b"1]")
    assert isinstance(too_many, Unreadable)
