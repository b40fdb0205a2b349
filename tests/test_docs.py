"""What the documents say is so: blocks run, links lead somewhere, tables are those of the code.

How blocks are marked is in tests/lab/pages.py.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import select
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import click
import pytest

import swarmbus
from swarmbus.cli import commands
from swarmbus.errors import ExitStatus, SwarmbusError
from tests.lab.mosquitto import Broker
from tests.lab.pages import RUNNABLE, Block, Page, matches, parse

CHECKOUT = Path(__file__).resolve().parents[1]
DOCS = CHECKOUT / "docs"
PAGES = [parse(path) for path in [CHECKOUT / "README.md", *sorted(DOCS.rglob("*.md"))]]
BLOCKS = [block for page in PAGES for block in page.blocks]

#: Ends of signals, which no program chooses: Ctrl-C, and a reader that has gone.
OF_SIGNALS = {128 + signal.SIGINT, 128 + signal.SIGPIPE}

#: Error words that no command ends with: one becomes a dead letter, the other a note below the plan.
NEVER_PRINTED = {"invocation-failed", "declined"}

_COMMAND_TIMEOUT = 60.0  # seconds


def _name(page: Page) -> str:
    return str(page.path.relative_to(CHECKOUT))


def _place(block: Block) -> str:
    return f"{block.page.relative_to(CHECKOUT)}:{block.line}"


class Shell:
    """One bash that gets a page's commands one after the other, so that what one exports the next one has."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in: IO[bytes] = process.stdin
        self._out: IO[bytes] = process.stdout
        self._count = 0

    def run(self, command: str) -> tuple[int, str]:
        """Run a command; its exit status, and what it wrote to standard output and standard error."""
        self._count += 1
        end = f"--end-of-{self._count}--"
        self._in.write(f"{{ {command}\n}} </dev/null\nprintf '%s%s\\n' '{end}' \"$?\"\n".encode())
        self._in.flush()
        heard = b""
        deadline = time.monotonic() + _COMMAND_TIMEOUT
        while not (ended := re.search(rf"{end}(\d+)\n$", heard.decode(errors="replace"))):
            ready, _, _ = select.select([self._out], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, (
                f"not done after {_COMMAND_TIMEOUT:.0f} s: {command}\n{heard.decode(errors='replace')}"
            )
            got = os.read(self._out.fileno(), 65536)
            assert got, f"the shell has ended: {command}\n{heard.decode(errors='replace')}"
            heard += got
        return int(ended[1]), heard.decode(errors="replace")[: ended.start()]


@contextmanager
def _shell(home: Path, broker: Broker) -> Iterator[Shell]:
    environment = os.environ | {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SWARMBUS_BROKER": broker.host,
        "SWARMBUS_PORT": str(broker.port),
        "LC_ALL": "C.UTF-8",
    }
    process = subprocess.Popen(
        ["bash", "--norc", "--noprofile"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=home,
        env=environment,
    )
    try:
        yield Shell(process)
    finally:
        process.kill()
        process.communicate()
        _end_all_in(home)


def _end_all_in(home: Path) -> None:
    """End what a page has left running, a detached listener for instance: whatever has this home."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and f"HOME={home}".encode() in (entry / "environ").read_bytes().split(
                b"\0"
            ):
                os.kill(int(entry.name), signal.SIGKILL)


def test_every_block_says_whether_it_is_run() -> None:
    silent = [_place(block) for block in BLOCKS if block.language in RUNNABLE and block.directive is None]
    assert silent == [], "put <!-- test: run --> or <!-- test: skip REASON --> before them"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_blocks_run_as_printed(page: Page, home: Path, broker: Broker) -> None:
    with _shell(home, broker) as shell:
        for block in page.blocks:
            if block.language in RUNNABLE and block.directive is not None and block.directive.run:
                _run(shell, block, block.directive.status)


def _run(shell: Shell, block: Block, wanted_status: int) -> None:
    steps: list[tuple[str, list[str] | None]]
    if block.language == "console":
        steps = list(block.commands())
    elif block.language == "python":
        steps = [(f"python - <<'end of the block'\n{block.text}end of the block", None)]
    else:
        steps = [(f"set -e\n{block.text}set +e", None)]
    for command, wanted in steps:
        status, printed = shell.run(command)
        expected = wanted_status if command == steps[-1][0] else 0
        assert status == expected, f"{_place(block)}: status {status}\n{command}\n{printed}"
        assert wanted is None or matches(printed, wanted), f"{_place(block)}: {command}\nprinted:\n{printed}"


def test_toml_and_json_blocks_can_be_parsed() -> None:
    parsers = {"toml": tomllib.loads, "json": json.loads}
    for block in BLOCKS:
        if block.language in parsers:
            try:
                parsers[block.language](block.text)
            except ValueError as error:
                pytest.fail(f"{_place(block)}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Page) -> None:
    for line, target in page.links:
        if re.match(r"[a-z]+:", target):
            continue  # elsewhere on the web
        path, _, anchor = target.partition("#")
        place = (page.path.parent / path).resolve() if path else page.path
        assert place.exists(), f"{_name(page)}:{line}: there is no {target}"
        if anchor:
            assert anchor in parse(place).anchors, f"{_name(page)}:{line}: {path} has no heading #{anchor}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    links = {
        page.path: {(page.path.parent / target.partition("#")[0]).resolve() for _, target in page.links}
        for page in PAGES
    }
    reached: set[Path] = set()
    ahead = {CHECKOUT / "README.md"}
    while ahead:
        reached |= ahead
        ahead = {target for path in ahead for target in links.get(path, set())} - reached
    assert [_name(page) for page in PAGES if page.path not in reached] == []


def test_exit_statuses_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| *`?(\d+)`? *\|", (DOCS / "exit-statuses.md").read_text(), re.MULTILINE)
    assert {int(row) for row in rows} - OF_SIGNALS == {int(status) for status in ExitStatus}
    assert len(rows) == len(set(rows))


def test_error_words_are_those_of_the_code() -> None:
    table = re.findall(
        r"^\| (`[a-z-]+`.*?) \| (\d+) \|", (DOCS / "exit-statuses.md").read_text(), re.MULTILINE
    )
    documented = {word: int(status) for words, status in table for word in re.findall(r"`([a-z-]+)`", words)}
    for module in pkgutil.walk_packages(swarmbus.__path__, "swarmbus."):
        if module.name != "swarmbus.__main__":
            importlib.import_module(module.name)
    known = {kind.code: int(kind.exit_status) for kind in _kinds_of(SwarmbusError)}
    assert documented == {code: status for code, status in known.items() if code not in NEVER_PRINTED}


def _kinds_of(error: type[SwarmbusError]) -> Iterator[type[SwarmbusError]]:
    for kind in error.__subclasses__():
        yield kind
        yield from _kinds_of(kind)


def test_every_command_has_its_heading_and_no_other() -> None:
    headings = parse(DOCS / "commands.md").headings
    described = [heading.strip("`").removeprefix("swarmbus ") for heading in headings if "`" in heading]
    assert sorted(described) == sorted(commands.list_commands(click.Context(commands)))


@pytest.mark.parametrize("name", commands.list_commands(click.Context(commands)))
def test_commands_page_names_all_options_and_invents_none(name: str) -> None:
    text = (DOCS / "commands.md").read_text()
    section = re.split(r"^#+ ", text.split(f"# `swarmbus {name}`\n")[1], flags=re.MULTILINE)[0]
    shared = text.split("## Options that")[1].split("\n## ")[0] if "## Options that" in text else ""
    command = commands.get_command(click.Context(commands), name)
    assert command is not None
    options = [
        option
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("--")
    ]
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", section))
    of_all = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", shared))
    assert mentioned - set(options) - {"--help"} == set(), "not options of this command"
    assert set(options) - mentioned - of_all == set(), "options that the page does not name"


def test_every_check_has_its_page_and_every_page_its_check() -> None:
    checks = importlib.import_module("swarmbus.provision.checks").CHECKS
    pages = sorted(page.stem for page in (DOCS / "checks").glob("*.md"))
    assert pages == sorted(check.code for check in checks)


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md"])
def test_number_of_checks_is_that_of_the_code(name: str) -> None:
    checks = importlib.import_module("swarmbus.provision.checks").CHECKS
    told = re.findall(r"(\d+) checks", (CHECKOUT / name).read_text().split("\n## 1")[0])
    assert told == [str(len(checks))]


def test_page_of_a_check_answers_the_four_questions() -> None:
    for page in PAGES:
        if page.path.parent == DOCS / "checks":
            title, *questions = page.headings
            assert title.startswith(page.path.stem), _name(page)
            assert questions == ["Meaning", "How it is measured", "Fix", "See it yourself"], _name(page)


def test_every_check_is_in_the_list_with_its_title_under_its_category() -> None:
    checks = importlib.import_module("swarmbus.provision.checks").CHECKS
    listed = re.findall(
        r"^- \[([a-z.-]+)\]\(checks/\1\.md\): (.+)$", (DOCS / "doctor-checks.md").read_text(), re.MULTILINE
    )
    assert sorted(listed) == sorted((check.code, check.title) for check in checks)
    categories = [code.partition(".")[0] for code, _ in listed]
    assert categories == sorted(categories, key=categories.index), "a category's checks stand together"
