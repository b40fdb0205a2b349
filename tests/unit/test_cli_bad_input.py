"""Bad input ends with its exit status and at most three lines that say what to do, and changes nothing."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmbus.mailbox import Mailbox
from swarmbus.paths import mailbox_path
from tests.lab.command import Ran, swarmbus
from tests.lab.mosquitto import unused_port

SEND = ("send", "--agent-id=planner", "--to=coder", "--subject=s")


def _contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: files with what is in them, folders with None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def assert_refused(ran: Ran, *parts: str, status: int = 2) -> None:
    assert ran.status == status, ran
    assert 1 <= len(ran.complaint) <= 3, ran.err
    assert "Traceback" not in ran.err
    assert "internal error" not in ran.err
    assert ran.out == ""
    for part in parts:
        assert part in ran.err


@pytest.fixture
def unchanged(home: Path) -> Iterator[None]:
    """The home is at the end as it was when the fixture was asked for."""
    before = _contents(home)
    yield
    assert _contents(home) == before


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ["send", "--agent-id=A", "--to=coder", "--subject=s", "--body=b"],
            ["'A' is not an agent id", "a-z"],
        ),
        (["send", "--agent-id=a b", "--to=coder", "--subject=s", "--body=b"], ["'a b'"]),
        (["send", f"--agent-id={'a' * 65}", "--to=coder", "--subject=s", "--body=b"], ["1 to 64 characters"]),
        (["send", "--agent-id=system", "--to=coder", "--subject=s", "--body=b"], ["'system' is reserved"]),
        (["send", "--agent-id=broadcast", "--to=coder", "--subject=s", "--body=b"], ["is reserved"]),
        (["send", "--agent-id=planner", "--to=agents/x", "--subject=s", "--body=b"], ["'agents/x'"]),
        (
            ["send", "--agent-id=planner", "--to=presence", "--subject=s", "--body=b"],
            ["'presence' is reserved"],
        ),
        ([*SEND, "--body=b", "--reply-to=X"], ["'X' is not an agent id"]),
        (["send", "--to=coder", "--subject=s", "--body=b"], ["no agent id was given", "--agent-id"]),
        (["send", "--agent-id=planner", "--subject=s", "--body=b"], ["--to"]),
        (["read", "--agent-id=../x"], ["'../x' is not an agent id"]),
        (["start", "--agent-id=inbox"], ["'inbox' is reserved"]),
        (["tail", "--agent-id=Ä"], ["is not an agent id"]),
        (["init", "--agent-id=B", "--yes"], ["'B' is not an agent id"]),
        (["log", "--agent-id=planner", "--peer=X"], ["'X' is not an agent id"]),
    ],
)
def test_bad_agent_id_is_refused(words: list[str], parts: list[str]) -> None:
    assert_refused(swarmbus(*words), *parts)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["there is no body", "--body-file FILE"]),
        (["--body=b", "--body-file=/etc/hostname"], ["--body and --body-file were both given"]),
        (["--body=" + "x" * 65_537], ["more than 65536 bytes", "shared storage"]),
        (["--body=" + "ä" * 32_769], ["more than 65536 bytes"]),
        (["--body-file=/nonexistent"], ["'/nonexistent'", "No such file"]),
        (["--body-file=/"], ["'/'", "Is a directory"]),
        (["--body-file=/proc/self/mem"], ["'/proc/self/mem'"]),
        (["--body-file=/dev/zero"], ["/dev/zero", "more than 65536 bytes"]),
        (["--body=b", "--subject=two\nlines"], ["line break"]),
        (["--body=b", f"--subject={'ä' * 129}"], ["258 bytes", "256"]),
        (["--body=b", "--content-type=text/html"], ["text/html", "text/plain"]),
        (["--body=b", "--priority=urgent"], ["urgent", "'low'"]),
        (["--body=b", f"--in-reply-to={'x' * 201}"], ["201 characters"]),
        (["--body=b", "--timeout=nan"], ["--timeout"]),
        (["--body=b", "--port=0"], ["--port"]),
        (["--body=b", "--wait=forever"], ["--wait"]),
        (["--body=b", "--to=broadcast", "--wait=stored"], ["broadcast", "leave --wait out"]),
    ],
)
def test_bad_message_is_refused_before_anything_is_kept(words: list[str], parts: list[str]) -> None:
    assert_refused(swarmbus(*SEND, *words), *parts)


@pytest.mark.usefixtures("unchanged")
def test_standard_input_that_is_not_utf8_is_refused_with_the_place() -> None:
    ran = swarmbus(*SEND, "--body-file=-", stdin=b"caf\xe9 au lait")
    assert_refused(ran, "standard input", "byte 0xe9 at offset 3", "iconv")


@pytest.mark.usefixtures("unchanged")
def test_argument_that_is_not_utf8_is_refused() -> None:
    assert_refused(swarmbus(*SEND, b"--body=caf\xe9"), "byte 0xe9 at offset 3")


@pytest.mark.usefixtures("unchanged")
def test_subject_that_is_not_utf8_is_refused() -> None:
    ran = swarmbus("send", "--agent-id=planner", "--to=coder", b"--subject=caf\xe9", "--body=b")
    assert_refused(ran, "subject")


@pytest.mark.usefixtures("unchanged")
def test_endless_standard_input_is_not_read_whole() -> None:
    with subprocess.Popen(["yes"], stdout=subprocess.PIPE) as endless:
        ran = subprocess.run(
            ["timeout", "20", *_words(*SEND, "--body-file=-")], stdin=endless.stdout, capture_output=True
        )
        endless.kill()
    assert_refused(Ran(ran.returncode, ran.stdout.decode(), ran.stderr.decode()), "more than 65536 bytes")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('broker = "localhost"\nport = \n', ["line 2"]),
        ('broker = "localhost"\nport = "many"\n', ["port", "'many' is not a TCP port"]),
        ("port = 70000\n", ["70000 is not a TCP port"]),
        ('# c\nbrocker = "x"\n', [":2", "'brocker'", "did you mean 'broker'?"]),
        ('[agents.planner]\ninvok = "x"\n', [":2", "'invok'", "did you mean 'invoke'?"]),
        ('[agents.PLANNER]\ninbox = "x"\n', ["'PLANNER' is not an agent id"]),
        ("agents = 3\n", ["agents"]),
        ('outbox = ["a"]\n', ["outbox", "is not text"]),
        ('tls = "maybe"\n', ["tls", "yes or no"]),
    ],
)
@pytest.mark.parametrize("words", [[*SEND, "--body=b"], ["read", "--agent-id=planner"], ["list"]])
def test_broken_configuration_is_named_with_its_line(
    home: Path, words: list[str], text: str, parts: list[str]
) -> None:
    config = home / ".config/swarmbus/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(text)
    before = _contents(home)
    assert_refused(swarmbus(*words), str(config), *parts)
    assert _contents(home) == before


def test_configuration_that_is_not_text_is_refused(home: Path) -> None:
    config = home / "c.toml"
    config.write_bytes(b"broker = '\xff'")
    assert_refused(swarmbus("list", env={"SWARMBUS_CONFIG": str(config)}), str(config), "not UTF-8")
    assert_refused(swarmbus("list", env={"SWARMBUS_CONFIG": str(home)}), str(home), "Is a directory")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("variable", "value", "part"),
    [
        ("SWARMBUS_PORT", "many", "SWARMBUS_PORT: 'many' is not a TCP port"),
        ("SWARMBUS_PORT", "99999", "SWARMBUS_PORT: '99999' is not a TCP port"),
        ("SWARMBUS_BROKER_TLS", "perhaps", "SWARMBUS_BROKER_TLS"),
        ("SWARMBUS_AGENT_ID", "Planner", "'Planner' is not an agent id"),
        ("SWARMBUS_BROKER_CA_CERT", "/nonexistent.pem", "/nonexistent.pem"),
    ],
)
def test_bad_environment_is_named(variable: str, value: str, part: str) -> None:
    assert_refused(swarmbus("list", env={variable: value}), part)


def test_password_in_a_variable_is_not_repeated(home: Path) -> None:
    config = home / ".config/swarmbus/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("password = 12345\n")
    ran = swarmbus("list")
    assert_refused(ran, "password")
    assert "12345" not in ran.err


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["read", "--agent-id=planner", "--max=0"], ["--max"]),
        (["read", "--agent-id=planner", "--consumer=a/b"], ["'a/b' is not a consumer name"]),
        (["tail", "--agent-id=planner", "--consumer=../../x"], ["is not a consumer name"]),
        (["watch", "--agent-id=planner", "--timeout=soon"], ["--timeout"]),
        (["watch", "--agent-id=planner", "--timeout=-1"], ["--timeout"]),
        (["log", "--agent-id=planner", "--since=yesterday"], ["'yesterday' is not a time", "10m, 2h, 3d"]),
        (["tail", "--agent-id=planner"], ["sync/planner-inbox.md"]),
        (["outbox", "--agent-id=planner", "--drop"], ["no undelivered message was named", "the word all"]),
        (["outbox", "--agent-id=planner", "--drop", "--retry", "all"], ["both given"]),
        (["outbox", "--agent-id=planner", "9f0c"], ["--retry or --drop"]),
        (["outbox", "--agent-id=planner", "--drop", "9f0c"], ["there is no undelivered message '9f0c'"]),
        (["quarantine", "--agent-id=planner", "--drop"], ["no entry was named"]),
        (["quarantine", "--agent-id=planner", "7"], ["there is no entry '7'"]),
        (["trace", "--agent-id=planner"], ["ID"]),
        (["start", "--agent-id=planner", "--invoke=no-such-program 'open"], ["no-such-program"]),
        (["start", "--agent-id=planner", "--ca-cert=/nonexistent.pem"], ["/nonexistent.pem"]),
        (["init", "--agent-id=planner", "--host-type=cc", "--yes"], ["--host-type cc", "this release"]),
        (["init", "--agent-id=planner", "--host-type=openclaw", "--yes"], ["--host-type openclaw"]),
        (["init", "--agent-id=planner", "--broker=tailscale", "--yes"], ["tailscale", "ts.net"]),
        (["init", "--agent-id=planner", "--username=me", "--yes"], ["--username", "config.toml"]),
        (["init", "--agent-id=planner", "--invoke=no-such-program", "--yes"], ["no-such-program"]),
        (["init", "--spec=/nonexistent.toml", "--yes"], ["/nonexistent.toml", "No such file"]),
        (["init", "--spec=-", "--agent-id=planner"], ["--spec and --agent-id", "whole"]),
        (["init", "--resume", "--port=1885"], ["--resume", "no other option"]),
        (["init", "--resume"], ["no run of init waits"]),
        (["apply", "--spec=/dev/null", "--spec=/etc"], ["/etc", "Is a directory"]),
        (["plan", "--spec=/dev/zero"], ["/dev/zero", "longer than a spec"]),
        (["nosuch"], ["'nosuch'", "--help"]),
        (["snd"], ["did you mean 'swarmbus send'?"]),
        (["send", "--tow=x"], ["--tow", "--to"]),
        (["--nosuch"], ["--nosuch"]),
    ],
)
def test_wrong_call_is_refused(words: list[str], parts: list[str]) -> None:
    assert_refused(swarmbus(*words), *parts)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("port = =", ["standard input is no TOML", "line 1"]),
        ('{"port": }', ["standard input is no JSON", "line 1"]),
        ("prot = 1", ["unknown key 'prot'", "did you mean 'port'?"]),
        ("port = true", ["port in the spec is True"]),
        ("port = 70000", ["70000 is no TCP port"]),
        ("[[agents]]\nid = 'A'", ["'A' is not an agent id"]),
        ("[[agents]]\ninbox = 'x'", ["needs an id"]),
        ("agents = 'planner'", ["not a list of tables"]),
        ("[[agents]]\nid = 'a'\ninvoke = 'no-such-program'", ["no-such-program"]),
    ],
)
@pytest.mark.parametrize("command", [["plan"], ["apply"], ["init", "--yes"]], ids=lambda words: words[0])
def test_spec_that_is_none_is_refused(command: list[str], spec: str, parts: list[str]) -> None:
    assert_refused(swarmbus(*command, "--spec=-", stdin=spec.encode()), *parts)


@pytest.mark.usefixtures("unchanged")
def test_init_without_a_terminal_wants_yes() -> None:
    port = unused_port()
    assert_refused(
        swarmbus("init", "--agent-id=planner", "--skip-broker", f"--port={port}"), "no terminal", "--yes"
    )


@pytest.mark.parametrize("words", [[*SEND, "--body=b"], ["read", "--agent-id=planner"]])
def test_state_directory_that_cannot_be_made(home: Path, words: list[str]) -> None:
    blocked = home / "file"
    blocked.touch()
    before = _contents(home)
    ran = swarmbus(*words, f"--port={unused_port()}", env={"SWARMBUS_STATE_DIR": str(blocked / "state")})
    assert_refused(ran, str(blocked / "state"), "Not a directory")
    assert _contents(home) == before


@pytest.mark.parametrize("outbox", ["file/outbox.md", "folder"])
def test_message_is_not_sent_when_its_outbox_cannot_be_written(home: Path, outbox: str) -> None:
    (home / "file").touch()
    (home / "folder").mkdir()
    before = _contents(home)
    assert_refused(swarmbus(*SEND, "--body=b", f"--outbox={home / outbox}"), str(home / outbox))
    assert _contents(home) == before


def test_listener_does_not_start_when_its_inbox_cannot_be_written(home: Path) -> None:
    (home / "file").touch()
    ran = swarmbus("start", "--agent-id=planner", f"--port={unused_port()}", f"--inbox={home}/file/inbox.md")
    assert ran.status == 2
    assert "Traceback" not in ran.err
    assert ran.complaint[-2].startswith(f"swarmbus start: cannot write {home}/file/inbox.md: Not a directory")


def test_listener_that_does_not_start_in_the_background_says_why(home: Path) -> None:
    (home / "file").touch()
    ran = swarmbus(
        "start", "--agent-id=planner", f"--port={unused_port()}", f"--inbox={home}/file/i.md", "--detach"
    )
    assert (ran.status, ran.out) == (2, "")
    assert ran.complaint[-2].startswith(f"swarmbus start: cannot write {home}/file/i.md: Not a directory")


@pytest.fixture
def mailbox(home: Path) -> Path:
    """A mailbox file with nothing in it."""
    path = mailbox_path("planner")
    Mailbox.open(path).close()
    return path


COMMANDS_OF_THE_MAILBOX = [
    [*SEND, "--body=b"],
    ["read", "--agent-id=planner"],
    ["watch", "--agent-id=planner", "--timeout=1"],
    ["log", "--agent-id=planner"],
    ["trace", "--agent-id=planner", "9f0c"],
    ["outbox", "--agent-id=planner"],
    ["quarantine", "--agent-id=planner"],
]


@pytest.mark.parametrize("words", COMMANDS_OF_THE_MAILBOX)
def test_damaged_mailbox_is_named_and_left_as_it_is(mailbox: Path, words: list[str]) -> None:
    mailbox.write_bytes(b"this is no database, and never was one" * 100)
    before = mailbox.read_bytes()
    env = {"SWARMBUS_PORT": str(unused_port())}
    assert_refused(swarmbus(*words, env=env), str(mailbox), "damaged", "move it away")
    assert mailbox.read_bytes() == before


@pytest.mark.parametrize("words", COMMANDS_OF_THE_MAILBOX)
def test_mailbox_of_a_newer_release_is_named_and_left_as_it_is(mailbox: Path, words: list[str]) -> None:
    connection = sqlite3.connect(mailbox)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = mailbox.read_bytes()
    env = {"SWARMBUS_PORT": str(unused_port())}
    assert_refused(swarmbus(*words, env=env), str(mailbox), "schema 99", "upgrade")
    assert mailbox.read_bytes() == before


def test_listener_does_not_start_over_a_damaged_mailbox(mailbox: Path) -> None:
    mailbox.write_bytes(b"this is no database, and never was one" * 100)
    ran = swarmbus("start", "--agent-id=planner", f"--port={unused_port()}")
    assert ran.status == 2
    assert ran.complaint[-2].startswith(f"swarmbus start: the mailbox {mailbox} is damaged")


@pytest.mark.parametrize(
    "words",
    [["read", "--agent-id=planner"], ["watch", "--agent-id=planner", "--timeout=5"], ["list"]],
)
def test_unreachable_broker_is_not_an_empty_answer(words: list[str]) -> None:
    port = unused_port()
    assert_refused(swarmbus(*words, f"--port={port}"), f"localhost:{port}", "refused", "hint:")


def test_broker_that_hangs_is_given_up(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        assert_refused(swarmbus("list", "--broker=127.0.0.1", f"--port={port}"), f"127.0.0.1:{port}")


def test_message_is_kept_while_the_broker_is_away(home: Path) -> None:
    port = unused_port()
    ran = swarmbus(*SEND, "--body=b", f"--port={port}", "--json")
    assert ran.status == 2
    assert ran.json["state"] == "queued"
    assert ran.json["to"] == "coder"
    assert "refused" in ran.json["reason"]
    assert len(ran.complaint) <= 3
    assert "do not send it again" in ran.err
    assert swarmbus("outbox", "--agent-id=planner", "--json").json[0]["id"] == ran.json["id"]


def test_full_disk_keeps_nothing_and_says_so(tmp_path: Path) -> None:
    space = tmp_path / "small"
    space.mkdir()
    inside = 'mount -t tmpfs -o size=64k tmpfs "$0" && exec "$@"'
    root = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    wrapper = ("unshare", *root, "--mount", "sh", "-c", inside, str(space))
    if shutil.which("unshare") is None or swarmbus("--version", wrapper=wrapper).status != 0:
        pytest.skip("no small file system can be mounted here")
    env = {"SWARMBUS_STATE_DIR": str(space)}
    ran = swarmbus(*SEND, "--body=" + "x" * 60_000, f"--port={unused_port()}", wrapper=wrapper, env=env)
    assert_refused(ran, str(space), "free space")


def _words(*words: str) -> list[str]:
    from tests.lab.command import command

    return [*command(), *words]
