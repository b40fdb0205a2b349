"""Who may be called what."""

from __future__ import annotations

import pytest

from swarmbus.agent_id import agent_id_from_host_name, check_agent_id, check_recipient, is_agent_id
from swarmbus.errors import ExitStatus, InvalidAgentId

RESERVED = ["broadcast", "system", "presence", "inbox", "receipts"]


@pytest.mark.parametrize("text", ["a", "planner", "pi-4_b", "0", "-", "_", "x" * 64])
def test_agent_ids(text: str) -> None:
    assert is_agent_id(text)
    assert check_agent_id(text) == check_recipient(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Planner",
        "a b",
        "a/b",
        "+",
        "#",
        "a.b",
        "ä",
        "٣",
        "x" * 65,
        "a\n",
        "\na",
        "a\0",
        "$SYS",
        *RESERVED,
    ],
)
def test_what_is_no_agent_id_is_told_with_a_way_out(text: str) -> None:
    assert not is_agent_id(text)
    with pytest.raises(InvalidAgentId) as error:
        check_agent_id(text)
    assert repr(text) in error.value.message
    assert error.value.hint
    assert error.value.exit_status == ExitStatus.CANNOT_RUN


def test_two_reserved_names_may_be_written_to() -> None:
    assert check_recipient("broadcast") == "broadcast"
    assert check_recipient("system") == "system"
    for other in ("presence", "inbox", "receipts", "Planner"):
        with pytest.raises(InvalidAgentId):
            check_recipient(other)


@pytest.mark.parametrize(
    ("host", "agent"),
    [
        ("Pi-4.local", "pi-4"),
        ("raspberrypi", "raspberrypi"),
        ("Ida's MacBook", "ida-s-macbook"),
        ("système", "syst-me"),
        ("system", "agent"),
        ("broadcast.example.org", "agent"),
        ("", "agent"),
        (".", "agent"),
        ("日本", "agent"),
        ("x" * 100, "x" * 64),
        ("_-a-_", "_-a-_"),
    ],
)
def test_agent_is_named_after_its_host(host: str, agent: str) -> None:
    assert is_agent_id(agent_id_from_host_name(host))
    assert agent_id_from_host_name(host).strip("-") == agent.strip("-")
