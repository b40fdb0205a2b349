"""Templates: each language's quoting, and the program that reads the language as the judge."""

from __future__ import annotations

import getpass
import json
import os
import plistlib
import re
import shlex
import subprocess
import tomllib
from dataclasses import replace
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
    xml_text,
)
from swarmbus.provision.request import AgentSpec
from swarmbus.provision.resources.file import File
from swarmbus.provision.supervisors.launchd import Launchd
from swarmbus.provision.supervisors.systemd import Systemd
from swarmbus.provision.supervisors.systemd_system import SystemdSystem
from swarmbus.provision.supervisors.systemd_user import SystemdUser
from swarmbus.provision.supervisors.unit_judge import judge_unit
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


SUPERVISORS: dict[str, type[Systemd]] = {"user": SystemdUser, "system": SystemdSystem}


def _files(home: Path, python: str, scope: str, *, systemd: int | None = None) -> dict[str, str]:
    """Name and content of every unit that is rendered for one agent, with all that has to be quoted."""
    user = User(getpass.getuser(), os.getuid(), os.getgid(), home)
    host = Host("pi4", user, python=python, systemd=systemd)
    layout = Layout(
        home=home,
        config=home / "config.toml",
        state=home / "state",
        units=home / "units",
        data=home / "data",
        environment=tuple((f"SWARMBUS_{number}", text) for number, text in enumerate(AWKWARD)),
    )
    supervisor = SUPERVISORS[scope](host, layout)
    agent = AgentSpec("planner", inbox="~/two words/100%/{agent_id}.md", outbox="/srv/$HOME;#/out.md")
    daemons = [supervisor.agent(agent, after=["swarmbus-broker.service"]), supervisor.common([agent])]
    files = [file for daemon in daemons for file in daemon.files if isinstance(file, File)]
    return {file.path.name: file.content for file in files}


def _unit(home: Path, python: str) -> str:
    return _files(home, python, "user")["swarmbus-planner.service"]


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


def _analyze(folder: Path, scope: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", f"--{scope}", *words],
        env={"XDG_RUNTIME_DIR": str(folder), "PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": f"{folder}:"},
        capture_output=True,
        text=True,
    )


@needs_analyze
@pytest.mark.parametrize("scope", SUPERVISORS)
def test_systemd_accepts_the_units(tmp_path: Path, awkward_python: str, scope: str) -> None:
    units = tmp_path / "units"
    units.mkdir()
    for name, text in _files(tmp_path, awkward_python, scope).items():
        (units / name.replace("@.", "@planner.")).write_text(text)
    (units / "swarmbus-broker.service").write_text("[Service]\nExecStart=/bin/true\n")
    ours = sorted(units.glob("swarmbus-[pf]*.service"))
    assert len(ours) == 2
    judged = _analyze(units, scope, "verify", "--recursive-errors=yes", *map(str, ours))
    assert (judged.stderr, judged.returncode) == ("", 0)


@needs_analyze
@pytest.mark.parametrize(("scope", "tenths"), [("user", 64), ("system", 25)])
def test_the_sandbox_is_as_tight_as_it_can_be(tmp_path: Path, scope: str, tenths: int) -> None:
    path = tmp_path / "swarmbus-planner.service"
    path.write_text(_files(tmp_path, "/bin/true", scope)[path.name])
    judge = ("security", "--offline=yes", "--no-pager")
    judged = _analyze(tmp_path, scope, *judge, f"--threshold={tenths}", str(path))
    assert judged.returncode == 0, judged.stdout.splitlines()[-1]
    path.write_text(path.read_text().replace("RestrictNamespaces=yes\n", "").replace("ProtectSystem=", "#"))
    assert _analyze(tmp_path, scope, *judge, "--threshold=15", str(path)).returncode != 0, "it does judge"


@pytest.mark.parametrize(("systemd", "known"), [(None, False), (252, False), (253, False), (254, True)])
def test_a_growing_delay_is_asked_only_of_a_systemd_that_knows_it(
    tmp_path: Path, systemd: int | None, known: bool
) -> None:
    text = _files(tmp_path, "/bin/true", "user", systemd=systemd)["swarmbus-planner.service"]
    assert ("RestartSteps=6\nRestartMaxDelaySec=60\n" in text) == known


def test_a_user_unit_asks_for_nothing_that_needs_a_mount_namespace(tmp_path: Path) -> None:
    """Version 252 ignores some of it and fails at the rest; 257 makes others' files those of nobody."""
    text = _files(tmp_path, "/bin/true", "user")["swarmbus-planner.service"]
    assert not re.search("^(Private|Protect|ReadWritePaths|CapabilityBoundingSet)", text, re.MULTILINE)


def test_what_is_below_tmp_is_not_hidden(tmp_path: Path) -> None:
    assert "PrivateTmp" not in _files(Path("/tmp/home"), "/bin/true", "system")["swarmbus-planner.service"]
    assert "PrivateTmp" in _files(Path("/home/pi"), "/bin/true", "system")["swarmbus-planner.service"]


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


def test_launchd_reads_back_what_was_meant() -> None:
    moved = tuple((f"SWARMBUS_{number}", text) for number, text in enumerate(AWKWARD))
    layout = replace(Layout.under(Path("/Users/R&D <x>")), environment=moved)
    host = Host("mac", User("x", 501, 20, layout.home), init="launchd", python="/opt/two words/<&>/python")
    (file,) = Launchd(host, layout).agent(AgentSpec("planner"), after=()).files
    assert isinstance(file, File)
    assert file.path == layout.home / "Library/LaunchAgents/swarmbus.agent.planner.plist"
    read = plistlib.loads(file.content.encode())
    assert read["Label"] == "swarmbus.agent.planner"
    assert read["ProgramArguments"][0] == "/opt/two words/<&>/python"
    assert read["ProgramArguments"][-2:] == ["--agent-id", "planner"]
    assert read["EnvironmentVariables"].pop("PATH").startswith("/Users/R&D <x>/.local/bin:")
    assert list(read["EnvironmentVariables"].values()) == AWKWARD
    assert (read["RunAtLoad"], read["KeepAlive"], read["Umask"]) == (True, True, 0o077)
    assert read["StandardErrorPath"] == f"{layout.state}/planner/listener.log"


def test_a_line_break_cannot_get_into_a_property_list() -> None:
    with pytest.raises(ValueError, match="control characters"):
        xml_text("a\nb")
