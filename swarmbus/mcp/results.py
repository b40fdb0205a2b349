"""What the tools answer, as the structures that are published as their output schemas.

``result`` has what the tool of the same name of swarmbus-py 0.2.0 has there, so that programs written for it
go on working; the rest is ours. Subjects and bodies in here are as they came: JSON keeps them inside their
quotes, and nothing else does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from typing_extensions import TypedDict  # pydantic reads Python's own from 3.12 on only

from swarmbus.mcp.fence import warnings_of

Message = TypedDict(
    "Message",
    {
        "id": str,
        "from": str,
        "verified": bool | None,  # whether the broker vouches for the sender; None for one of ours
        "to": str,
        "ts": str,
        "subject": str,
        "body": str,
        "content_type": str,
        "priority": str,
        "reply_to": str | None,
        "in_reply_to": str | None,
        "thread": str | None,
        "redelivered": bool,
        "warnings": list[str],
    },
)

_KEYS: Final = tuple(Message.__annotations__)
_OF_THREADS: Final = ("in_reply_to", "thread")

MOST_BYTES: Final = 65_536
"""Bytes of bodies in one answer, but for a single message: hosts cut off or refuse what is much larger."""


class Sent(TypedDict):
    """Of ``send_message``; ``result`` is the state."""

    result: str
    id: str
    to: str
    reason: str | None
    final: bool


class Inbox(TypedDict):
    """Of ``read_inbox`` and ``watch_inbox``."""

    notice: str
    result: list[Message]
    pending: int
    acknowledged: list[str]
    not_pending: list[str]
    trouble: str | None


class Agents(TypedDict):
    """Of ``list_agents``."""

    result: list[str]


class Thread(TypedDict):
    """Of ``thread``."""

    notice: str
    result: list[Message]
    omitted: int


class Event(TypedDict):
    """What happened to a message; ``at`` is ISO 8601."""

    at: str
    what: str
    detail: str


class Status(TypedDict):
    """Of ``delivery_status``; ``result`` is the state."""

    result: str
    id: str
    events: list[Event]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tool answers.

    Attributes:
        text: For a model.
        facts: For a program; one of the structures above.
    """

    text: str
    facts: Any


def published(fields: dict[str, Any], *, redelivered: bool = False) -> Message:
    """A message as the tools show it: the known keys, and of what peers put beside them, nothing else."""
    known: Any = {key: fields.get(key) for key in _KEYS}
    texts = {key: value if isinstance(value := fields.get(key), str) else None for key in _OF_THREADS}
    ours = {"redelivered": redelivered, "warnings": warnings_of(fields)}
    message: Message = known | texts | ours
    return message


def fitting(bodies: Sequence[str]) -> int:
    """How many of these fit into one answer, one at least."""
    size = 0
    for count, body in enumerate(bodies):
        size += len(body.encode("utf-8", "surrogatepass"))
        if size > MOST_BYTES and count:
            return count
    return len(bodies)


def counted(number: int) -> str:
    """``1 message``, ``2 messages``."""
    return f"{number} message" if number == 1 else f"{number} messages"
