"""Wakes under attack: a flood, and commands that do all that commands should not."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from swarmbus import control
from swarmbus.mailbox import StoredMessage
from tests.broker.agents import listening, stored, subjects
from tests.lab.command import swarmbus
from tests.lab.listener import Listener
from tests.lab.loop import in_loop
from tests.lab.mosquitto import Broker

FLOOD = 5_000

_CLOCK = 0.05
"""Seconds; the clock of modification times has ticks of up to 10 ms."""

# Says if another of its kind runs beside it.
ALONE = """#!/bin/sh
mkdir "$HOME/runs" || echo two at once >> "$HOME/two"
sleep 1
rmdir "$HOME/runs"
echo "$SWARMBUS_ID" >> "$HOME/woken"
"""


@pytest.mark.timeout(300)
@in_loop
async def test_a_flood_of_high_priority_is_a_handful_of_wakes(broker: Broker, home: Path) -> None:
    wake = home / "wake"
    wake.write_text(ALONE)
    wake.chmod(0o755)
    config = home / ".config/swarmbus/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("wake_cooldown = 0\n")
    slowest = 0.0
    with Listener("coder", broker, f"--invoke={wake}"):
        async with listening(broker, "planner") as planner:
            sending = [
                asyncio.create_task(
                    planner.send("coder", f"m{number}", "now!", priority="high", wait="stored", timeout=200)
                )
                for number in range(FLOOD)
            ]
            while not all(task.done() for task in sending):
                began = time.monotonic()
                await asyncio.to_thread(control.request, "coder", {"op": "status"}, 20)
                slowest = max(slowest, time.monotonic() - began)
                await asyncio.sleep(0.2)
            assert {task.result().state for task in sending} <= {"stored", "seen"}
        end = time.monotonic() + 120
        while await asyncio.to_thread(lag):
            assert time.monotonic() < end, "not all were decided upon"
            await asyncio.sleep(0.2)
    assert sorted(subjects("coder")) == sorted(f"m{number}" for number in range(FLOOD))
    assert not (home / "two").exists(), "two wakes ran at once"
    assert 1 <= len((home / "woken").read_text().split()) < 60
    assert slowest < 10, "the listener did not answer while it was flooded"


def lag() -> int:
    (invoke,) = [
        one for one in control.request("coder", {"op": "status"}, 20)["handlers"] if one["name"] == "invoke"
    ]
    return int(invoke["lag"])


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("/no/such/program", "cannot run /no/such/program"),
        ("sh -c 'echo why >&2; exit 3'", "exited 3: why"),
        ("sh -c 'sleep 60 & sleep 60'", "took longer than 1 s"),
        ("sh -c 'yes | head -c 30000000; exit 4'", "exited 4"),
        ("sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; kill -9 $$'", "was ended by SIGKILL"),
    ],
)
def test_a_bad_wake_command_is_told_and_the_listener_goes_on(
    broker: Broker, home: Path, command: str, problem: str
) -> None:
    config = home / ".config/swarmbus/config.toml"
    config.parent.mkdir(parents=True)
    seconds = 1 if "took longer" in problem else 60
    config.write_text(f"invoke_attempts = 1\ninvoke_timeout = {seconds}\nwake_cooldown = 0\n")
    where = [f"--broker={broker.host}", f"--port={broker.port}"]
    with Listener("coder", broker, f"--invoke={command}") as listener:
        to = ["--agent-id=coder", "--to=coder", "--body=b", "--wait=stored", *where]
        sent = swarmbus("send", *to, "--subject=first", "--priority=high", "--json").json
        end = time.monotonic() + 80
        while not (letters := swarmbus("quarantine", "--agent-id=coder", "--json").json):
            assert time.monotonic() < end, "no dead letter"
            time.sleep(0.1)
        assert problem in letters[0]["reason"]
        story = swarmbus("trace", "--agent-id=coder", sent["id"], "--json").json["events"]
        assert problem in json.dumps([event for event in story if event["what"] == "wake"])
        assert swarmbus("send", *to, "--subject=second").status == 0
        assert listener.running
    assert subjects("coder") == ["first", "second"]


@pytest.mark.timeout(180)
def test_two_agents_that_only_answer_each_other_come_to_rest(broker: Broker, home: Path) -> None:
    answer = home / "answer"
    send = f"{sys.executable} -m swarmbus send --broker {broker.host} --port {broker.port} --priority high"
    answer.write_text(
        "#!/bin/sh\n"
        f'exec {send} --agent-id "$SWARMBUS_TO" --to "$SWARMBUS_FROM" --subject thanks --body you\n'
    )
    answer.chmod(0o755)
    config = home / ".config/swarmbus/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("wake_cooldown = 0\nwake_hops = 4\n")
    with Listener("coder", broker, f"--invoke={answer}"), Listener("planner", broker, f"--invoke={answer}"):
        words = ["--agent-id=planner", "--to=coder", "--subject=hello", "--body=b", "--priority=high"]
        swarmbus("send", *words, f"--broker={broker.host}", f"--port={broker.port}")
        end = time.monotonic() + 60
        while 5 not in (hop(one) for one in [*stored("coder"), *stored("planner")]):
            assert time.monotonic() < end, "the answers did not count"
            time.sleep(0.2)
        time.sleep(2)
        every = [*stored("coder"), *stored("planner")]
    assert sorted(hop(one) for one in every) == [0, 1, 2, 3, 4, 5]
    assert len({one.extra.get("thread", one.id) for one in every}) == 1


def hop(one: StoredMessage) -> int:
    return int(one.extra.get("hops", 0))


def test_a_pause_holds_wakes_back_until_it_is_taken_back(broker: Broker, home: Path) -> None:
    where = [f"--broker={broker.host}", f"--port={broker.port}"]
    woken = home / "woken"

    def send(subject: str) -> str:
        words = ["--agent-id=planner", "--to=coder", f"--subject={subject}", "--body=b", "--priority=high"]
        return swarmbus("send", *words, "--wait=stored", *where).err

    command = f"sh -c 'echo \"$SWARMBUS_SUBJECT\" >> {woken}'"
    with Listener("coder", broker, f"--invoke={command}") as listener:
        paused = swarmbus("pause", "--agent=coder", "--reason=too loud", "--json", *where)
        assert (paused.status, paused.json["scope"]) == (0, "agent coder")
        until_listed("too loud", where)
        assert "coder is not woken at present: agent coder paused by " in send("first")
        send("second")
        listener.terminate()
        listener.start()
        send("third")
        assert "coder is not woken" in swarmbus("list", *where).err
        assert not woken.exists(), "it was woken all the same"
        assert subjects("coder") == ["first", "second", "third"]

        assert swarmbus("resume", "--agent=coder", *where).out == "resumed  agent coder\n"
        wait_for(woken.exists, "not woken after the end of the pause")
        time.sleep(0.5)
        assert woken.read_text() == "first\n"
        assert "too loud" not in swarmbus("list", *where).err


@pytest.mark.parametrize("option", ["--host", "--bus"])
def test_a_pause_of_host_or_bus_ends_by_itself(broker: Broker, home: Path, option: str) -> None:
    where = [f"--broker={broker.host}", f"--port={broker.port}"]
    woken = home / "woken"
    paused = swarmbus("pause", option, "--for=3s", "--json", *where)
    until = datetime.fromisoformat(paused.json["until"]).timestamp()
    with Listener("coder", broker, f"--invoke=touch {woken}"):
        words = ["--agent-id=planner", "--to=coder", "--subject=s", "--body=b", "--priority=high"]
        swarmbus("send", *words, "--wait=stored", *where)
        wait_for(woken.exists, "not woken when the time was over")
    assert woken.stat().st_mtime > until - _CLOCK, "it was woken while the pause held"


def test_one_pause_at_a_time(broker: Broker) -> None:
    ran = swarmbus("pause", "--host", "--bus", f"--port={broker.port}")
    assert ran.status == 2
    assert "exclude each other" in ran.err


def until_listed(word: str, where: list[str]) -> None:
    wait_for(lambda: word in swarmbus("list", *where).err, f"{word} is not in the list")


def wait_for(is_so: Callable[[], bool], problem: str) -> None:
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end, problem
        time.sleep(0.1)
