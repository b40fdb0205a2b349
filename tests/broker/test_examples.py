"""The programs of docs/examples do what they say, as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.broker.agents import bus_of, listening
from tests.lab.frameworks import CHECKOUT, LANGGRAPH, python_with
from tests.lab.loop import in_loop
from tests.lab.mosquitto import Broker

EXAMPLES = CHECKOUT / "docs" / "examples"
QUESTION = "how many words are these?"


@pytest.fixture(autouse=True)
def where(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples take the broker from the environment."""
    monkeypatch.setenv("SWARMBUS_BROKER", broker.host)
    monkeypatch.setenv("SWARMBUS_PORT", str(broker.port))


def run(program: str, *words: str, python: Path = Path(sys.executable)) -> str:
    argv = [str(python), str(EXAMPLES / program), *words]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=90, env=environment)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@contextmanager
def coder() -> Iterator[subprocess.Popen[str]]:
    """The agent of asyncio_agent.py, once it listens."""
    argv = [sys.executable, str(EXAMPLES / "asyncio_agent.py"), "coder"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "coder listens\n"
        try:
            yield process
        finally:
            process.terminate()


@in_loop
async def test_asyncio_agent_answers_questions_and_no_answers(broker: Broker) -> None:
    async with listening(broker, "planner") as planner:
        with coder() as process:
            question = await planner.send("coder", "question", QUESTION)
            answer = await planner.watch_inbox(30)
            assert answer is not None
            assert (answer["body"], answer["in_reply_to"]) == ("5 words", question.id)
            await planner.send("coder", "thanks", "good", in_reply_to=answer["id"], wait="stored")
            assert await planner.watch_inbox(0.5) is None
        assert process.returncode == 0


@in_loop
async def test_asyncio_agent_answers_what_came_while_it_was_away(broker: Broker) -> None:
    with coder():
        pass
    async with listening(broker, "planner") as planner:
        await planner.send("coder", "question", QUESTION)
        with coder():
            answer = await planner.watch_inbox(30)
    assert answer is not None
    assert answer["body"] == "5 words"


def test_langgraph_node_asks_and_goes_on_with_the_answer(broker: Broker) -> None:
    python = python_with(LANGGRAPH)
    with coder():
        told = run("langgraph_node.py", "planner", "coder", QUESTION, python=python)
        assert told == f"Asked {QUESTION!r}, told '5 words'.\n"
        # And again, with the first answer in the mailbox.
        assert "'2 words'" in run("langgraph_node.py", "planner", "coder", "only two", python=python)


@in_loop
async def test_node_leaves_other_mail_to_the_agent(broker: Broker) -> None:
    assert await bus_of(broker, "planner").read_inbox() == []
    async with bus_of(broker, "stranger") as stranger:
        await stranger.send("planner", "something else", "b")
    with coder():
        run("langgraph_node.py", "planner", "coder", QUESTION, python=python_with(LANGGRAPH))
    subjects = [message["subject"] for message in await bus_of(broker, "planner").read_inbox()]
    assert "something else" in subjects


def test_crew_works_one_after_the_other() -> None:
    assert run("crew_loop.py", "the bees of the roof") == "A text made of facts about the bees of the roof.\n"
