"""The message on the wire: a JSON object of nine known keys, and whatever else peers put beside them.

A sample::

    {"id": "9f0c…", "from": "planner", "to": "coder", "ts": "2026-04-14T05:00:00Z", "subject": "hello",
     "body": "…", "content_type": "text/plain", "priority": "normal", "reply_to": null}

``reply_to`` is the id of the agent to answer, or null: not a message id. Threads travel in extra keys
(``in_reply_to``: a message id, ``thread``, ``hops``, ``kind``, ``wire``), which older peers ignore.
What peers send is accepted as widely as it can be stored; what we write is held to narrower limits
(`new_message`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from pydantic_core import SchemaValidator, ValidationError, core_schema, to_json

from swarmbus.agent_id import check_agent_id, check_recipient, is_agent_id
from swarmbus.errors import InvalidAgentId, InvalidMessage
from swarmbus.limits import CONTENT_TYPES, MAX_BODY_BYTES, MAX_SUBJECT_BYTES, PRIORITIES
from swarmbus.message_id import new_id
from swarmbus.version import WIRE

MAX_INBOUND_SUBJECT_BYTES: Final = 4_096
MAX_PAYLOAD_BYTES: Final = 1024 * 1024
"""Bytes of one MQTT message. A body of 64 KiB in which every byte is escaped has 400,000."""

MAX_BATCH_MESSAGES: Final = 1_000
"""Ten times what we put into one MQTT message."""

_BAD_ITEMS: Final = 10

_KEYS: Final = ("id", "from", "to", "ts", "subject", "body", "content_type", "priority", "reply_to")
CANARY: Final = "canary"
"""``kind`` of a message that proves the path and is shown to nobody."""

# C0, DEL, C1, the two Unicode separators that end a line, and lone surrogates (not UTF-8).
_NOT_IN_A_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class NotAnEnvelope(ValueError):
    """A payload that cannot be read as an envelope; the text says why."""


def _sender(text: str) -> str:
    # `system` may not be registered, but peers accept it as a sender name nowhere; keep to the grammar.
    if not is_agent_id(text):
        raise ValueError(f"{text!r} is not an agent id")
    return text


def _recipient(text: str) -> str:
    try:
        return check_recipient(text)
    except InvalidAgentId as error:
        raise ValueError(error.message) from error


def _body(text: str) -> str:
    # A character is at most four bytes of UTF-8: most bodies need no encoding to be judged.
    if len(text) * 4 <= MAX_BODY_BYTES:
        return text
    if (size := len(text.encode("utf-8", "surrogatepass"))) > MAX_BODY_BYTES:
        raise ValueError(f"body of {size} bytes is over the limit of {MAX_BODY_BYTES}")
    return text


def _optional(schema: core_schema.CoreSchema, default: str | None) -> core_schema.ModelField:
    return core_schema.model_field(core_schema.with_default_schema(schema, default=default))


@dataclass(slots=True, kw_only=True)
class AgentMessage:
    """One message. Attributes are the keys of the wire, but ``from``, which is ``from_agent``.

    Attributes:
        id: Unique for ever; we write UUID4, any text of 1 to 200 characters is accepted.
        from_agent: Agent id of the sender, as it says itself (see ``verified``).
        to: Agent id of the receiver, or ``broadcast``.
        ts: When it was written, by the sender's clock, with zone.
        priority: ``low``, ``normal``, ``high``; any other word passes.
        reply_to: Agent to answer; None means the sender.
        extra: The keys that are not among the nine, as they came.
        verified: Whether the broker vouched for the sender; set by our listener, never read from the wire.
    """

    id: str
    from_agent: str
    to: str
    ts: datetime
    subject: str
    body: str
    content_type: str = "text/plain"
    priority: str = "normal"
    reply_to: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    verified: bool = False

    @property
    def kind(self) -> str | None:
        """``canary`` for a probe, None for an ordinary message."""
        return _text_or_none(self.extra.get("kind"))

    @property
    def in_reply_to(self) -> str | None:
        """Id of the message this one answers, None where it starts a thread."""
        return _text_or_none(self.extra.get("in_reply_to"))

    def extra_json(self) -> str | None:
        """`extra` as JSON in the strict sense (null for NaN, which SQLite does not know); None if empty."""
        return to_json(self.extra, inf_nan_mode="null").decode() if self.extra else None

    def to_wire(self) -> str:
        """The envelope as one JSON object."""
        fields = {
            "id": self.id,
            "from": self.from_agent,
            "to": self.to,
            "ts": self.ts,
            "subject": self.subject,
            "body": self.body,
            "content_type": self.content_type,
            "priority": self.priority,
            "reply_to": self.reply_to,
        }
        return to_json(self.extra | fields, inf_nan_mode="null").decode()


# pydantic's own compiled core, without the classes around it: five megabytes less in each listener daemon,
# which a Raspberry Pi with several agents can use, and a message is read in a fraction of the time.
_TEXT = core_schema.str_schema()
_ENVELOPE = core_schema.model_fields_schema(
    {
        "id": core_schema.model_field(core_schema.str_schema(min_length=1, max_length=200)),
        "from": core_schema.model_field(core_schema.no_info_after_validator_function(_sender, _TEXT)),
        "to": core_schema.model_field(core_schema.no_info_after_validator_function(_recipient, _TEXT)),
        "ts": core_schema.model_field(core_schema.datetime_schema()),
        "subject": core_schema.model_field(core_schema.str_schema(max_length=MAX_INBOUND_SUBJECT_BYTES)),
        "body": core_schema.model_field(core_schema.no_info_after_validator_function(_body, _TEXT)),
        "content_type": _optional(core_schema.literal_schema(list(CONTENT_TYPES)), "text/plain"),
        "priority": _optional(core_schema.str_schema(max_length=64), "normal"),
        "reply_to": _optional(
            core_schema.nullable_schema(core_schema.no_info_after_validator_function(_sender, _TEXT)), None
        ),
    },
    extra_behavior="allow",
)
_READ_ONE = SchemaValidator(_ENVELOPE)
_READ_BATCH = SchemaValidator(core_schema.list_schema(_ENVELOPE, max_length=MAX_BATCH_MESSAGES))


def read_envelope(payload: bytes | str) -> AgentMessage:
    """Read one envelope.

    Raises:
        NotAnEnvelope: With the first reason in words.
    """
    try:
        return _message(_READ_ONE.validate_json(payload))
    except ValidationError as error:
        raise NotAnEnvelope(_first_reason(error)) from error


def _message(validated: tuple[dict[str, Any], dict[str, Any] | None, set[str]]) -> AgentMessage:
    fields, extra, _ = validated
    fields["from_agent"] = fields.pop("from")
    return AgentMessage(**fields, extra=extra or {})


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A payload, or one item of a batch, that is no envelope.

    Attributes:
        payload: The bytes as they came; an item of a batch is written out again as JSON.
        reason: Why it could not be read, in words.
    """

    payload: bytes
    reason: str


def read_payload(payload: bytes) -> list[AgentMessage | Unreadable]:
    """Read one MQTT message: an envelope, or a JSON array of envelopes.

    A sender of wire 1 may put several into one message when the receiver's presence says wire 1 too:
    a burst then costs one PUBLISH, one PUBACK and one commit. One bad item does not spoil the others.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        return [Unreadable(payload, f"{len(payload)} bytes, the limit is {MAX_PAYLOAD_BYTES}")]
    if payload[:1] != b"[":
        try:
            return [read_envelope(payload)]
        except NotAnEnvelope as error:
            return [Unreadable(payload, str(error))]
    try:
        if batch := _READ_BATCH.validate_json(payload):
            return [_message(item) for item in batch]
        return [Unreadable(payload, "a batch without a message")]
    except ValidationError:
        pass  # at least one of them is bad
    try:
        items = [json.dumps(item) for item in json.loads(payload)]
    except (ValueError, RecursionError) as error:
        return [Unreadable(payload, f"not JSON: {error}")]
    if len(items) > MAX_BATCH_MESSAGES:
        return [Unreadable(payload, f"a batch of {len(items)}, the limit is {MAX_BATCH_MESSAGES}")]
    read = [_read_item(item) for item in items]
    bad = [item for item in read if isinstance(item, Unreadable)]
    if len(bad) <= _BAD_ITEMS:
        return read
    # Evidence of one fault is enough; many rows of it would push out that of others.
    messages = [item for item in read if not isinstance(item, Unreadable)]
    more = Unreadable(b"", f"{len(bad) - _BAD_ITEMS} more of the same batch are no envelopes")
    return [*messages, *bad[:_BAD_ITEMS], more]


def _read_item(item: str) -> AgentMessage | Unreadable:
    try:
        return read_envelope(item)
    except NotAnEnvelope as error:
        return Unreadable(item.encode(), str(error))


def join_batch(envelopes: list[str]) -> str:
    """Several envelopes, each a JSON object, as one payload."""
    return envelopes[0] if len(envelopes) == 1 else f"[{','.join(envelopes)}]"


def new_message(
    *,
    sender: str,
    to: str,
    subject: str,
    body: str,
    content_type: str = "text/plain",
    priority: str = "normal",
    reply_to: str | None = None,
    extra: dict[str, Any] | None = None,
    message_id: str | None = None,
) -> AgentMessage:
    """Write a message, held to the limits of what we send.

    Args:
        message_id: An id made by `new_id` before, so that trying again makes no second message; None for
            a new one.

    Raises:
        InvalidAgentId: If sender, receiver or ``reply_to`` is none.
        InvalidMessage: If the subject has a line break or control character or more than 256 bytes, the
            body more than 65,536 bytes or text that UTF-8 cannot carry, content type or priority is
            unknown, or ``extra`` has a key that is not its own or a value that is not JSON.
    """
    check_agent_id(sender)
    check_recipient(to)
    if reply_to is not None:
        check_agent_id(reply_to)
    check_subject(subject)
    check_body(body)
    if content_type not in CONTENT_TYPES:
        raise InvalidMessage(
            f"unknown content type {content_type!r}", hint=f"one of {', '.join(CONTENT_TYPES)}"
        )
    if priority not in PRIORITIES:
        raise InvalidMessage(f"unknown priority {priority!r}", hint=f"one of {', '.join(PRIORITIES)}")
    if taken := (extra or {}).keys() & {*_KEYS, "wire"}:
        raise InvalidMessage(f"extra keys of a message cannot be called {', '.join(sorted(taken))}")
    message = AgentMessage(
        id=message_id or new_id(),
        from_agent=sender,
        to=to,
        ts=datetime.now(UTC),
        subject=subject,
        body=body,
        content_type=content_type,
        priority=priority,
        reply_to=reply_to,
        extra={"wire": WIRE, **(extra or {})},
    )
    if extra:
        try:
            message.to_wire()
        except (ValueError, RecursionError) as error:
            raise InvalidMessage(f"the extra keys of a message have to be JSON: {error}") from error
    return message


def check_subject(subject: str) -> None:
    """Raise `InvalidMessage` unless ``subject`` is one line of at most 256 bytes."""
    if _NOT_IN_A_LINE.search(subject):
        raise InvalidMessage("the subject has a line break or control character", hint="put it into the body")
    if (size := len(subject.encode("utf-8", "surrogatepass"))) > MAX_SUBJECT_BYTES:
        raise InvalidMessage(f"the subject has {size} bytes, the limit is {MAX_SUBJECT_BYTES}")


def check_body(body: str) -> None:
    """Raise `InvalidMessage` unless ``body`` is UTF-8 text of at most 65,536 bytes."""
    try:
        size = len(body.encode())
    except UnicodeEncodeError as error:
        raise InvalidMessage("the body is not text that UTF-8 can carry") from error
    if size > MAX_BODY_BYTES:
        raise InvalidMessage(
            f"the body has {size} bytes, the limit is {MAX_BODY_BYTES}",
            hint="write it to shared storage and send where it is",
        )


def _first_reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None
