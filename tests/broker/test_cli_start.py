"""``swarmbus start``: in the foreground, in the background, and when one runs already."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swarmbus import version
from swarmbus.handlers.unit_run import Limits, best_runner
from swarmbus.lock import lock_holder
from swarmbus.paths import lock_path, wake_dir
from tests.lab.command import swarmbus
from tests.lab.listener import Listener
from tests.lab.mosquitto import Broker, unused_port


@pytest.fixture(autouse=True)
def _no_listener_stays() -> Iterator[None]:
    yield
    holder = lock_holder(lock_path("coder"))
    if holder is not None:
        os.kill(holder[0], signal.SIGKILL)


def where(broker: Broker) -> list[str]:
    return [f"--broker={broker.host}", f"--port={broker.port}"]


def test_first_lines_say_with_what_it_runs(broker: Broker, home: Path) -> None:
    words = [f"--inbox={home}/in.md", "--invoke=cat -n", "--no-persistent"]
    with Listener("coder", broker, *words) as listener:
        time.sleep(0.3)
        first = listener.output.splitlines()
    assert first[0] == "swarmbus listener of coder"
    facts = dict(line.strip().split(":", 1) for line in first[1:8])
    assert {name: value.strip() for name, value in facts.items()} == {
        "version": version.__version__,
        "broker": f"{broker.host}:{broker.port}",
        "session": "not kept (--no-persistent)",
        "inbox": f"{home}/in.md",
        "invoke": "cat -n",
        "wakes": f"for messages of high priority, in {_runner_in_words('coder')}",
        "outbox": "none: what is sent is written to no file",
    }
    assert first[8] == f"ready: connected to 127.0.0.1:{broker.port} by MQTT 5, made a new session"


def _runner_in_words(agent_id: str) -> str:
    return best_runner(agent_id, wake_dir(agent_id), Limits(2048, 512)).about


def test_ready_is_an_object_for_programs(broker: Broker) -> None:
    with Listener("coder", broker, "--json") as listener:
        _until(lambda: listener.output.rstrip().endswith("}"))
        facts = json.loads(listener.output[listener.output.index("{") :])
    assert (facts["pid"], facts["port"], facts["connected"]) == (facts["pid"], broker.port, True)


def test_sigterm_ends_it_with_0(broker: Broker) -> None:
    with Listener("coder", broker) as listener:
        assert listener.terminate() == 0


def test_second_listener_is_refused_with_the_pid_of_the_first(broker: Broker) -> None:
    with Listener("coder", broker) as listener:
        for words in ([], ["--detach"]):
            ran = swarmbus("start", "--agent-id=coder", *where(broker), *words)
            assert (ran.status, ran.out) == (3, "")
            assert f"pid {listener.pid}" in ran.err
            assert len(ran.complaint) <= 3
        assert listener.running


def test_detached_listener_is_ready_when_its_pid_is_printed(broker: Broker, home: Path) -> None:
    ran = swarmbus("start", "--agent-id=coder", *where(broker), "--detach")
    assert ran.status == 0, ran
    pid = int(ran.out)
    assert lock_holder(lock_path("coder")) == (pid, "listener")
    assert os.getsid(pid) == pid, "it has a session of its own"
    sent = swarmbus(
        "send", "--agent-id=coder", "--to=coder", "--subject=s", "--body=b", "--wait=stored", "--json"
    )
    assert (sent.status, sent.json["state"]) == (0, "stored")
    log = home / ".local/state/swarmbus/coder/listener.log"
    assert log.stat().st_mode & 0o777 == 0o600
    assert "ready: connected to" in log.read_text()
    os.kill(pid, signal.SIGTERM)
    _until_gone(pid)


def test_detached_listener_says_what_it_is_to_programs(broker: Broker) -> None:
    ran = swarmbus("start", "--agent-id=coder", *where(broker), "--detach", "--json")
    assert (ran.status, ran.json["connected"], ran.json["port"]) == (0, True, broker.port)
    assert lock_holder(lock_path("coder")) == (ran.json["pid"], "listener")


def test_detached_listener_without_a_broker_runs_and_says_so(broker: Broker) -> None:
    port = unused_port()
    ran = swarmbus("start", "--agent-id=coder", f"--port={port}", "--detach")
    assert ran.status == 2
    assert lock_holder(lock_path("coder")) == (int(ran.out), "listener"), "it goes on trying"
    assert f"cannot reach the broker at localhost:{port}" in ran.err
    assert "it goes on trying" in ran.err


def test_invoke_runs_and_quarantine_retry_has_it_run_again(broker: Broker, home: Path) -> None:
    script = home / "wake"
    script.write_text('#!/bin/sh\ncat >>"$HOME/woken"\n[ -e "$HOME/mended" ]\n')
    script.chmod(0o755)
    config = home / ".config/swarmbus/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("invoke_attempts = 1\nwake = 'each'\n")
    with Listener("coder", broker, f"--invoke={script}"):
        swarmbus("send", "--agent-id=coder", "--to=coder", "--subject=s", "--body=one.", *where(broker))
        _until(lambda: swarmbus("quarantine", "--agent-id=coder", "--json").json != [])
        (entry,) = swarmbus("quarantine", "--agent-id=coder", "--json").json
        assert (entry["kind"], entry["handler"]) == ("dead-letter", "invoke")

        swarmbus("quarantine", "--agent-id=coder", "--retry", "all")
        _until(lambda: (home / "woken").read_text() == "one.one.")
        _until(lambda: swarmbus("quarantine", "--agent-id=coder", "--json").json[0]["kind"] == "dead-letter")
        (again,) = swarmbus("quarantine", "--agent-id=coder", "--json").json
        assert again["reason"].startswith("failed again: ")

        (home / "mended").touch()
        assert swarmbus("quarantine", "--agent-id=coder", "--retry", "all").status == 0
        _until(lambda: swarmbus("quarantine", "--agent-id=coder", "--json").json == [])
        assert (home / "woken").read_text() == "one.one.one."
        events = swarmbus("trace", "--agent-id=coder", entry["message_id"], "--json").json["events"]
        assert "by invoke" in [event["detail"] for event in events if event["what"] == "handled"]


def test_outbox_retry_sends_again_at_once(broker: Broker) -> None:
    with Listener("planner", broker):
        ran = swarmbus("send", "--agent-id=planner", "--to=coder", "--subject=s", "--body=b", "--json")
        assert (ran.status, ran.json["state"]) == (1, "no-subscriber")
        with Listener("coder", broker):
            assert swarmbus("outbox", "--agent-id=planner", "--retry", "all").status == 0
            got = swarmbus("watch", "--agent-id=coder", "--timeout=20", "--json")
            assert (got.status, got.json["id"]) == (0, ran.json["id"])


def _until_gone(pid: int) -> None:
    def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()

    _until(gone)


def _until(is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < give_up, "it has not come to that within 20 s"
        time.sleep(0.05)
