"""What holds for every test: a home of its own, nothing of the developer's settings, and honest skips."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab.cache import cache_folder
from tests.lab.mosquitto import Broker
from tests.lab.mosquitto_program import NoMosquitto, program

MakeBroker = Callable[..., Broker]

#: Variables that would let a developer's own agents, display or service manager into a test.
_SHUT_OUT = ("SWARMBUS_", "XDG_", "NOTIFY_SOCKET", "WATCHDOG_", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
_LET_IN = ("SWARMBUS_TEST_", "SWARMBUS_NO_SKIPS", "SWARMBUS_FULL_STORM", "SWARMBUS_STORM_SEED")

#: Asked once: `home` hides the variable from what a test runs.
_NO_SKIPS = os.environ.get("SWARMBUS_NO_SKIPS") == "1"


def pytest_configure(config: pytest.Config) -> None:
    """Shut the doors of the whole run; the fixture `home` then gives each test its own home."""
    if hasattr(config, "workerinput"):
        return  # one of xdist's workers, which inherits what is set here
    os.environ["SWARMBUS_TEST_CACHE"] = str(cache_folder())
    _keep_way_to_package_index()
    # The checkout may be another user's, and the configuration in which that was allowed is under $HOME.
    git = {"COUNT": "1", "KEY_0": "safe.directory", "VALUE_0": str(Path(__file__).parents[1])}
    os.environ.update({f"GIT_CONFIG_{name}": value for name, value in git.items()})
    for name in list(os.environ):
        if name.startswith(_SHUT_OUT) and not name.startswith(_LET_IN):
            del os.environ[name]
    folder = tempfile.mkdtemp(prefix="swarmbus-tests-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ["HOME"] = folder


def _keep_way_to_package_index() -> None:
    """Let pip and npm go on using the developer's mirror, and pip its cache: they look for it under $HOME."""
    configured = os.environ.get("XDG_CONFIG_HOME", str(Path.home() / ".config"))
    for file in (Path(configured) / "pip" / "pip.conf", Path.home() / ".pip" / "pip.conf"):
        if file.is_file():
            os.environ.setdefault("PIP_CONFIG_FILE", str(file))
    if (npmrc := Path.home() / ".npmrc").is_file():
        os.environ.setdefault("NPM_CONFIG_USERCONFIG", str(npmrc))
    cached = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    os.environ.setdefault("PIP_CACHE_DIR", str(Path(cached) / "pip"))


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The test's own ``$HOME``, empty.

    Not below ``tmp_path``: the path of a Unix socket has at most 107 bytes, and pytest's folders are deep.
    """
    folder = Path(tempfile.mkdtemp(prefix="sb-"))
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("SWARMBUS_NO_SKIPS", raising=False)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[MakeBroker]:
    """``make_broker("persistence true", ...)`` starts one more mosquitto; all end with the test."""
    try:
        program()
    except NoMosquitto as error:
        pytest.skip(str(error))
    with ExitStack() as stack:
        count = 0

        def make(*config: str) -> Broker:
            nonlocal count
            count += 1
            return stack.enter_context(Broker(tmp_path / f"broker{count}", config))

        yield make


@pytest.fixture
def broker(make_broker: MakeBroker) -> Broker:
    """A mosquitto that lets everybody in and keeps nothing on disk."""
    return make_broker()


def _forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail") and _NO_SKIPS:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"SWARMBUS_NO_SKIPS=1, but: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where nothing may be skipped, a skipped test has failed."""
    report = yield
    _forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole file."""
    report = yield
    _forbid_skip(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say so when nothing was skipped; what was, and why, is in the short summary (-ra)."""
    if not terminalreporter.stats.get("skipped"):
        terminalreporter.write_line("nothing was skipped")
