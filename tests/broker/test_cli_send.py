"""``swarmbus send`` against a real broker: what it says, what it keeps, and how it ends."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.agents import subjects
from tests.conftest import MakeBroker
from tests.lab.command import Ran, command, swarmbus
from tests.lab.listener import Listener
from tests.lab.mosquitto import Broker, unused_port


def send(broker: Broker, *words: str, to: str = "coder", stdin: bytes = b"") -> Ran:
    where = [f"--broker={broker.host}", f"--port={broker.port}"]
    if not any(word.startswith("--body") for word in words):
        words = ("--body=hi", *words)
    return swarmbus("send", "--agent-id=planner", f"--to={to}", "--subject=s", *where, *words, stdin=stdin)


@pytest.fixture
def coder(broker: Broker) -> Iterator[Listener]:
    """The receiver's listener."""
    with Listener("coder", broker) as listener:
        yield listener


@pytest.fixture(params=["listener", "no listener"])
def planner(request: pytest.FixtureRequest, broker: Broker) -> Iterator[None]:
    """The sender, with a listener daemon and without one."""
    if request.param == "no listener":
        yield
        return
    with Listener("planner", broker):
        yield


@pytest.mark.usefixtures("coder", "planner")
def test_state_and_id_are_printed(broker: Broker) -> None:
    ran = send(broker)
    assert (ran.status, ran.err) == (0, "")
    state, message_id, to = ran.out.split()
    assert state in ("accepted", "stored")
    assert (len(message_id), to) == (36, "coder")


@pytest.mark.usefixtures("coder", "planner")
def test_json_has_the_state_the_id_and_the_time(broker: Broker) -> None:
    ran = send(broker, "--json")
    assert set(ran.json) == {"id", "state", "to", "ts", "reason"}
    assert (ran.json["to"], ran.json["reason"]) == ("coder", None)


@pytest.mark.usefixtures("coder", "planner")
def test_waits_until_the_receiver_has_stored_it(broker: Broker) -> None:
    ran = send(broker, "--wait=stored", "--json")
    assert (ran.status, ran.json["state"]) == (0, "stored")
    assert subjects("coder") == ["s"]


@pytest.mark.usefixtures("coder", "planner")
def test_wait_that_is_not_met_in_time_is_a_no_and_says_how_far_it_came(broker: Broker) -> None:
    ran = send(broker, "--wait=seen", "--timeout=0.5", "--json")
    assert (ran.status, ran.json["state"]) == (1, "stored")
    assert len(ran.complaint) <= 3
    assert "is stored, and not seen within 0.5 s" in ran.err
    assert "do not send it again" in ran.err


@pytest.mark.usefixtures("coder", "planner")
def test_waits_until_the_receiver_has_read_it(broker: Broker) -> None:
    with subprocess.Popen(
        [
            *(*command(), "send", "--agent-id=planner", "--to=coder", "--subject=s", "--body=b", "--json"),
            *(f"--port={broker.port}", "--broker=127.0.0.1", "--wait=seen", "--timeout=30"),
        ],
        stdout=subprocess.PIPE,
    ) as sending:
        where = [f"--port={broker.port}", "--broker=127.0.0.1"]
        assert swarmbus("watch", "--agent-id=coder", "--timeout=30", *where).status == 0
        out, _ = sending.communicate(timeout=30)
    assert (sending.returncode, json.loads(out)["state"]) == (0, "seen")


@pytest.mark.usefixtures("coder", "planner")
def test_body_comes_through_byte_for_byte(broker: Broker, tmp_path: Path) -> None:
    text = "zwei\r\nZeilen\n\n\u00fc\u200d \U0001f41d \x00 \x1b[31m no newline at the end"
    file = tmp_path / "body"
    file.write_bytes(text.encode())
    assert send(broker, "--wait=stored", f"--body-file={file}").status == 0
    assert send(broker, "--wait=stored", "--body-file=-", stdin=text.encode()).status == 0
    assert send(broker, "--wait=stored", "--body-file=-", stdin=b"").status == 0
    assert send(broker, "--wait=stored", "--body=").status == 0
    where = [f"--port={broker.port}", "--broker=127.0.0.1"]
    bodies = [message["body"] for message in swarmbus("read", "--agent-id=coder", "--json", *where).json]
    assert bodies == [text, text, "", ""]


@pytest.mark.usefixtures("coder", "planner")
def test_largest_body_is_taken(broker: Broker) -> None:
    assert send(broker, "--wait=stored", "--body-file=-", stdin=b"x" * 65_536).status == 0


@pytest.mark.usefixtures("planner")
def test_nobody_listens_under_that_name(broker: Broker, coder: Listener) -> None:
    ran = send(broker, "--json", to="codr")
    assert (ran.status, ran.json["state"]) == (1, "no-subscriber")
    assert "did you mean coder?" in ran.err
    assert len(ran.complaint) <= 3
    kept = swarmbus("outbox", "--agent-id=planner", "--json").json
    assert [(message["id"], message["state"]) for message in kept] == [(ran.json["id"], "no-subscriber")]


@pytest.mark.usefixtures("coder", "planner")
def test_broadcast_reaches_the_others(broker: Broker) -> None:
    with Listener("tester", broker):
        assert send(broker, to="broadcast").out.split()[::2] == ["accepted", "broadcast"]
        for agent in ("coder", "tester"):
            ran = swarmbus("watch", f"--agent-id={agent}", "--timeout=10", "--json", f"--port={broker.port}")
            assert ran.json["to"] == "broadcast"


@pytest.mark.usefixtures("coder", "planner")
def test_invalid_message_is_refused_and_nothing_is_kept(broker: Broker) -> None:
    ran = swarmbus(
        "send",
        "--agent-id=planner",
        "--to=coder",
        "--subject=two\nlines",
        "--body=b",
        f"--port={broker.port}",
    )
    assert (ran.status, ran.out) == (2, "")
    assert "the subject has a line break" in ran.err
    assert swarmbus("outbox", "--agent-id=planner", "--json").json == []


@pytest.mark.usefixtures("coder", "planner")
def test_message_waits_while_the_broker_is_away_and_arrives_when_it_is_back(broker: Broker) -> None:
    broker.kill()
    ran = send(broker, "--json", "--timeout=5")
    assert (ran.status, ran.json["state"]) == (2, "queued")
    assert len(ran.complaint) <= 3
    assert "do not send it again" in ran.err
    broker.start()
    where = [f"--port={broker.port}", "--broker=127.0.0.1"]
    if "with the next send" in ran.err:
        # This broker keeps nothing on disk: it knows coder again when coder's listener is back.
        while swarmbus("list", "--json", *where).json != ["coder"]:
            time.sleep(0.1)
        assert send(broker).status == 0
    message = swarmbus("watch", "--agent-id=coder", "--timeout=60", "--json", *where).json
    assert message["id"] == ran.json["id"]


@pytest.mark.usefixtures("planner")
def test_broker_that_hangs_ends_in_time(broker: Broker) -> None:
    broker.pause()
    try:
        ran = send(broker, "--json", "--timeout=2")
    finally:
        broker.resume()
    assert (ran.status, ran.json["state"]) == (2, "queued")
    assert "no answer" in ran.err


def test_outbox_by_option_by_the_agent_and_for_all(broker: Broker, home: Path, coder: Listener) -> None:
    where = ["--agent-id=my-agent", "--to=coder", "--body=b", f"--port={broker.port}", "--broker=127.0.0.1"]
    own, shared = {"SWARMBUS_OUTBOX_MY_AGENT": "~/own.md"}, {"SWARMBUS_OUTBOX": "~/{agent_id}-shared.md"}
    assert swarmbus("send", "--subject=1", *where, env=shared).status == 0
    assert swarmbus("send", "--subject=2", *where, env=shared | own).status == 0
    assert swarmbus("send", "--subject=3", f"--outbox={home}/option.md", *where, env=shared | own).status == 0
    found = {path.name: path.read_text() for path in home.glob("*.md")}
    assert set(found) == {"my-agent-shared.md", "own.md", "option.md"}
    heading, body, last, end = found["own.md"][1:].split("\n")
    assert heading.endswith("] To: coder | 2")
    assert (body, end) == ("b", "")
    assert last.startswith("<!-- swarmbus id=")


def test_message_that_nobody_gets_is_in_the_outbox_file_too(broker: Broker, home: Path) -> None:
    assert send(broker, f"--outbox={home}/out.md", to="nobody").status == 1
    assert "] To: nobody | s\n" in (home / "out.md").read_text()


def test_other_broker_than_the_listeners_is_a_conflict(broker: Broker) -> None:
    with Listener("planner", broker) as listener:
        port = unused_port()
        ran = swarmbus("send", "--agent-id=planner", "--to=x", "--subject=s", "--body=b", f"--port={port}")
        assert (ran.status, ran.out) == (3, "")
        assert f"pid {listener.pid}" in ran.err
        assert f"not to localhost:{port}" in ran.err
        by_other_name = swarmbus(
            "send", "--agent-id=planner", "--to=planner", "--subject=s", "--body=b", "--broker=localhost"
        )
        assert by_other_name.status == 3, "the port of the default is another one"
        same = ["--broker=localhost", f"--port={broker.port}"]
        words = ["send", "--agent-id=planner", "--to=planner", "--subject=s", "--body=b", *same]
        assert swarmbus(*words).status == 0, "127.0.0.1 and localhost are one"


def test_more_words_say_which_way_it_went(broker: Broker) -> None:
    said = f"no listener of planner here: connecting to {broker.host}:{broker.port}"
    assert said in send(broker, "-v").complaint
    assert said not in send(broker).complaint


@pytest.fixture
def closed_broker(make_broker: MakeBroker, tmp_path: Path) -> Broker:
    """A broker with one user, ``alice``."""
    users = tmp_path / "users"
    users.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(users), "alice", "secret"], check=True, capture_output=True)
    return make_broker("allow_anonymous false", f"password_file {users}")


@pytest.mark.parametrize(
    "words",
    [
        ["send", "--agent-id=planner", "--to=planner", "--subject=s", "--body=b"],
        ["read", "--agent-id=planner"],
        ["list"],
    ],
)
def test_wrong_credentials_are_told_apart(closed_broker: Broker, words: list[str]) -> None:
    where = [f"--broker={closed_broker.host}", f"--port={closed_broker.port}"]
    for credentials in ({}, {"SWARMBUS_BROKER_USERNAME": "alice", "SWARMBUS_BROKER_PASSWORD": "wrong"}):
        ran = swarmbus(*words, *where, env=credentials)
        assert ran.status == 2
        assert "refused our" in ran.err
        assert 1 <= len(ran.complaint) <= 3
        assert "wrong" not in ran.err
    right = {"SWARMBUS_BROKER_USERNAME": "alice", "SWARMBUS_BROKER_PASSWORD": "secret"}
    assert swarmbus(*words, *where, env=right).status in (0, 1)


def test_credentials_as_options_and_from_a_file(closed_broker: Broker, home: Path) -> None:
    where = [f"--broker={closed_broker.host}", f"--port={closed_broker.port}"]
    assert swarmbus("list", *where, "--username=alice", "--password=secret").status == 0
    (home / "word").write_text("secret\nand a second line\n")
    (home / "c.toml").write_text(f'username = "alice"\npassword_file = "{home}/word"\n')
    assert swarmbus("list", *where, env={"SWARMBUS_CONFIG": f"{home}/c.toml"}).status == 0
