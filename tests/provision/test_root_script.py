"""Steps for root as one script: read by a real shell, which here runs as whoever runs the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from swarmbus.errors import CannotRun, StorageError
from swarmbus.provision.command import Command, remove_commands, write_commands
from swarmbus.provision.root import RootStep, RootStepsNeeded, shell_script
from swarmbus.provision.root_script import run_script

SHELL = ("/bin/sh", "-s")
CHECKOUT = Path(__file__).resolve().parents[2]


def step(name: str, *commands: Command) -> RootStep:
    return RootStep(name, f"do {name}", commands)


def shell(text: str) -> Command:
    return Command(("/bin/sh", "-c", text))


def run(*steps: RootStep) -> list[str]:
    begun: list[str] = []
    run_script(SHELL, steps, lambda one: begun.append(one.id))
    return begun


def test_steps_run_in_order_and_each_is_told_of(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run(step("a", shell(f"echo a >>{log}")), step("b", shell(f"echo b >>{log}"))) == ["a", "b"]
    assert log.read_text() == "a\nb\n"


def test_what_a_program_prints_or_reads_does_not_lead_astray(tmp_path: Path) -> None:
    greedy = Command(("/bin/cat",))  # would eat the rest of the script
    liar = shell("echo '==> done'; echo '==> do c'; echo '==> 1'")
    after = shell(f"touch {tmp_path / 'after'}")
    assert run(step("a", greedy), step("b", liar), step("c", after)) == ["a", "b", "c"]
    assert (tmp_path / "after").exists()


def test_it_stops_at_the_first_failure_and_says_its_last_words(tmp_path: Path) -> None:
    begun: list[str] = []
    steps = [
        step("a", shell("echo a >&2")),
        step("b", shell("echo no such luck >&2; exit 7"), shell(f"touch {tmp_path / 'f'}")),
        step("c", shell(f"touch {tmp_path / 'g'}")),
    ]
    with pytest.raises(CannotRun, match="as root: do b: no such luck"):
        run_script(SHELL, steps, lambda one: begun.append(one.id))
    assert begun == ["a", "b"]
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_may_fail_and_one_that_has_another_in_its_stead(tmp_path: Path) -> None:
    fails = shell("exit 3")
    first, second = shell(f"touch {tmp_path / 'first'}"), shell(f"touch {tmp_path / 'second'}")
    assert run(
        step("a", Command(fails.argv, may_fail=True)),
        step("b", Command(fails.argv, otherwise=(first, second))),
    ) == ["a", "b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]
    with pytest.raises(CannotRun, match="do c"):
        run(step("c", Command(fails.argv, otherwise=(fails, shell(f"touch {tmp_path / 'third'}")))))
    assert not (tmp_path / "third").exists()


def test_where_the_script_is_not_begun_root_is_what_is_missing() -> None:
    begun: list[str] = []
    with pytest.raises(RootStepsNeeded) as caught:
        run_script(["/bin/false"], [step("a", shell("true"))], lambda one: begun.append(one.id))
    assert begun == []
    assert "do a" in caught.value.script


def test_a_script_that_is_cut_off_does_nothing(tmp_path: Path) -> None:
    script = shell_script([step("a", shell(f"touch {tmp_path / 'f'}")), step("b", shell("true"))])
    for length in range(len(script) - len("steps </dev/null\n"), 0, -40):
        subprocess.run(["/bin/sh", "-s"], input=script[:length], text=True, capture_output=True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_written_as_the_user_writes_his(tmp_path: Path) -> None:
    path = tmp_path / "it's a file"
    owner = (os.geteuid(), os.getegid())
    commands = write_commands(path, b"one\nEND\n", mode=0o640, owner=owner)
    for command in commands:
        subprocess.run(command.argv, input=command.stdin, check=True)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one\nEND\n", 0o640)
    path.unlink()
    script = shell_script([step("write", *commands)])
    subprocess.run(["sh"], input=script, text=True, check=True, stdout=subprocess.DEVNULL)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one\nEND\n", 0o640)
    assert [entry.name for entry in tmp_path.iterdir()] == ["it's a file"]
    for command in remove_commands(path):
        subprocess.run(command.argv, check=True)
    assert list(tmp_path.iterdir()) == []


def test_content_is_never_on_a_command_line_and_a_secret_is_not_shown() -> None:
    commands = write_commands(Path("/etc/x"), b"hunter2", mode=0o600, owner=(0, 0), secret=True)
    assert not any("hunter2" in word for command in commands for word in command.argv)
    assert "hunter2" in shell_script([step("write", *commands)])
    assert "hunter2" not in shell_script([step("write", *commands)], hide_secrets=True)


def test_nothing_is_run_that_somebody_else_could_change(tmp_path: Path) -> None:
    begun: list[str] = []
    program = tmp_path / "open" / "tool"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'f'}\n")
    program.chmod(0o755)
    program.parent.chmod(0o777)
    foreign = Command((str(program),))
    inside = Command(("/usr/bin/true",), inside=program.parent)
    hidden = Command(("/usr/bin/false",), otherwise=(foreign,))
    for command in (foreign, inside, hidden):
        with pytest.raises(StorageError, match=r"others may write|belongs to user"):
            run_script(SHELL, [step("a", command)], lambda one: begun.append(one.id))
    with pytest.raises(ValueError, match="not an absolute path"):
        run(step("a", Command(("tool",))))
    assert begun == []
    assert not (tmp_path / "f").exists()


_INTERRUPTED = """
import sys
from swarmbus.provision.command import Command
from swarmbus.provision.root import RootStep
from swarmbus.provision.root_script import run_script
work = "echo begun >%s/1; sleep 1; echo ended >%s/2" % (sys.argv[1], sys.argv[1])
steps = [RootStep("a", "work", (Command(("/bin/sh", "-c", work)),))]
try:
    run_script(["/usr/bin/setsid", "/bin/sh", "-s"], steps, lambda one: None)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_does_not_cut_off_what_root_has_begun(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _INTERRUPTED, str(tmp_path)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "1").exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[0] == "interrupted\n"
    assert (tmp_path / "2").read_text() == "ended\n"


def test_the_hint_has_the_commands_where_they_fit() -> None:
    linger = step("linger", Command(("/usr/bin/loginctl", "enable-linger", "pi")))
    error = RootStepsNeeded("x", steps=[linger])
    assert error.hint == "an administrator can run: sudo /usr/bin/loginctl enable-linger pi"
    write = step("write", *write_commands(Path("/etc/x"), b"x", mode=0o600, owner=(0, 0)))
    assert RootStepsNeeded("x", steps=[write]).hint == "an administrator can run: the script that was printed"
