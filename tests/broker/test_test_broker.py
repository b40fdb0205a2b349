"""The broker that tests get keeps its promises; where these fail, the other tests on it say nothing."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import MakeBroker
from tests.lab.mosquitto import Broker, BrokerFailed, unused_port


def _answers(broker: Broker, *, timeout: float = 5.0) -> bool:
    """Whether it answers the shortest CONNECT of MQTT 3.1.1 (client id of no length) with a CONNACK."""
    try:
        with socket.create_connection((broker.host, broker.port), timeout) as connection:
            connection.sendall(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")
            return connection.recv(4)[:1] == b"\x20"
    except OSError:
        return False


def test_broker_answers_as_soon_as_it_is_handed_out(broker: Broker) -> None:
    assert _answers(broker)


def test_killed_broker_comes_back_on_the_same_port(broker: Broker) -> None:
    port = broker.port
    broker.kill()
    assert not broker.running
    assert not _answers(broker)
    broker.start()
    assert broker.port == port
    assert _answers(broker)


@pytest.mark.parametrize(("end", "saved"), [(Broker.terminate, True), (Broker.kill, False)])
def test_only_a_terminated_broker_saves_its_database(
    make_broker: MakeBroker, end: Callable[[Broker], None], saved: bool
) -> None:
    broker = make_broker("persistence true", "persistence_location {folder}/")
    end(broker)
    assert (broker.folder / "mosquitto.db").exists() is saved


def test_paused_broker_keeps_connections_waiting(broker: Broker) -> None:
    broker.pause()
    assert not _answers(broker, timeout=0.3)
    broker.resume()
    assert _answers(broker)


def test_wrong_configuration_is_told_with_mosquittos_own_words(tmp_path: Path) -> None:
    with pytest.raises(BrokerFailed, match="Unknown configuration variable"), Broker(tmp_path, ["listner 1"]):
        pass


def test_port_that_is_taken_is_replaced_by_another(tmp_path: Path) -> None:
    with Broker(tmp_path / "first") as first:
        ports = iter([first.port])
        second = Broker(tmp_path / "second", free_port=lambda: next(ports, 0) or unused_port())
        with second:
            assert second.port != first.port
            assert _answers(second)


def test_log_is_waited_for_and_not_polled(broker: Broker) -> None:
    mark = broker.mark()
    assert _answers(broker)
    assert "127.0.0.1" in broker.wait_for_log("New connection from", since=mark)
    with pytest.raises(BrokerFailed, match="no line with"):
        broker.wait_for_log("nobody says this", timeout=0.1)
