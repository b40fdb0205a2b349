"""The doctor's command on a real broker and a real listener: watching, muting, bundles, health, formats."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from swarmbus import topics
from swarmbus.broker import Broker as Address
from swarmbus.config import load_settings
from swarmbus.connection import Arrival, Connection
from swarmbus.paths import state_dir
from swarmbus.presence import ask_presence
from swarmbus.provision.bus import LocalBus
from tests.conftest import MakeBroker
from tests.lab.listener import Listener
from tests.lab.mosquitto import Broker

SECRET = "correct-horse-battery"


@pytest.fixture
def listener(broker: Broker, home: Path) -> Iterator[Listener]:
    with Listener("coder", broker) as listener:
        yield listener


def _command(broker: Broker, *words: str, agent: str = "coder") -> list[str]:
    where = ["--broker", broker.host, "--port", str(broker.port), "--agent-id", agent]
    return [sys.executable, "-m", "swarmbus", "doctor", *where, *words]


def _call(broker: Broker, *words: str, agent: str = "coder") -> tuple[int, str, str]:
    ran = subprocess.run(_command(broker, *words, agent=agent), capture_output=True, text=True, timeout=60)
    return ran.returncode, ran.stdout, ran.stderr


def _retained(address: Address, topic: str) -> list[bytes]:
    async def read() -> list[bytes]:
        arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
        async with await Connection.open(
            address, client_id="test", on_arrival=arrivals.put_nowait
        ) as connection:
            await connection.subscribe([(topic, 0), ("swarmbus/marker/test", 0)])
            connection.publish("swarmbus/marker/test", b"", qos=0)
            found = []
            while (arrival := await asyncio.wait_for(arrivals.get(), 10)).topic == topic:
                found.append(arrival.payload)
            return found

    return asyncio.run(read())


# formats and exit statuses


def test_every_format_of_a_healthy_host_and_of_a_sick_one(broker: Broker, listener: Listener) -> None:
    formats = ("text", "short", "json", "junit", "nagios", "prometheus")
    for style in formats:
        status, printed, said = _call(broker, "--format", style)
        assert (status, bool(printed), said) == (0, True, ""), style
    listener.kill()
    told = {}
    for style in formats:
        status, told[style], _ = _call(broker, "--format", style)
        assert status == (2 if style == "nagios" else 1), style
        assert "agent.listener-running" in told[style], style
    assert json.loads(told["json"])["summary"]["fail"] == 1
    assert len(ElementTree.fromstring(told["junit"]).findall(".//failure")) == 1
    assert told["short"].startswith("fail  agent.listener-running  coder: ")
    assert told["nagios"].startswith("SWARMBUS CRITICAL - 1 failed")
    assert (
        'code="agent.listener-running",category="agent",subject="coder",muted="no"} 4' in told["prometheus"]
    )


def test_there_is_no_colour_in_a_pipe(broker: Broker, listener: Listener) -> None:
    assert "\x1b" not in _call(broker)[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json", "--format", "text"], "--json and --format text"),
        (["--all"], "--all and --agent-id"),
        (["--dry-run"], "--dry-run without --fix"),
        (["--for", "1d"], "--for without --mute"),
        (["--since", "1d"], "--since without --history"),
        (["--hash-names"], "--hash-names without --bundle"),
        (["--watch", "--fix"], "--watch and --fix: two things at once"),
        (["--watch", "--format", "json"], "--watch and --format json"),
        (["--fix", "--format", "junit"], "--fix and --format junit"),
        (["--category", "nonsense"], "there is no check 'nonsense'"),
        (["--mute", "agent.mailbox", "--for", "soon"], "--for: 'soon' is no span of time"),
        (["--unmute", "agent.mailbox"], "agent.mailbox is not muted"),
        (["--from", "/nowhere"], "cannot read /nowhere"),
        (["--from", "/dev/null"], "this is no bundle"),
        (["--history", "--since", "once"], "'once' is not a time"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    words: list[str], message: str, broker: Broker, home: Path
) -> None:
    status, printed, said = _call(broker, *words)
    assert status == 2
    assert message in said
    assert printed == "" or json.loads(printed)["message"] == message


def test_who_asks_for_json_by_format_gets_errors_as_json_too(broker: Broker, home: Path) -> None:
    status, printed, _ = _call(broker, "--format", "json", "--only", "nonsense")
    assert (status, json.loads(printed)["error"]) == (2, "usage")


def test_nagios_is_told_unknown_when_nobody_could_look(broker: Broker, home: Path) -> None:
    status, printed, said = _call(broker, "--format=nagios", "--only=nonsense")
    assert (status, printed, said) == (
        3,
        "SWARMBUS UNKNOWN - there is no check 'nonsense' (categories: "
        f"{printed.partition('categories: ')[2]}",
        "",
    )


def test_all_means_all_whatever_the_environment_names(
    broker: Broker, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-m", "swarmbus", "doctor", "--json", "--port", str(broker.port)]
    with Listener("planner", broker):
        monkeypatch.setenv("SWARMBUS_AGENT_ID", "coder")
        for more, agents in (([], ["coder"]), (["--all"], ["coder", "planner"])):
            ran = subprocess.run([*command, *more], capture_output=True, text=True, timeout=60)
            assert sorted(json.loads(ran.stdout)["agents"]) == agents


# muting


def test_a_muted_finding_does_not_count_until_it_is_unmuted(broker: Broker, listener: Listener) -> None:
    listener.kill()
    assert _call(broker, "--mute", "agent.listener-running:coder", "--for", "1h")[0] == 0
    status, printed, _ = _call(broker)
    assert status == 0
    assert "(muted until " in printed
    assert "1 muted" in printed
    document = json.loads(_call(broker, "--json")[1])
    assert [one["code"] for one in document["muted"]] == ["agent.listener-running"]
    assert _call(broker, "--fail-on", "warn")[0] == 0
    assert _call(broker, "--unmute", "agent.listener-running")[0] == 0
    assert _call(broker)[0] == 1


def test_what_is_well_cannot_be_muted(broker: Broker, listener: Listener) -> None:
    status, _, said = _call(broker, "--mute", "agent.mailbox")
    assert status == 2
    assert "there is nothing to mute" in said


# watching


def test_watching_tells_what_changes_and_ends_by_ctrl_c(broker: Broker, listener: Listener) -> None:
    watching = subprocess.Popen(
        _command(broker, "--watch", "--format=short"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    try:
        first = watching.stdout.readline()
        assert " ok" in first
        listener.kill()
        line = watching.stdout.readline()
        assert "ok -> fail  agent.listener-running  coder: no listener of coder runs" in line
        before = sum(os.times()[2:4])
        watching.send_signal(signal.SIGINT)
        rest, said = watching.communicate(timeout=20)
        assert (watching.returncode, rest, said.strip()) == (130, "", "")
        # The children's time: no busy loop between two looks.
        assert sum(os.times()[2:4]) - before < 5
    finally:
        watching.kill()


# bundles


def test_a_bundle_says_elsewhere_what_the_host_has_said(
    broker: Broker, listener: Listener, tmp_path: Path
) -> None:
    for name in ("well", "sick"):
        file = tmp_path / name
        here = _call(broker, "--json", "--bundle", str(file))
        there = _call(broker, "--json", "--from", str(file))
        assert file.stat().st_mode & 0o777 == 0o600
        assert json.loads(here[1]) == json.loads(there[1]), name
        assert here[0] == there[0]
        listener.kill()
    assert here[0] == 1


def test_a_bundle_is_looked_at_where_nothing_of_the_host_is(
    broker: Broker, listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "bundle.json"
    here = _call(broker, "--json", "--bundle", str(file), "--hash-names")[1]
    listener.kill()
    broker.terminate()
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    status, there, _ = _call(broker, "--json", "--from", str(file))
    assert status == 0
    assert json.loads(there)["summary"] == json.loads(here)["summary"]
    assert "coder" not in there
    assert "coder" not in file.read_text()


def test_no_secret_of_a_real_host_is_in_its_bundle(
    make_broker: MakeBroker, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)
    subprocess.run(
        ["mosquitto_passwd", "-b", str(passwords), "coder", SECRET], check=True, capture_output=True
    )
    broker = make_broker("allow_anonymous false", f"password_file {passwords}")
    config = home / ".config/swarmbus/config.toml"
    config.parent.mkdir(parents=True)
    word = home / "word"
    word.write_text(f"{SECRET}\n")
    hook = f"curl -s https://me:{SECRET}x@hook.example/?token={SECRET}y"
    config.write_text(
        f'username = "coder"\npassword_file = "{word}"\n'
        f'[agents.coder]\ninvoke = "{hook}"\n[agents.other]\npassword = "{SECRET}z"\n'
    )
    monkeypatch.setenv("UNRELATED", f"{SECRET}w")
    with Listener("coder", broker):
        file = tmp_path / "bundle.json"
        _, printed, said = _call(broker, "--bundle", str(file))
        assert "ok    mqtt.canary" in printed, said
        assert SECRET not in file.read_text()
        assert SECRET not in printed
        assert "hook.example" in file.read_text()


# health


def test_health_is_kept_and_told_to_the_broker(broker: Broker, listener: Listener) -> None:
    assert _call(broker, "--health") == (0, "", "")
    address = Address(broker.host, broker.port)
    (word,) = _retained(address, topics.health("coder"))
    said = json.loads(word)
    assert (said["agent"], said["status"], said["worst"], said["interval"]) == ("coder", "ok", [], 300.0)
    assert [one.agent for one in asyncio.run(ask_presence(address))] == ["coder"]
    listener.kill()
    status, printed, told = _call(broker, "--health")
    assert (status, printed) == (1, "")
    assert told.startswith("agent.listener-running coder: ok -> fail: no listener of coder runs")
    (word,) = _retained(address, topics.health("coder"))
    assert json.loads(word)["worst"] == ["agent.listener-running"]
    listener.start()
    assert _call(broker, "--health")[0] == 0
    changes = json.loads(_call(broker, "--history", "--json")[1])
    assert [(one["code"], one["before"], one["after"]) for one in changes] == [
        ("agent.listener-running", "ok", "fail"),
        ("agent.listener-running", "fail", "ok"),
    ]
    assert "agent.listener-running coder  ok -> fail: " in _call(broker, "--history")[1]
    assert _call(broker, "--history", "--since", "2020-01-01")[1].count("\n") == 2
    assert "last looked at" in _call(broker, "--only", "own")[1]


def test_health_is_kept_where_the_broker_is_away(broker: Broker, listener: Listener) -> None:
    broker.terminate()
    assert _call(broker, "--health")[0] == 1
    kept = json.loads((state_dir() / ".doctor/health.json").read_text())
    assert "cannot reach the broker" in kept["untold"]["coder"]


def test_a_retained_word_replaces_the_one_before(broker: Broker, home: Path) -> None:
    own = load_settings({"agent_id": "coder", "broker": broker.host, "port": broker.port})
    for word in (b"one", b"two"):
        assert LocalBus().tell([(own, topics.health("coder"), word)]) == [None]
    assert _retained(Address(broker.host, broker.port), topics.health("coder")) == [b"two"]


def test_of_two_listeners_that_hang_each_is_told(broker: Broker, listener: Listener) -> None:
    with Listener("planner", broker) as other:
        for one in (listener, other):
            os.kill(one.pid, signal.SIGSTOP)
        command = [sys.executable, "-m", "swarmbus", "doctor", "--json", "--all", "--port", str(broker.port)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=90)
        for one in (listener, other):
            os.kill(one.pid, signal.SIGCONT)
    report = json.loads(ran.stdout)
    failed = [(one["code"], one["subject"]) for one in report["checks"] if one["status"] == "fail"]
    assert sorted(failed) == [("mqtt.canary", "coder"), ("mqtt.canary", "planner")]
