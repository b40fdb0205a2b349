"""Two listeners with one client id on two hosts: one stays, the other says why it goes and ends with 78."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path

import pytest

from swarmbus import link
from tests.broker.agents import listening
from tests.conftest import MakeBroker
from tests.lab.listener import Listener
from tests.lab.loop import in_loop
from tests.lab.mosquitto import Broker
from tests.lab.peers import peer

_FIGHT = 90.0
"""Seconds: four meetings, between which pauses grow."""


@pytest.mark.timeout(240)
def test_of_two_of_ours_the_elder_stays(broker: Broker, tmp_path: Path) -> None:
    with (
        Listener("coder", broker) as elder,
        Listener("coder", broker, state=tmp_path / "other-host") as younger,
    ):
        assert younger.wait(_FIGHT) == 78
        assert "takes the session of coder from us again and again" in younger.output
        assert "a listener on " in younger.output
        assert "one agent id, one listener" in younger.output
        time.sleep(1)
        assert elder.running
        assert "has taken the session of coder" in elder.output


@pytest.mark.timeout(240)
def test_to_a_listener_of_the_older_tool_ours_gives_way(make_broker: MakeBroker, tmp_path: Path) -> None:
    broker = make_broker("log_type all")
    program = str(peer("0.2.0") / "swarmbus")
    where = ["--broker", broker.host, "--port", str(broker.port), "--inbox", str(tmp_path / "inbox.md")]
    elder = subprocess.Popen(
        [program, "start", "--agent-id", "coder", *where],
        env=os.environ | {"HOME": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        broker.wait_for_log("Sending SUBACK to swarmbus-coder", timeout=20)
        with Listener("coder", broker) as ours:
            assert ours.wait(2 * _FIGHT) == 78
            assert "a listener of the older tool" in ours.output
        assert elder.poll() is None
    finally:
        elder.kill()
        elder.wait()


@in_loop
async def test_a_broker_that_comes_and_goes_is_no_fight(
    make_broker: MakeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also not when it comes back again and again with what somebody else's listener once wrote."""
    monkeypatch.setattr(link, "LONGEST_PAUSE", 0.3)  # else 20 times take ten minutes
    broker = make_broker(
        "persistence true", "persistence_location {folder}/", "autosave_interval 0", "log_type all"
    )
    with Listener("coder", broker, state=tmp_path / "other-host") as other:
        other.terminate()
    broker.restart()  # writes its database, with the presence of the other
    async with listening(broker, "coder"):
        for number in range(20):
            mark = broker.mark()
            if number < 10:
                broker.kill()
                await asyncio.to_thread(broker.start)
            else:
                await asyncio.to_thread(broker.restart)
            said = "Sending PUBACK to swarmbus-coder"  # for its presence, behind which it looks for a fight
            await asyncio.to_thread(broker.wait_for_log, said, since=mark)
    assert "has taken the session" not in caplog.text
