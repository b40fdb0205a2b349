"""Fixtures that hand out throw-away hosts, and what happens where there can be none."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from tests.lab import requirements
from tests.lab.hosts import Container, Host
from tests.lab.runs import Lab

#: In seconds; the first test of a cold cache also builds the images and downloads the wheels.
_TIMEOUT = 900


class MakeHost(Protocol):
    """Boots one more host; see `Machine` for what the arguments mean."""

    def __call__(self, suite: str = "bookworm", *, name: str | None = None, index: bool = True) -> Host: ...


class MakeContainer(Protocol):
    """Starts one more container; see `Machine` for what the arguments mean."""

    def __call__(
        self, suite: str = "bookworm", *, name: str | None = None, index: bool = True
    ) -> Container: ...


_live: list[Host] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is in this folder as `hosts`, and give it the time that a boot takes."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.hosts)
            if config.pluginmanager.hasplugin("timeout") and item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(_TIMEOUT))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show, below a failed test, the journals of the hosts it was run on."""
    report = yield
    if report.failed and report.when == "call":
        for host in _live:
            report.sections.append((f"journal of {host.name}", host.journal()))
    return report


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The network of this test run; where hosts cannot be booted the test is skipped with the reasons."""
    if missing := requirements.missing():
        if os.environ.get("SWARMBUS_NO_SKIPS") == "1":
            pytest.fail("SWARMBUS_NO_SKIPS=1, but: " + " ".join(missing), pytrace=False)
        pytest.skip(" ".join(missing))
    with Lab() as opened:
        yield opened


def _host_maker(lab: Lab, stack: ExitStack) -> MakeHost:
    def make(suite: str = "bookworm", *, name: str | None = None, index: bool = True) -> Host:
        host = stack.enter_context(Host(lab, suite, name=name, index=index))
        _live.append(host)
        stack.callback(_live.remove, host)
        return host

    return make


@pytest.fixture
def make_host(lab: Lab) -> Iterator[MakeHost]:
    """``make_host("trixie")`` boots one more host; all end with the test."""
    with ExitStack() as stack:
        yield _host_maker(lab, stack)


@pytest.fixture(scope="module")
def make_module_host(lab: Lab) -> Iterator[MakeHost]:
    """The same, for hosts that the tests of one file share; they end with the file."""
    with ExitStack() as stack:
        yield _host_maker(lab, stack)


@pytest.fixture
def make_container(lab: Lab) -> Iterator[MakeContainer]:
    """``make_container("bookworm")`` starts a machine without systemd as process 1; all end with it."""
    with ExitStack() as stack:

        def make(suite: str = "bookworm", *, name: str | None = None, index: bool = True) -> Container:
            return stack.enter_context(Container(lab, suite, name=name, index=index))

        yield make


@pytest.fixture
def bookworm(make_host: MakeHost) -> Host:
    """A fresh Debian 12 host, booted."""
    return make_host("bookworm")


@pytest.fixture
def trixie(make_host: MakeHost) -> Host:
    """A fresh Debian 13 host, booted."""
    return make_host("trixie")
