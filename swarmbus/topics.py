"""Topic names and topic filters of the bus, and back again.

============================  =====================================================================
``agents/<id>/inbox``         directed messages; ``/<from>`` added where the broker checks the sender
``agents/broadcast``          messages to all; ``/<from>`` added likewise
``agents/<id>/presence``      retained, and the will
``agents/<id>/health``        retained: how its host is, as the doctor saw it
``agents/<id>/receipts``      what the receiver has stored or seen; ``/<from>`` added likewise
============================  =====================================================================

The filters end in ``/#``, which also matches the parent level (MQTT 5, 4.7.1.2), so one subscription
serves open and secured brokers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swarmbus.agent_id import BROADCAST, check_agent_id, check_recipient, is_agent_id

Kind = Literal["inbox", "broadcast", "presence", "health", "receipts"]

ANY_PRESENCE_FILTER = "agents/+/presence"
BROADCAST_FILTER = f"agents/{BROADCAST}/#"


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of ours, taken apart.

    Attributes:
        kind: What travels on it.
        agent_id: Whose inbox, presence, health or receipts; None for broadcast.
        sender: The last level where the broker vouches for the sender; None on the bare topic.
    """

    kind: Kind
    agent_id: str | None
    sender: str | None


def inbox(agent_id: str, sender: str | None = None) -> str:
    """Topic of messages to ``agent_id``; with ``sender``, the form that a secured broker checks."""
    return _with_sender(f"agents/{check_recipient(agent_id)}/inbox", sender)


def broadcast(sender: str | None = None) -> str:
    """Topic of messages to all."""
    return _with_sender(f"agents/{BROADCAST}", sender)


def presence(agent_id: str) -> str:
    """Topic of an agent's presence."""
    return f"agents/{check_agent_id(agent_id)}/presence"


def health(agent_id: str) -> str:
    """Topic of how an agent and its host are."""
    return f"agents/{check_agent_id(agent_id)}/health"


def receipts(agent_id: str, sender: str | None = None) -> str:
    """Topic on which ``agent_id`` is told what became of the messages it sent."""
    return _with_sender(f"agents/{check_agent_id(agent_id)}/receipts", sender)


def inbox_filter(agent_id: str) -> str:
    """Filter for messages to ``agent_id``, vouched for or not."""
    return f"{inbox(agent_id)}/#"


def receipts_filter(agent_id: str) -> str:
    """Filter for the receipts of ``agent_id``."""
    return f"{receipts(agent_id)}/#"


def for_message(to: str, sender: str | None = None) -> str:
    """Topic on which a message to ``to`` (an agent id or ``broadcast``) is published."""
    return broadcast(sender) if to == BROADCAST else inbox(to, sender)


def parse(topic: str) -> Topic:
    """Take a topic apart.

    Raises:
        ValueError: If it is none of ours.
    """
    match topic.split("/"):
        case ["agents", "broadcast"]:
            return Topic("broadcast", None, None)
        case ["agents", "broadcast", sender] if is_agent_id(sender):
            return Topic("broadcast", None, sender)
        case ["agents", agent_id, "presence"] if is_agent_id(agent_id):
            return Topic("presence", agent_id, None)
        case ["agents", agent_id, "health"] if is_agent_id(agent_id):
            return Topic("health", agent_id, None)
        case ["agents", agent_id, ("inbox" | "receipts") as kind] if is_agent_id(agent_id):
            return Topic(kind, agent_id, None)
        case ["agents", agent_id, ("inbox" | "receipts") as kind, sender] if is_agent_id(
            agent_id
        ) and is_agent_id(sender):
            return Topic(kind, agent_id, sender)
        case _:
            raise ValueError(f"not a topic of the bus: {topic!r}")


def _with_sender(topic: str, sender: str | None) -> str:
    return topic if sender is None else f"{topic}/{check_agent_id(sender)}"
