"""Listener, broker and senders are killed again and again: no message is lost, none is there twice.

``SWARMBUS_FULL_STORM=1`` makes it the long one; ``SWARMBUS_STORM_SEED=<number>`` repeats the victims and
moments of an earlier one, as far as the machine lets them be the same.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from swarmbus.control import NoListener, request
from swarmbus.errors import SwarmbusError
from swarmbus.inbox_file import parse_entries
from swarmbus.journal_file import rotated_files
from swarmbus.mailbox import Mailbox
from swarmbus.paths import mailbox_path
from tests.conftest import MakeBroker
from tests.lab.mosquitto import Broker

AGENTS = Path(__file__).with_name("storm_agents.py")
RECEIVER = "receiver"
SENDERS = [f"sender{number}" for number in range(8)]

#: As /etc/mosquitto/mosquitto.conf of Debian 12 has it: saved every half an hour, and at a proper end.
DEBIANS = ("persistence true", "persistence_location {folder}/")
#: As init writes it.
OURS = (*DEBIANS, "autosave_on_changes true", "autosave_interval 100", "max_queued_messages 100000")


@dataclass(frozen=True)
class Size:
    """How much of a storm.

    Attributes:
        seconds: For how long something is killed every now and then.
        calm: How long all may take afterwards until everything has arrived, in seconds.
    """

    messages: int
    seconds: float
    calm: float

    @property
    def each(self) -> int:
        return self.messages // len(SENDERS)


SIZE = Size(2000, 120, 240) if os.environ.get("SWARMBUS_FULL_STORM") == "1" else Size(400, 8, 60)


class Crew:
    """The processes, each by its name, and the arguments to start it again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arguments: dict[str, list[str]] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def hire(self, name: str, *arguments: object) -> None:
        self._arguments[name] = [str(argument) for argument in arguments]
        self.start(name)

    def start(self, name: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, str(AGENTS), *self._arguments[name]], stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        self._processes[name].kill()
        self._processes[name].wait()

    def terminate(self, name: str) -> int:
        self._processes[name].terminate()
        return self._processes[name].wait(30)

    def status(self, name: str) -> int | None:
        return self._processes[name].poll()

    def log(self, name: str) -> str:
        return "".join((self._folder / f"{name}.log").read_text(errors="replace").splitlines(True)[-30:])

    def dismiss(self) -> None:
        for name in self._processes:
            self.kill(name)


@pytest.mark.timeout(SIZE.seconds + SIZE.calm + 60)
@pytest.mark.parametrize("config", [DEBIANS, OURS], ids=["debian's broker", "our broker"])
def test_storm_loses_nothing_and_doubles_nothing(
    make_broker: MakeBroker, tmp_path: Path, config: tuple[str, ...]
) -> None:
    seed = int(os.environ.get("SWARMBUS_STORM_SEED", random.SystemRandom().randrange(10**9)))
    print(f"repeat it with SWARMBUS_STORM_SEED={seed}")
    broker = make_broker(*config)
    inbox, invoked = tmp_path / "inbox.md", tmp_path / "invoked"
    crew = Crew(tmp_path)
    try:
        crew.hire(RECEIVER, "listen", RECEIVER, broker.port, inbox, invoked)
        await_handled(0)
        every = SIZE.seconds * 0.8 / SIZE.each
        for sender in SENDERS:
            record = tmp_path / f"{sender}.sent"
            crew.hire(sender, "send", sender, broker.port, RECEIVER, SIZE.each, every, record)
        kills = storm(crew, broker, random.Random(seed))
        print(f"killed: {dict(kills)}")
        await_senders(crew)
        await_handled(last_seq())
        assert crew.terminate(RECEIVER) == 0, crew.log(RECEIVER)
    finally:
        crew.dismiss()
    reported = [line for sender in SENDERS for line in (tmp_path / f"{sender}.sent").read_text().split()]
    compare(reported, inbox, invoked)


def storm(crew: Crew, broker: Broker, chance: random.Random) -> Counter[str]:
    """Kill one after the other, and start it again at once or after a while."""
    kills: Counter[str] = Counter()
    end = time.monotonic() + SIZE.seconds
    down: list[tuple[float, str]] = []

    def start(name: str) -> None:
        if name == "broker":
            broker.start()
        else:
            crew.start(name)

    while time.monotonic() < end:
        time.sleep(chance.uniform(0.05, 0.6))
        for due, name in list(down):
            if time.monotonic() > due:
                down.remove((due, name))
                start(name)
        victim = chance.choice(["broker", RECEIVER, chance.choice(SENDERS)])
        if victim in (name for _, name in down) or (victim in SENDERS and crew.status(victim) == 0):
            continue
        if victim == "broker":
            broker.kill()
        else:
            crew.kill(victim)
        kills[victim] += 1
        down.append((time.monotonic() + chance.choice([0, 0.2, 1.5]), victim))
    for _, name in down:
        start(name)
    return kills


def await_senders(crew: Crew) -> None:
    end = time.monotonic() + SIZE.calm
    while late := [sender for sender in SENDERS if crew.status(sender) != 0]:
        failed = [sender for sender in late if crew.status(sender) is not None]
        assert not failed, f"{failed[0]} ended with {crew.status(failed[0])}:\n{crew.log(failed[0])}"
        assert time.monotonic() < end, f"{late} still wait for receipts:\n{crew.log(late[0])}"
        time.sleep(0.1)


def await_handled(seq: int) -> None:
    """Until the receiver is connected, and its handlers are done with all messages up to this one."""
    end = time.monotonic() + SIZE.calm
    while True:
        try:
            status: dict[str, Any] = request(RECEIVER, {"op": "status"})
        except (NoListener, SwarmbusError):
            status = {"connected": False}
        if status["connected"] and all(handler["lag"] == 0 for handler in status["handlers"]):
            return
        assert time.monotonic() < end, f"not all of {seq} messages are handled: {status}"
        time.sleep(0.1)


def last_seq() -> int:
    with Mailbox.open(mailbox_path(RECEIVER)) as mailbox:
        return mailbox.inbound.last_seq()


def compare(reported: list[str], inbox: Path, invoked: Path) -> None:
    """What the senders were promised, what the mailbox has, what the handlers were given."""
    with Mailbox.open(mailbox_path(RECEIVER)) as mailbox:
        stored = [message.id for message in mailbox.inbound.after(0, 1_000_000)]
        assert mailbox.quarantine.list() == []
    written = [
        entry.id or ""
        for path in (*reversed(rotated_files(inbox)), inbox)
        for entry in parse_entries(path.read_text())
    ]
    assert len(reported) == len(set(reported)) == SIZE.each * len(SENDERS)
    lost = set(reported) - set(stored)
    assert not lost, f"lost on the way: {what_senders_know(lost)}"
    assert twice(stored) == [], "twice in the mailbox"
    assert set(stored) - set(written) == set(), "lost between mailbox and inbox file"
    assert set(written) - set(stored) == set(), "in the inbox file and not in the mailbox"
    assert twice(written) == [], "twice in the inbox file"
    assert written == stored, "in another order in the inbox file"
    assert set(stored) - set(invoked.read_text().split()) == set(), "never handed to the command"
    for sender in SENDERS:
        with Mailbox.open(mailbox_path(sender)) as mailbox:
            left = mailbox.outbound.undelivered()
            assert not {message.id for message in left} & set(reported), "promised and given up"


def what_senders_know(ids: set[str]) -> Counter[str]:
    """For the text of a failure: in which states the senders' spools have these."""
    states: Counter[str] = Counter()
    for sender in SENDERS:
        with Mailbox.open(mailbox_path(sender)) as mailbox:
            sent = [mailbox.outbound.get(message_id) for message_id in ids]
            states.update(f"{one.state}: {one.reason}" for one in sent if one is not None)
    return states


def twice(ids: list[str]) -> list[str]:
    return [one for one, count in Counter(ids).items() if count > 1]
