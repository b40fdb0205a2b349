"""Agents of the released tool, swarmbus-py, and ours on one broker: they write, list and hear each other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from swarmbus.bus import AgentBus
from swarmbus.errors import NoSubscriber
from tests.broker.agents import Collect, bus_of, listening, quarantined, sent, stored, subjects
from tests.conftest import MakeBroker
from tests.lab.loop import in_loop, until
from tests.lab.mosquitto import Broker
from tests.lab.peers import RELEASES, peer

pytestmark = pytest.mark.parametrize("release", RELEASES)

HEADING = re.compile(r"^## \[\d{4}-\d\d-\d\d \d\d:\d\d\] From: (\S+) \| (.*)$", re.MULTILINE)


class Elder:
    """The released tool: its commands, in a home of its own."""

    def __init__(self, release: str, broker: Broker, home: Path) -> None:
        self._program = str(peer(release) / "swarmbus")
        self._where = ["--broker", broker.host, "--port", str(broker.port)]
        self._environment = os.environ | {"HOME": str(home)}
        self._broker = broker
        self.inbox = home / "inbox.md"

    async def run(self, command: str, *arguments: str) -> str:
        """One command that ends; its standard output."""
        process = await asyncio.create_subprocess_exec(
            self._program, command, *arguments, *self._where,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self._environment,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0, err.decode()
        return out.decode()

    @contextlib.asynccontextmanager
    async def listening(self, *arguments: str) -> AsyncIterator[None]:
        """Its daemon, from its subscription to its proper end."""
        argv = ["start", "--agent-id", "elder", "--inbox", str(self.inbox), *arguments, *self._where]
        mark = self._broker.mark()
        process = await asyncio.create_subprocess_exec(
            self._program, *argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self._environment
        )
        try:
            # Its presence says "online" before it has subscribed.
            subscribed = "Sending SUBACK to swarmbus-elder"
            await asyncio.to_thread(self._broker.wait_for_log, subscribed, since=mark, timeout=20)
            yield
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()

    def entries(self) -> list[tuple[str, str]]:
        """Sender and subject of each entry in its inbox file."""
        return HEADING.findall(self.inbox.read_text()) if self.inbox.exists() else []


@pytest.fixture
def broker(make_broker: MakeBroker) -> Broker:
    """One that logs what is subscribed to."""
    return make_broker("log_type all")


@pytest.fixture
def elder(release: str, broker: Broker, tmp_path: Path) -> Elder:
    return Elder(release, broker, tmp_path)


@in_loop
async def test_they_write_to_us(elder: Elder, broker: Broker) -> None:
    collect = Collect()
    async with listening(broker, "coder", collect) as coder:
        await elder.run(
            "send", "--agent-id", "elder", "--to", "coder", "--subject", "naïve 🐝",
            "--body", "line one\nline two",
            "--content-type", "text/markdown", "--priority", "high", "--reply-to", "boss",
        )  # fmt: skip
        await until(lambda: len(collect.messages) == 1)
        (message,) = await coder.read_inbox()
    assert (message["from"], message["to"], message["subject"], message["body"]) == (
        "elder", "coder", "naïve 🐝", "line one\nline two",
    )  # fmt: skip
    assert (message["content_type"], message["priority"], message["reply_to"]) == (
        "text/markdown", "high", "boss",
    )  # fmt: skip
    assert quarantined("coder") == []


@in_loop
async def test_they_write_to_us_while_we_are_away(elder: Elder, broker: Broker) -> None:
    async with listening(broker, "coder"):
        pass
    await elder.run(
        "send", "--agent-id", "elder", "--to", "coder", "--subject", "later", "--body", "x" * 60_000
    )
    (message,) = await bus_of(broker, "coder").read_inbox()
    assert (message["subject"], len(message["body"])) == ("later", 60_000)


@in_loop
async def test_we_write_to_their_daemon_and_it_has_each_message_once(elder: Elder, broker: Broker) -> None:
    async with elder.listening(), bus_of(broker, "planner") as planner:
        delivery = await planner.send(
            to="elder",
            subject="hello",
            body="got a minute?",
            reply_to="boss",
            extra={"thread": "t"},
            wait="stored",
        )
        # It sends no receipts: what the broker said is all that will be known.
        assert (delivery.state, delivery.final) == ("accepted", True)
        assert "elder" in (delivery.reason or "")
        await asyncio.gather(*(planner.send(to="elder", subject=f"{n}", body="") for n in range(50)))
        await until(lambda: len(elder.entries()) >= 51)
        await asyncio.sleep(0.3)
    assert sent("planner", delivery.id).done
    assert sorted(elder.entries()) == sorted(
        [("planner", "hello"), *(("planner", str(n)) for n in range(50))]
    )
    assert "got a minute?" in elder.inbox.read_text()


@in_loop
async def test_our_message_does_not_come_twice_when_connections_break(elder: Elder, broker: Broker) -> None:
    async with elder.listening():
        async with listening(broker, "planner") as planner:
            await planner.send(to="elder", subject="first", body="")
        # Its listener starts again, and others of its processes come and go.
        async with listening(broker, "planner"):
            await bus_of(broker, "planner").send(to="elder", subject="second", body="")
        for number in range(3):
            await bus_of(broker, "planner").send(to="elder", subject=f"alone {number}", body="")
        await until(lambda: len(elder.entries()) >= 5)
        await asyncio.sleep(0.3)
    assert [subject for _, subject in elder.entries()] == ["first", "second", "alone 0", "alone 1", "alone 2"]


@in_loop
async def test_we_write_to_them_while_they_are_away(elder: Elder, broker: Broker) -> None:
    async with elder.listening():
        pass
    delivery = await bus_of(broker, "planner").send(to="elder", subject="later", body="")
    assert delivery.state == "accepted"
    async with elder.listening():
        await until(lambda: elder.entries() == [("planner", "later")])


@in_loop
async def test_we_answer_where_they_want_the_answer(elder: Elder, broker: Broker) -> None:
    async with elder.listening(), listening(broker, "coder") as coder:
        await elder.run(
            "send",
            "--agent-id",
            "worker",
            "--to",
            "coder",
            "--subject",
            "question",
            "--body",
            "?",
            "--reply-to",
            "elder",
        )
        await until(lambda: subjects("coder") == ["question"])
        question = stored("coder")[0]
        answer_to = question.reply_to or question.sender
        await coder.send(to=answer_to, subject="answer", body="!", in_reply_to=question.id)
        await until(lambda: elder.entries() == [("coder", "answer")])


@in_loop
async def test_broadcasts_go_both_ways(elder: Elder, broker: Broker) -> None:
    async with elder.listening(), listening(broker, "coder"), listening(broker, "planner") as planner:
        await planner.send(to="broadcast", subject="from us", body="")
        await elder.run(
            "send", "--agent-id", "elder", "--to", "broadcast", "--subject", "from them", "--body", "x"
        )
        await until(lambda: ("planner", "from us") in elder.entries())
        await until(lambda: subjects("coder") == ["from us", "from them"])
        await until(lambda: subjects("planner") == ["from them"])
    assert elder.entries().count(("planner", "from us")) == 1


@in_loop
async def test_we_list_each_other(elder: Elder, broker: Broker) -> None:
    async with elder.listening(), listening(broker, "coder"):
        assert await bus_of(broker, "planner").list_agents() == ["coder", "elder"]
        assert sorted(json.loads(await elder.run("list", "--json"))) == ["coder", "elder"]
        (ours, theirs) = await bus_of(broker, "planner").list_presence()
        assert (ours.wire, theirs.wire) == (1, None)
    assert json.loads(await elder.run("list", "--json")) == []
    assert await bus_of(broker, "planner").list_agents() == []


@in_loop
async def test_their_watch_and_read_get_what_we_send(elder: Elder, broker: Broker) -> None:
    async with bus_of(broker, "planner") as planner:
        watching = asyncio.create_task(
            elder.run("watch", "--agent-id", "watcher", "--timeout", "20", "--json")
        )
        delivery = await sent_when_there(planner, "watcher")
        said = json.loads(await watching)
    message = said[0] if isinstance(said, list) else said
    assert (message["id"], message["from"], message["subject"]) == (delivery, "planner", "hello")
    assert json.loads(await elder.run("read", "--agent-id", "watcher", "--json")) == []


async def sent_when_there(planner: AgentBus, to: str) -> str:
    """Send until somebody listens; the id of what was sent."""
    while True:
        try:
            return (await planner.send(to=to, subject="hello", body="got a minute?")).id
        except NoSubscriber:
            await asyncio.sleep(0.05)


@in_loop
async def test_agent_that_changes_over_to_us_is_known_by_its_receipts(elder: Elder, broker: Broker) -> None:
    async with bus_of(broker, "planner") as planner:
        async with elder.listening():
            assert (await planner.send(to="elder", subject="old", body="", wait="stored")).state == "accepted"
            await until(lambda: len(elder.entries()) == 1)
        collect = Collect()
        async with listening(broker, "elder", collect):
            delivery = await planner.send(to="elder", subject="new", body="", wait="stored")
            assert delivery.state == "stored"
        async with elder.listening():
            assert (await planner.send(to="elder", subject="old again", body="", wait="stored")).final
            await until(lambda: ("planner", "old again") in elder.entries())
    assert collect.subjects == ["new"]
