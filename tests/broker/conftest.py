"""What is special about this folder: its tests need a real mosquitto, by the fixture `broker`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.listener import Listener
from tests.lab.mosquitto import Broker


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder as `broker`."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.broker)


@pytest.fixture(params=["listener", "no listener"])
def listener(request: pytest.FixtureRequest, broker: Broker) -> Iterator[Listener | None]:
    """The test is run twice: with a listener daemon of ``coder``, and without one."""
    if request.param == "no listener":
        yield None
        return
    with Listener("coder", broker) as running:
        yield running
