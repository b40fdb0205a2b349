"""The frame of the command line: help, versions, errors for programs, and readers that go away."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import click
import pytest

from swarmbus import version
from swarmbus.cli import commands, output, run
from swarmbus.errors import ExitStatus
from tests.lab.command import command, swarmbus

NAMES = commands.list_commands(click.Context(commands))


def _command(name: str) -> click.Command:
    found = commands.get_command(click.Context(commands), name)
    assert found is not None
    return found


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(words: list[str]) -> None:
    ran = swarmbus(*words)
    assert (ran.status, ran.err) == (0, "")
    assert [
        line.split()[0] for line in ran.out.splitlines() if line[:2] == "  " and line[2:].split()[0] in NAMES
    ] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_list_of_commands_says_what_the_command_says(name: str) -> None:
    said_of_itself = _command(name).get_short_help_str(200)
    listed = " ".join(swarmbus("--help").out.split())
    assert f" {name} {said_of_itself}" in listed


@pytest.mark.parametrize("name", NAMES)
def test_every_command_prints_json_and_more_words_on_request(name: str) -> None:
    options = {option for parameter in _command(name).params for option in parameter.opts}
    prints = {"--json"} if name != "mcp-server" else set()  # whose standard output is a protocol's
    assert {"--verbose"} | prints <= options


def test_version() -> None:
    ran = swarmbus("--version")
    assert (ran.status, ran.out, ran.err) == (0, f"swarmbus {version.__version__}\n", "")


def test_error_is_an_object_for_programs_and_a_sentence_for_people() -> None:
    ran = swarmbus("send", "--agent-id=A", "--to=b", "--subject=s", "--body=b", "--json")
    assert ran.status == ExitStatus.CANNOT_RUN
    assert ran.json == {
        "error": "invalid-agent-id",
        "message": "'A' is not an agent id",
        "hint": "an agent id has 1 to 64 characters out of a-z 0-9 _ -",
    }
    assert ran.complaint == [
        "swarmbus send: 'A' is not an agent id",
        "  hint: an agent id has 1 to 64 characters out of a-z 0-9 _ -",
    ]


def test_error_of_the_call_is_an_object_too() -> None:
    ran = swarmbus("read", "--json", "--nosuch")
    assert (ran.status, ran.json["error"]) == (2, "usage")


def test_words_of_others_cannot_act_on_the_terminal() -> None:
    ran = swarmbus("read", "--agent-id=\x1b[31mred\nline")
    assert "\x1b" not in ran.err
    assert len(ran.complaint) == 2


@pytest.mark.usefixtures("home")
def test_unforeseen_error_is_a_sentence_and_with_v_a_traceback(home: Path) -> None:
    # An inbox that is a folder's name too long for the system is an OSError that nobody foresaw.
    words = ("log", "--agent-id=planner")
    env = {"SWARMBUS_STATE_DIR": "/" + "x" * 300}
    ran = swarmbus(*words, env=env)
    assert ran.status == 2
    assert len(ran.complaint) <= 3
    assert "Traceback" not in ran.err


def test_reader_that_goes_away_ends_it_quietly(home: Path) -> None:
    inbox = home / "inbox.md"
    inbox.write_text("\n## [2026-04-14 05:00] From: coder | s\n" + "x" * 1_000_000 + "\n")
    reading, writing = os.pipe()
    os.close(reading)
    ran = subprocess.run(
        [*command(), "tail", "--agent-id=planner", f"--inbox={inbox}"], stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (141, b"")


def test_full_disk_behind_standard_output_is_an_error(home: Path) -> None:
    inbox = home / "inbox.md"
    inbox.write_text("\n## [2026-04-14 05:00] From: coder | s\nbody\n")
    words = [*command(), "tail", "--agent-id=planner", f"--inbox={inbox}"]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 2
    assert (
        ran.stderr.splitlines()[0] == "swarmbus tail: cannot write standard output: No space left on device"
    )
    assert len(ran.stderr.splitlines()) <= 3
    assert "body" in subprocess.run(words, capture_output=True, text=True).stdout, (
        "what was not printed is not read"
    )


def test_interrupt_ends_it_quietly(home: Path) -> None:
    inbox = home / "inbox.md"
    inbox.touch()
    process = subprocess.Popen(
        [*command(), "tail", "--agent-id=planner", f"--inbox={inbox}", "--follow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    with inbox.open("a") as file:
        file.write("\n## [2026-04-14 05:00] From: coder | s\nbody\n")
    assert process.stdout.readline() == b"\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert (process.returncode, err.strip()) == (130, b"")


def test_text_that_the_locale_lacks_is_escaped_not_an_error(home: Path) -> None:
    inbox = home / "inbox.md"
    inbox.write_text(
        "\n## [2026-04-14 05:00] From: coder | s\nna\u00efve \u2014 \U0001f41d\n", encoding="utf-8"
    )
    words = ("tail", "--agent-id=planner", f"--inbox={inbox}", "--reset")
    env = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    assert "na\\xefve \\u2014 \\U0001f41d" in swarmbus(*words, env=env).out
    line = swarmbus(*words, "--json", env=env).out
    assert line.isascii()
    assert json.loads(line)["body"] == "na\u00efve \u2014 \U0001f41d"


def test_json_does_nothing_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\x1b[31m \x9b31m \u202e \u200b \x7f"
    printed = output.as_json({"body": text})
    assert json.loads(printed) == {"body": text}
    assert not set(text) - {" ", "m", "3", "1", "["} & set(printed)


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colour_is_for_terminals_that_want_it(environment: dict[str, str], coloured: bool) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*command(), "nosuch"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm"} | environment,
    )
    os.close(theirs)
    said = _read_all(ours)
    process.wait()
    assert (b"\x1b[" in said) == coloured
    assert b"no such command" in said


def test_no_colour_in_a_pipe() -> None:
    assert "\x1b" not in swarmbus("nosuch").err


def test_password_as_an_argument_works_and_warns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["log", "--agent-id=planner"]) == 0
    assert "warning" not in capsys.readouterr().err
    ran = swarmbus("list", "--port=1", "--username=me", "--password=secret")
    assert ran.complaint[0].startswith("warning: every user of this host can see a --password")
    assert "secret" not in ran.err
    assert len(ran.complaint) == 3


def test_abbreviations_are_no_options() -> None:
    assert swarmbus("list", "--jso").status == 2


def _read_all(descriptor: int) -> bytes:
    said = b""
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        try:
            part = os.read(descriptor, 4096)
        except OSError:  # EIO: the other end was closed
            break
        if not part:
            break
        said += part
    os.close(descriptor)
    return said
