"""What was asked for, now and before, and what config.toml says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swarmbus.errors import InvalidAgentId, UsageError
from swarmbus.provision import spec
from swarmbus.provision.request import AgentSpec, Request, request_from_document, request_from_flags
from swarmbus.provision.spec import InstallSpec, merge
from tests.provision.fake_system import FakeSystem

SYSTEM = FakeSystem(installed={"wake": "/home/pi/.local/bin/wake"})
KEPT = InstallSpec(
    agents=(AgentSpec("planner", "~/sync/planner-inbox.md"),), port=1885, chosen={"broker": "private"}
)


def merged(
    flags: dict[str, Any] | None = None, kept: InstallSpec | None = None, config: dict[str, Any] | None = None
) -> InstallSpec:
    return merge(request_from_flags(flags or {}), kept, config, SYSTEM)


def test_nothing_asked_is_one_agent_named_after_the_host() -> None:
    assert merged() == InstallSpec(agents=(AgentSpec("pi4", "~/sync/pi4-inbox.md"),))


def test_flag_over_config_over_kept_over_default() -> None:
    assert merged().port == 1883
    assert merged(kept=KEPT).port == 1885
    assert merged(kept=KEPT, config={"port": 1886}).port == 1886
    assert merged({"port": 1887}, KEPT, {"port": 1886}).port == 1887


def test_local_is_this_machine_whatever_was_chosen_before() -> None:
    assert merged({"broker": "local"}, config={"broker": "hub"}).broker == "localhost"


def test_a_key_that_was_taken_out_of_the_config_is_out() -> None:
    assert merged(kept=KEPT, config={}).port == 1883


def test_kept_agents_and_choices_stay() -> None:
    found = merged({"agent_id": "coder"}, KEPT, {})
    assert [agent.id for agent in found.agents] == ["planner", "coder"]
    assert found.chosen == {"broker": "private"}


def test_options_without_an_id_are_for_the_one_agent() -> None:
    assert merged({"invoke": "wake -x"}, KEPT).agents[0].invoke == "/home/pi/.local/bin/wake -x"
    two = InstallSpec(agents=(AgentSpec("a"), AgentSpec("b")))
    with pytest.raises(UsageError, match="several agents"):
        merged({"invoke": "wake"}, two)


def test_one_file_for_several_agents_needs_a_place_for_the_id() -> None:
    flags = {"agent_id": ["a", "b"], "inbox": "~/{agent_id}.md"}
    assert [agent.inbox for agent in merged(flags).agents] == ["~/a.md", "~/b.md"]
    with pytest.raises(UsageError, match="there are 2 agents"):
        merged({"agent_id": ["a", "b"], "inbox": "~/one.md"})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"port": 70000}, "70000 is no TCP port"),
        ({"scope": "world"}, "scope 'world' is not known"),
        ({"host_type": ["emacs"]}, "agent host 'emacs'"),
        ({"invoke": "nowhere -x"}, "there is no program 'nowhere'"),
        ({"invoke": "'open"}, "No closing quotation"),
        ({"agent_id": "broker"}, "'broker' cannot be set up"),
    ],
)
def test_what_does_not_fit_is_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        merged(flags)


def test_a_bad_id_is_refused() -> None:
    with pytest.raises(InvalidAgentId):
        merged({"agent_id": "../x"})


def test_a_quoted_command_keeps_its_words() -> None:
    assert merged({"agent_id": "a", "invoke": "wake 'two words' \"$x\""}).agents[0].invoke == (
        "/home/pi/.local/bin/wake 'two words' '$x'"
    )


def test_a_document_says_the_same_as_flags() -> None:
    document = {
        "broker": "hub",
        "port": 1884,
        "agents": [{"id": "a", "inbox": "~/a.md"}],
        "skip_broker": True,
    }
    wanted = Request((AgentSpec("a", "~/a.md"),), "hub", 1884, skip_broker=True, whole=True)
    assert request_from_document(document) == wanted


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"brokr": "x"}, "unknown key 'brokr'"),
        ({"port": "1883"}, "'1883', which is no int"),
        ({"agents": {"a": {}}}, "not a list of tables"),
        ({"agents": [{"inbox": "x"}]}, "needs an id"),
        ({"agents": []}, "none in it"),
        ({"agents": [{"id": "a"}, {"id": "b"}, {"id": "a"}]}, "'a' is in the spec twice"),
        ({"agents": [{"id": "a", "invok": "x"}]}, "unknown key 'invok'"),
    ],
)
def test_a_document_with_a_mistake_is_refused(document: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        request_from_document(document)


def test_it_is_kept() -> None:
    system, folder = FakeSystem(), Path("/home/pi/.local/state/swarmbus/.provision")
    system.make_dir(folder)
    assert spec.load_kept(system, folder) is None
    spec.keep(KEPT, system, folder)
    assert spec.load_kept(system, folder) == KEPT
    system.writes.clear()
    spec.keep(KEPT, system, folder)
    assert system.writes == []
