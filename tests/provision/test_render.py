"""Templates: each language's quoting, and the program that reads the language as the judge."""

from __future__ import annotations

import json
import shlex
import subprocess
import tomllib
from pathlib import Path

import jinja2
import pytest

from swarmbus.errors import CannotRun
from swarmbus.provision.host import Host
from swarmbus.provision.layout import Layout
from swarmbus.provision.local_system import LocalSystem
from swarmbus.provision.render import (
    mosquitto_value,
    render,
    systemd_argument,
    systemd_text,
    systemd_word,
    toml_string,
)
from swarmbus.provision.request import AgentSpec
from swarmbus.provision.resources.file import File
from swarmbus.provision.supervisors.systemd_user import SystemdUser, judge_unit
from swarmbus.provision.system import User

AWKWARD = ["plain", "two words", 'quo"te', "it's", "back\\slash", "100%", "$HOME", "a;b", "#x", "é"]


def test_systemd_text() -> None:
    assert systemd_text("50% of $HOME") == "50%% of $HOME"


@pytest.mark.parametrize(
    ("value", "word", "argument"),
    [
        ("/usr/bin/python3", "/usr/bin/python3", "/usr/bin/python3"),
        ("two words", '"two words"', '"two words"'),
        ('quo"te', '"quo\\"te"', '"quo\\"te"'),
        ("back\\slash", '"back\\\\slash"', '"back\\\\slash"'),
        ("100%", "100%%", "100%%"),
        ("$HOME", "$HOME", "$$HOME"),
        ("", '""', '""'),
    ],
)
def test_systemd_words(value: str, word: str, argument: str) -> None:
    assert (systemd_word(value), systemd_argument(value)) == (word, argument)


@pytest.mark.parametrize("quote", [systemd_text, systemd_word, mosquitto_value])
def test_a_line_break_cannot_smuggle_a_line_in(quote: object) -> None:
    with pytest.raises(ValueError, match="control characters"):
        quote("x\nExecStart=/bin/evil")  # type: ignore[operator]


def test_mosquitto_has_no_quotes() -> None:
    with pytest.raises(ValueError, match="not possible"):
        mosquitto_value(" leading")


@pytest.mark.parametrize("text", [*AWKWARD, "tab\there", "line\nbreak", "\x7f", "😀"])
def test_toml(text: str) -> None:
    assert tomllib.loads(f"key = {toml_string(text)}") == {"key": text}


def test_a_template_that_names_a_missing_value_fails() -> None:
    with pytest.raises(jinja2.UndefinedError, match="argv"):
        render("systemd/swarmbus-broker.service.j2", user="pi")


def _unit(home: Path, python: str) -> str:
    host = Host("pi4", User("pi", 1000, 1000, home), python=python)
    layout = Layout(
        home=home,
        config=home / "config.toml",
        state=home / "state",
        units=home / "units",
        data=home / "data",
        environment=tuple((f"SWARMBUS_{number}", text) for number, text in enumerate(AWKWARD)),
    )
    daemon = SystemdUser(host, layout).agent(AgentSpec("planner"), after=["swarmbus-broker.service"])
    (file,) = daemon.files
    assert isinstance(file, File)
    return file.content


@pytest.fixture
def awkward_python(tmp_path: Path) -> str:
    """An interpreter in a folder whose name has all that has to be quoted.

    But for quotes and backslashes, which systemd has in no program's name ("contains special characters").
    """
    folder = tmp_path / "two words 100% $HOME ;"
    folder.mkdir()
    (folder / "python").symlink_to("/bin/true")
    return str(folder / "python")


needs_analyze = pytest.mark.skipif(
    LocalSystem().which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


@needs_analyze
def test_systemd_accepts_the_unit(tmp_path: Path, awkward_python: str) -> None:
    text = _unit(tmp_path, awkward_python)
    (tmp_path / "swarmbus-planner.service").write_text(text)
    (tmp_path / "swarmbus-broker.service").write_text("[Service]\nExecStart=/bin/true\n")
    command = ["systemd-analyze", "--user", "verify", "--recursive-errors=yes"]
    judged = subprocess.run(
        [*command, tmp_path / "swarmbus-planner.service"],
        env={"XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
    )
    assert (judged.stderr, judged.returncode) == ("", 0)


@needs_analyze
@pytest.mark.parametrize(
    ("spoil", "wanted"),
    [
        (("Restart=always", "Restrt=always"), "Restrt"),
        (("ExecStart=/", "ExecStart=relative/"), "relative/"),
        (("/bin/python", "/bin/nothing-there"), "is not executable"),
    ],
)
def test_what_systemd_would_only_print_is_an_error(
    tmp_path: Path, spoil: tuple[str, str], wanted: str
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to("/bin/true")
    text = _unit(tmp_path, f"{tmp_path}/bin/python")
    judge = judge_unit("swarmbus-planner.service")
    judge(LocalSystem(), text)
    assert spoil[0] in text
    with pytest.raises(CannotRun, match=wanted):
        judge(LocalSystem(), text.replace(*spoil))


@pytest.mark.parametrize("text", AWKWARD)
def test_shell_and_json_filters(text: str) -> None:
    assert shlex.split(shlex.quote(text)) == [text]
    assert json.loads(json.dumps(text)) == text
