"""Topics and the way back; and that nobody's topic is anybody else's."""

from __future__ import annotations

import pytest

from swarmbus import topics
from swarmbus.errors import InvalidAgentId
from swarmbus.topics import Topic


def test_topics_are_those_of_the_wire() -> None:
    assert topics.inbox("coder") == "agents/coder/inbox"
    assert topics.inbox("coder", "planner") == "agents/coder/inbox/planner"
    assert topics.broadcast() == topics.for_message("broadcast") == "agents/broadcast"
    assert topics.for_message("broadcast", "planner") == "agents/broadcast/planner"
    assert topics.for_message("coder") == "agents/coder/inbox"
    assert topics.presence("coder") == "agents/coder/presence"
    assert topics.receipts("coder") == "agents/coder/receipts"
    assert topics.receipts("coder", "planner") == "agents/coder/receipts/planner"
    assert topics.inbox_filter("coder") == "agents/coder/inbox/#"
    assert topics.receipts_filter("coder") == "agents/coder/receipts/#"
    assert (topics.ANY_PRESENCE_FILTER, topics.BROADCAST_FILTER) == (
        "agents/+/presence",
        "agents/broadcast/#",
    )


@pytest.mark.parametrize(
    ("topic", "parsed"),
    [
        ("agents/coder/inbox", Topic("inbox", "coder", None)),
        ("agents/coder/inbox/planner", Topic("inbox", "coder", "planner")),
        ("agents/coder/receipts/planner", Topic("receipts", "coder", "planner")),
        ("agents/coder/presence", Topic("presence", "coder", None)),
        ("agents/broadcast", Topic("broadcast", None, None)),
        ("agents/broadcast/planner", Topic("broadcast", None, "planner")),
    ],
)
def test_topic_is_taken_apart(topic: str, parsed: Topic) -> None:
    assert topics.parse(topic) == parsed


@pytest.mark.parametrize(
    "topic",
    [
        "", "/", "agents", "agents/", "agents/coder", "agents/coder/", "agents/coder/outbox", "agents//inbox",
        "agents/Coder/inbox", "agents/coder/inbox/", "agents/coder/inbox/a/b", "agents/coder/inbox/Planner",
        "agents/coder/presence/planner", "agents/presence/inbox", "agents/broadcast/presence",
        "agents/broadcast/inbox", "agents/broadcast/a/b", "other/coder/inbox", "agents/coder/inbox\n",
    ],
)  # fmt: skip
def test_topic_of_nobody_is_refused(topic: str) -> None:
    with pytest.raises(ValueError, match="not a topic"):
        topics.parse(topic)


@pytest.mark.parametrize("agent_id", ["", "#", "+", "a/b", "Coder", "presence", "x" * 65])
def test_no_topic_is_made_of_what_is_no_agent_id(agent_id: str) -> None:
    for make in (topics.inbox, topics.presence, topics.receipts, topics.inbox_filter, topics.broadcast):
        with pytest.raises(InvalidAgentId):
            make(agent_id)
    with pytest.raises(InvalidAgentId):
        topics.inbox("coder", agent_id)


def test_presence_and_receipts_are_of_agents_only() -> None:
    for reserved in ("broadcast", "system"):
        with pytest.raises(InvalidAgentId):
            topics.presence(reserved)
        with pytest.raises(InvalidAgentId):
            topics.receipts(reserved)
