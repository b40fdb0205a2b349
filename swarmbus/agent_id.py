"""Agent ids: one grammar, ``[a-z0-9_-]{1,64}``, and the names nobody may have."""

from __future__ import annotations

import re

from swarmbus.errors import InvalidAgentId

BROADCAST = "broadcast"
"""Valid as a recipient, never as an agent's own id."""

RESERVED = frozenset({BROADCAST, "system", "presence", "inbox", "receipts", "receipt"})
"""Levels of our topics, and the senders that peers reserve.

An agent called ``presence`` would have its broadcasts on ``agents/broadcast/presence``, which the
filter ``agents/+/presence`` matches: a forged presence.
"""

_GRAMMAR = re.compile(r"[a-z0-9_-]{1,64}", re.ASCII)
_RECIPIENT_ONLY = frozenset({BROADCAST, "system"})


def is_agent_id(text: str) -> bool:
    """Whether ``text`` may be an agent's own id."""
    return _GRAMMAR.fullmatch(text) is not None and text not in RESERVED


def check_agent_id(text: str) -> str:
    """Return ``text`` unchanged.

    Raises:
        InvalidAgentId: If it is outside the grammar, or reserved.
    """
    if text in RESERVED:
        raise InvalidAgentId(f"agent id {text!r} is reserved", hint="choose another id, such as 'planner'")
    if _GRAMMAR.fullmatch(text) is None:
        raise InvalidAgentId(
            f"{text!r} is not an agent id",
            hint="an agent id has 1 to 64 characters out of a-z 0-9 _ -",
        )
    return text


def check_recipient(text: str) -> str:
    """Return ``text`` unchanged if a message may be sent to it: an agent id, ``broadcast`` or ``system``.

    Raises:
        InvalidAgentId: If it is neither.
    """
    return text if text in _RECIPIENT_ONLY else check_agent_id(text)


def agent_id_from_host_name(host_name: str) -> str:
    """The id of the one agent that ``init`` sets up without options, made from the host's name.

    ``Pi-4.local`` becomes ``pi-4``; what the grammar lacks becomes ``-``; an empty or reserved
    outcome becomes ``agent``.
    """
    first_label = host_name.partition(".")[0].lower()
    text = re.sub(r"[^a-z0-9_-]+", "-", first_label).strip("-")[:64]
    return text if is_agent_id(text) else "agent"
