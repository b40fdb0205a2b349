"""``read``, ``watch``, ``tail`` and ``list`` at a real broker, with a listener daemon and without one."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swarmbus.lock import lock_holder
from swarmbus.paths import lock_path
from tests.lab.command import Ran, command, swarmbus
from tests.lab.listener import Listener
from tests.lab.mosquitto import Broker


@pytest.fixture(autouse=True)
def where(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """All commands of a test go to its broker."""
    monkeypatch.setenv("SWARMBUS_BROKER", broker.host)
    monkeypatch.setenv("SWARMBUS_PORT", str(broker.port))


@pytest.fixture(params=["listener", "no listener"])
def coder(request: pytest.FixtureRequest, broker: Broker) -> Iterator[None]:
    """The reader: with a listener daemon, and without one, known to the broker by an earlier read."""
    if request.param == "listener":
        with Listener("coder", None):
            yield
        return
    assert read().status == 0
    yield


def send(*subjects: str, to: str = "coder") -> None:
    for subject in subjects:
        ran = swarmbus("send", "--agent-id=planner", f"--to={to}", f"--subject={subject}", "--body=b")
        assert ran.status == 0, ran


def read(*words: str) -> Ran:
    return swarmbus("read", "--agent-id=coder", *words)


def subjects(ran: Ran) -> list[str]:
    assert ran.status == 0, ran
    return [message["subject"] for message in ran.json]


@pytest.mark.usefixtures("coder")
def test_unread_messages_oldest_first_and_once() -> None:
    send("one", "two", "three")
    assert subjects(read("--json", "--max=2")) == ["one", "two"]
    assert subjects(read("--json")) == ["three"]
    ran = read("--json")
    assert (subjects(ran), ran.err) == ([], "coder: nothing unread\n")


@pytest.mark.usefixtures("coder")
def test_peek_leaves_them_unread() -> None:
    send("one")
    assert subjects(read("--json", "--peek")) == ["one"]
    assert subjects(read("--json")) == ["one"]


@pytest.mark.usefixtures("coder")
def test_each_consumer_has_its_own_place() -> None:
    send("one")
    assert subjects(read("--json", "--consumer=archive")) == ["one"]
    assert subjects(read("--json", "--consumer=archive")) == []
    assert subjects(read("--json")) == ["one"]


@pytest.mark.usefixtures("coder")
def test_text_is_the_form_of_the_inbox_file() -> None:
    send("one", "two")
    first, second = read().out.split("\n\n")
    heading, body, last = first.splitlines()
    assert heading.startswith("## [")
    assert heading.endswith("] From: planner | one")
    assert body == "b"
    assert last.startswith("<!-- swarmbus id=")
    assert "From: planner | two" in second


@pytest.mark.usefixtures("coder")
def test_what_could_not_be_printed_is_not_read() -> None:
    send("one")
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run([*command(), "read", "--agent-id=coder"], stdout=full, stderr=subprocess.PIPE)
    assert ran.returncode == 2
    assert subjects(read("--json")) == ["one"]


@pytest.mark.usefixtures("coder")
def test_what_is_unread_is_printed_though_the_broker_is_away(broker: Broker) -> None:
    send("one")
    assert subjects(read("--json", "--peek")) == ["one"]
    broker.kill()
    ran = read("--json")
    assert subjects(ran) == ["one"]
    assert ran.err.startswith("warning: there may be more: ")
    ran = read("--json")
    assert ran.status == 2, "nothing unread and no broker is no empty inbox"
    assert ran.json["error"] == "broker-unreachable"


@pytest.mark.usefixtures("coder")
def test_sender_learns_that_it_was_read() -> None:
    with Listener("planner", None):
        ran = swarmbus("send", "--agent-id=planner", "--to=coder", "--subject=s", "--body=b", "--json")
        read()
        _until_seen(ran.json["id"])


def test_reading_the_inbox_file_is_reading_too(home: Path) -> None:
    with Listener("coder", None), Listener("planner", None):
        words = ["--agent-id=planner", "--to=coder", "--subject=s", "--body=b", "--wait=stored", "--json"]
        ran = swarmbus("send", *words)
        _until(lambda: (home / "sync/coder-inbox.md").read_text() != "")
        assert "From: planner | s" in swarmbus("tail", "--agent-id=coder").out
        _until_seen(ran.json["id"])


@pytest.mark.usefixtures("coder")
def test_watch_prints_what_came_before() -> None:
    send("one", "two")
    for subject in ("one", "two"):
        ran = swarmbus("watch", "--agent-id=coder", "--timeout=10", "--json")
        assert (ran.status, ran.json["subject"]) == (0, subject)


@pytest.mark.usefixtures("coder")
def test_watch_waits_for_the_next_one() -> None:
    watching = subprocess.Popen(
        [*command(), "watch", "--agent-id=coder", "--timeout=60", "--json"], stdout=subprocess.PIPE
    )
    time.sleep(1.0)
    assert watching.poll() is None
    send("one")
    out, _ = watching.communicate(timeout=30)
    assert (watching.returncode, json.loads(out)["subject"]) == (0, "one")


@pytest.mark.usefixtures("coder")
def test_watch_ends_with_1_when_nothing_comes() -> None:
    began = time.monotonic()
    ran = swarmbus("watch", "--agent-id=coder", "--timeout=0.5")
    assert (ran.status, ran.out, ran.err) == (1, "", "swarmbus watch: coder: no message within 0.5 s\n")
    assert time.monotonic() - began > 0.5


@pytest.mark.parametrize("flag", ["--persistent", "--no-persistent"])
def test_watch_takes_the_old_flags(flag: str) -> None:
    assert swarmbus("watch", "--agent-id=coder", "--timeout=0.2", flag).status == 1


def test_watch_says_2_when_the_broker_goes_away_meanwhile(broker: Broker) -> None:
    watching = subprocess.Popen(
        [*command(), "watch", "--agent-id=coder", "--timeout=60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    _until(lambda: lock_holder(lock_path("coder")) == (watching.pid, "staying"))
    broker.kill()
    _, err = watching.communicate(timeout=30)
    assert watching.returncode == 2
    assert b"lost the broker" in err


def test_watch_goes_on_when_a_listener_takes_the_session(broker: Broker) -> None:
    watching = subprocess.Popen(
        [*command(), "watch", "--agent-id=coder", "--timeout=60", "--json"], stdout=subprocess.PIPE
    )
    _until(lambda: lock_holder(lock_path("coder")) == (watching.pid, "staying"))
    with Listener("coder", None):
        send("one")
        out, _ = watching.communicate(timeout=30)
    assert (watching.returncode, json.loads(out)["subject"]) == (0, "one")


def test_messages_sent_between_two_reads_without_a_listener_are_kept_by_the_broker() -> None:
    read()
    send("one", "two")
    assert subjects(read("--json")) == ["one", "two"]


def test_tail_follows_and_json_is_an_object_a_line(home: Path) -> None:
    with Listener("coder", None):
        following = subprocess.Popen(
            [*command(), "tail", "--agent-id=coder", "--follow", "--json"], stdout=subprocess.PIPE
        )
        send("one", "two")
        assert following.stdout is not None
        lines = [json.loads(following.stdout.readline()) for _ in range(2)]
        following.kill()
        following.communicate()
    assert [(line["from"], line["subject"], line["body"]) for line in lines] == [
        ("planner", "one", "b"),
        ("planner", "two", "b"),
    ]


def test_list_is_an_id_a_line_and_an_array_of_ids() -> None:
    ran = swarmbus("list")
    assert (ran.status, ran.out, ran.err) == (0, "", "no agents online\n")
    with Listener("coder", None), Listener("planner", None) as planner:
        assert swarmbus("list").out == "coder\nplanner\n"
        assert swarmbus("list", "--json").json == ["coder", "planner"]
        planner.kill()
        _until(lambda: swarmbus("list", "--json").json == ["coder"])
        assert swarmbus("list", "--all").out == "coder\nplanner\n"


def test_list_long_has_state_version_host_and_times() -> None:
    with Listener("coder", None):
        (agent,) = swarmbus("list", "--long", "--json").json
        assert (agent["agent"], agent["state"], agent["wire"]) == ("coder", "online", 1)
        assert {"version", "host", "since", "last_seen"} <= set(agent)
        headings, row = swarmbus("list", "--long").out.splitlines()
    assert headings.split()[:4] == ["agent", "state", "version", "host"]
    assert row.split()[:2] == ["coder", "online"]


def _until_seen(message_id: str) -> None:
    _until(
        lambda: (
            "seen"
            in [
                event["what"]
                for event in swarmbus("trace", "--agent-id=planner", message_id, "--json").json["events"]
            ]
        )
    )


def _until(is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < give_up, "it has not come to that within 20 s"
        time.sleep(0.05)
