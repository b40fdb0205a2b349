"""Messages for tests of what is done with messages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from swarmbus.envelope import AgentMessage


def message(
    number: int = 0, *, sender: str = "planner", verified: bool = False, **fields: Any
) -> AgentMessage:
    """A message from ``planner`` to ``coder``; ``number`` makes it one of its own."""
    envelope: dict[str, Any] = {
        "id": f"00000000-0000-4000-8000-{number:012d}",
        "from_agent": sender,
        "to": "coder",
        "ts": datetime(2026, 4, 14, 5, 0, 59, tzinfo=UTC),
        "subject": "hello",
        "body": "got a minute?",
    }
    known = {name: value for name, value in fields.items() if name in AgentMessage.__slots__}
    extra = {name: value for name, value in fields.items() if name not in known}
    return AgentMessage(**(envelope | known), extra=extra, verified=verified)
