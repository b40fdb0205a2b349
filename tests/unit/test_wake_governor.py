"""Who is woken by what, and how often; the commands are real, and run as child processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import pytest

from swarmbus.envelope import AgentMessage
from swarmbus.errors import ConfigError
from swarmbus.handlers import DirectInvocationHandler, InvocationFailed
from swarmbus.handlers.runs import ChildRunner, Command
from swarmbus.handlers.wake_governor import WakeGovernor
from swarmbus.handlers.wake_policy import QuietHours, WakePolicy
from swarmbus.mailbox import Mailbox
from swarmbus.provision.mailbox_look import look_into_mailbox
from tests.unit.message_samples import message


class Agent:
    """An agent's mailbox, and the command that notes each wake by the id of its message."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "mailbox.db"
        self.mailbox = Mailbox.open(self.path)
        self.woken = folder / "woken"

    def got(self, *messages: AgentMessage) -> None:
        with self.mailbox.transaction():
            self.mailbox.inbound.store(messages, time.time())

    async def decide(self, *messages: AgentMessage, script: str = "", **policy: Any) -> None:
        """Have the governor handle these, one after the other, as the dispatcher does."""
        command = DirectInvocationHandler(["sh", "-c", f'echo "$SWARMBUS_ID" >> {self.woken}; {script}'])
        governor = WakeGovernor(command, WakePolicy(**policy), self.path)
        await governor.start()
        try:
            for each in messages:
                await governor.handle(each)
        finally:
            await governor.close()

    @property
    def wakes(self) -> list[str]:
        return self.woken.read_text().split() if self.woken.exists() else []

    def story(self, msg: AgentMessage) -> list[str]:
        return [f"{event.what}: {event.detail}" for event in self.mailbox.history.of(msg.id)][1:]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    yield agent
    agent.mailbox.close()


def high(number: int, **fields: Any) -> AgentMessage:
    return message(number, priority="high", **fields)


def test_by_default_high_priority_wakes_and_nothing_else(agent: Agent) -> None:
    low, normal, urgent = message(1, priority="low"), message(2), high(3)
    agent.got(low, normal, urgent)
    asyncio.run(agent.decide(low, normal, urgent))
    assert agent.wakes == [urgent.id]
    assert agent.story(normal) == ["no wake: priority normal"]
    assert agent.story(urgent) == ["wake: begins", "wake: done"]


@pytest.mark.parametrize(("wake", "count"), [("all", 1), ("none", 0)])
def test_all_and_none(agent: Agent, wake: str, count: int) -> None:
    agent.got(message(1, priority="low"))
    asyncio.run(agent.decide(message(1, priority="low"), wake=wake))
    assert len(agent.wakes) == count


def test_only_the_senders_that_may(agent: Agent) -> None:
    agent.got(high(1), high(2, sender="boss"))
    asyncio.run(agent.decide(high(1), high(2, sender="boss"), senders=frozenset({"boss"})))
    assert agent.wakes == [high(2).id]
    assert agent.story(high(1)) == ["no wake: planner is not in wake_from"]


def test_many_messages_are_one_wake(agent: Agent) -> None:
    many = [high(number) for number in range(1, 50)]
    agent.got(*many)
    asyncio.run(agent.decide(*many))
    assert agent.wakes == [many[0].id]
    assert agent.story(many[-1]) == ["no wake: a wake for an earlier message began when this one was there"]


def test_what_comes_during_a_wake_begins_another(agent: Agent) -> None:
    async def run() -> None:
        first = asyncio.create_task(agent.decide(high(1), script="sleep 0.3"))
        while not agent.wakes:
            await asyncio.sleep(0.01)
        agent.got(high(2), high(3))
        await first
        await agent.decide(high(2), high(3))

    agent.got(high(1))
    asyncio.run(run())
    assert agent.wakes == [high(1).id, high(2).id]


def test_what_was_read_wakes_nobody(agent: Agent) -> None:
    agent.got(high(1))
    agent.mailbox.take("default", 10)
    asyncio.run(agent.decide(high(1)))
    assert agent.wakes == []
    assert "no wake: already read" in agent.story(high(1))


def test_a_cooldown_lies_between_two_wakes_and_what_is_read_meanwhile_wakes_nobody(agent: Agent) -> None:
    async def run() -> None:
        await agent.decide(high(1))
        agent.got(high(2))
        waiting = asyncio.create_task(agent.decide(high(2), cooldown=1.0))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        agent.mailbox.take("default", 10)
        await waiting

    agent.got(high(1))
    asyncio.run(run())
    assert agent.wakes == [high(1).id]
    assert "no wake: already read" in agent.story(high(2))


def test_a_day_has_so_many_wakes_and_no_more(agent: Agent) -> None:
    async def run() -> None:
        await agent.decide(high(1), daily=1)
        agent.got(high(2))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(agent.decide(high(2), daily=1), 0.3)

    agent.got(high(1))
    asyncio.run(run())
    assert agent.wakes == [high(1).id]


def test_the_command_is_told_how_much_is_unread(agent: Agent, tmp_path: Path) -> None:
    agent.got(high(1), message(2))
    asyncio.run(agent.decide(high(1), script=f"echo $SWARMBUS_UNREAD > {tmp_path}/unread"))
    assert (tmp_path / "unread").read_text() == "2\n"


def test_a_wake_that_fails_is_noted_and_tried_again_by_whoever_called(agent: Agent) -> None:
    agent.got(high(1), high(2))
    for _ in range(2):
        with pytest.raises(InvocationFailed):
            asyncio.run(agent.decide(high(1), script="exit 3"))
    asyncio.run(agent.decide(high(2)))
    assert agent.wakes == [high(1).id] * 2, "the second was there when the first was tried"
    story = agent.story(high(1))
    assert [line[:14] for line in story] == ["wake: begins", "wake: failed: "] * 2
    assert "exited 3" in story[1]


def test_a_wake_that_nobody_saw_the_end_of_is_gone_on_with(agent: Agent) -> None:
    async def cut_off() -> None:
        task = asyncio.create_task(agent.decide(high(1), script="sleep 20"))
        while not agent.wakes:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    agent.got(high(1))
    asyncio.run(cut_off())
    # With the budget gone: it is the wake that was begun, not a new one.
    asyncio.run(asyncio.wait_for(agent.decide(high(1), daily=1), 10))
    assert agent.story(high(1)) == ["wake: begins", "wake: done"]


def test_a_conversation_wakes_up_to_the_last_hop_that_may(
    agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    agent.got(high(1, hops=3))
    asyncio.run(agent.decide(high(1, hops=3), hops=3))
    agent.got(high(2, hops=4))
    asyncio.run(agent.decide(high(2, hops=4), hops=3))
    assert agent.wakes == [high(1).id]
    assert agent.story(high(2)) == ["no wake: hop 4 of a conversation of agents, wake_hops is 3"]
    assert "hop 4" in caplog.text


def test_one_sender_wakes_so_often_in_an_hour_and_others_still_do(agent: Agent) -> None:
    for number in (1, 2, 3):
        agent.got(high(number))
        asyncio.run(agent.decide(high(number), pair_hourly=2))
    agent.got(high(4, sender="boss"))
    asyncio.run(agent.decide(high(4, sender="boss"), pair_hourly=2))
    assert agent.wakes == [high(1).id, high(2).id, high(4).id]
    assert "planner has woken us 2 times within an hour" in agent.story(high(3))[0]


@pytest.mark.parametrize(
    ("quiet", "at", "hours"),
    [
        ("22:00-07:00", "23:00", 8),
        ("22:00-07:00", "06:00", 1),
        ("22:00-07:00", "07:00", 0),
        ("22:00-07:00", "12:00", 0),
        ("9:00-17:00", "12:00", 5),
        ("9:00-17:00", "17:00", 0),
    ],
)
def test_quiet_hours(quiet: str, at: str, hours: int) -> None:
    now = datetime.fromisoformat(f"2026-04-14T{at}").replace(tzinfo=UTC)
    assert QuietHours.parse(quiet).seconds_left(now) == hours * 3600


@pytest.mark.parametrize("text", ["night", "22-7", "25:00-07:00", "22:00"])
def test_what_is_no_part_of_a_day_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        QuietHours.parse(text)
    assert "22:00-07:00" in str(caught.value.hint)


def test_quiet_hours_hold_a_wake_back(agent: Agent) -> None:
    agent.got(high(1))

    async def run() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(agent.decide(high(1), quiet=around_now()), 0.3)

    asyncio.run(run())
    assert agent.wakes == []


def around_now() -> QuietHours:
    now = datetime.now().astimezone()
    return QuietHours((now - timedelta(hours=1)).time(), (now + timedelta(hours=1)).time())


def governed(agent: Agent, command: DirectInvocationHandler, **policy: Any) -> dict[str, Any]:
    """What a rehearsal says."""

    async def run() -> dict[str, Any]:
        governor = WakeGovernor(command, WakePolicy(**policy), agent.path)
        await governor.start()
        try:
            return await governor.rehearse({"op": "rehearse", "agent_id": "coder"})
        finally:
            await governor.close()

    return asyncio.run(run())


def test_a_rehearsal_runs_no_command_and_is_no_wake(agent: Agent) -> None:
    agent.got(high(1))
    came = governed(agent, DirectInvocationHandler(["touch", str(agent.woken)]))
    assert (came["failure"], came["unit"], came["refused"], came["held"]) == (None, None, None, None)
    assert came["milliseconds"] > 0
    assert not agent.woken.exists()
    assert agent.mailbox.wakes.count_since(0) == 0
    assert agent.mailbox.inbound.unread("default") == 1


def test_a_rehearsal_finds_the_command_where_a_wake_would(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wake = tmp_path / "bin/wake-me"
    wake.parent.mkdir()
    wake.write_text("#!/bin/sh\n")
    wake.chmod(0o755)
    command = DirectInvocationHandler("wake-me coder")
    assert governed(agent, command)["failure"].startswith("wake-me is not on the PATH of a wake, ")
    monkeypatch.setenv("PATH", str(wake.parent))
    assert governed(agent, command)["failure"] is None
    wake.chmod(0o644)
    assert governed(agent, command)["failure"] is not None


class Hanging(ChildRunner):
    """Starts something else than it is told to, which does not end."""

    async def rehearse(self, command: Command) -> Any:
        return await self.run(Command(command.id, ["sleep", "60"], command.variables, b"", command.seconds))


class Unwritable(ChildRunner):
    """Has no folder for its orders."""

    async def rehearse(self, command: Command) -> NoReturn:
        raise PermissionError(13, "Permission denied", "/wake-canary")


def test_a_rehearsal_that_hangs_is_ended_and_told(agent: Agent) -> None:
    came = governed(agent, DirectInvocationHandler("true", timeout=0.3, runner=Hanging()))
    assert came["failure"] == "what is started had not ended after 0.3 s"


def test_a_rehearsal_that_cannot_begin_is_told(agent: Agent) -> None:
    came = governed(agent, DirectInvocationHandler("true", runner=Unwritable()))
    assert came["failure"] == "nothing can be started: /wake-canary: Permission denied"


def test_a_rehearsal_says_what_holds_wakes_back(agent: Agent) -> None:
    command = DirectInvocationHandler("true")
    assert governed(agent, command, wake="none")["held"] == "wake is none"
    assert governed(agent, command, quiet=around_now())["held"].startswith("quiet hours, until ")


def test_what_is_held_back_is_in_the_status_until_it_wakes(agent: Agent) -> None:
    agent.got(high(1))

    async def run() -> tuple[dict[str, Any], dict[str, Any]]:
        governor = WakeGovernor(DirectInvocationHandler("true"), WakePolicy(quiet=around_now()), agent.path)
        await governor.start()
        handling = asyncio.create_task(governor.handle(high(1)))
        while governor.status()["held"] is None:
            await asyncio.sleep(0.01)
        during = governor.status()
        handling.cancel()
        await asyncio.gather(handling, return_exceptions=True)
        after = governor.status()
        await governor.close()
        return during, after

    during, after = asyncio.run(run())
    assert (during["held"]["id"], during["held"]["kind"]) == (high(1).id, "quiet")
    assert (during["wake"], during["today"], during["pause"], after["held"]) == ("high", 0, None, None)


def test_wakes_of_today_are_counted_in_the_status(agent: Agent) -> None:
    agent.got(high(1))

    async def run() -> dict[str, Any]:
        governor = WakeGovernor(DirectInvocationHandler("true"), WakePolicy(daily=7), agent.path)
        await governor.start()
        await governor.handle(high(1))
        try:
            return governor.status()
        finally:
            await governor.close()

    status = asyncio.run(run())
    assert (status["today"], status["daily"]) == (1, 7)


@pytest.mark.parametrize(
    ("policy", "extra", "reason"),
    [
        ({"hops": 3}, {"hops": 4}, "hop 4 of a conversation"),
        ({"pair_hourly": 1}, {}, "wake_pair_hourly allows no more"),
    ],
)
def test_a_loop_is_seen_in_the_mailbox(
    agent: Agent, policy: dict[str, Any], extra: dict[str, Any], reason: str
) -> None:
    agent.got(message(8), high(1))
    asyncio.run(agent.decide(message(8), high(1), **policy))
    assert look_into_mailbox(agent.path).loops == ()
    agent.got(high(2, **extra), high(3, **extra))
    asyncio.run(agent.decide(high(2, **extra), high(3, **extra), **policy))
    (loop,) = look_into_mailbox(agent.path).loops
    assert (loop.sender, loop.count, loop.latest) == (high(3).from_agent, 2, high(3).id)
    assert reason in loop.reason
