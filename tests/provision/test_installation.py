"""How this command came to be on a host, by what installers leave behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swarmbus.provision.installation import Installation, Interpreter, detect
from swarmbus.provision.system import Result
from tests.provision.fake_system import FakeSystem

VENV = Path("/home/pi/somewhere/env")
SITE = VENV / "lib/python3.11/site-packages"
USER_SITE = Path("/home/pi/.local/lib/python3.11/site-packages")
DIST = Path("/usr/lib/python3/dist-packages")
STDLIB = Path("/usr/lib/python3.11")


def _interpreter(prefix: Path = VENV, packages: Path = SITE) -> Interpreter:
    return Interpreter(prefix, Path("/usr"), STDLIB, packages, USER_SITE)


def _system(packages: Path = SITE, url: dict[str, object] | None = None) -> FakeSystem:
    system = FakeSystem()
    info = packages / "swarmbus-1.0.0.dist-info"
    system.put(str(info / "METADATA"))
    system.put(str(packages / "swarmbus/__init__.py"))
    if url is not None:
        system.put(str(info / "direct_url.json"), json.dumps(url))
    return system


def test_editable_installation_is_the_checkouts_to_upgrade() -> None:
    # PEP 610: file URL and dir_info.editable
    system = _system(url={"url": "file:///home/pi/my%20bus", "dir_info": {"editable": True}})
    here = detect(system, _interpreter())
    assert here.kind == "editable"
    assert here.refusal is not None
    assert here.refusal[1] == "git -C '/home/pi/my bus' pull && swarmbus restart --all"


def test_uv_tool_by_its_receipt_with_its_extras() -> None:
    system = _system()
    system.put(
        str(VENV / "uv-receipt.toml"), '[tool]\nrequirements = [{ name = "swarmbus", extras = ["mcp"] }]\n'
    )
    here = detect(system, _interpreter())
    assert (here.kind, here.extras, here.refusal) == ("uv-tool", ("mcp",), None)


def test_damaged_receipt_is_still_one_of_uv() -> None:
    system = _system()
    system.put(str(VENV / "uv-receipt.toml"), "[tool\n")
    assert detect(system, _interpreter()).kind == "uv-tool"


def test_environment_that_uv_only_made_is_an_ordinary_one() -> None:
    system = _system()
    system.put(str(VENV / "pyvenv.cfg"), "home = /usr/bin\nuv = 0.8.0\n")
    assert detect(system, _interpreter()).kind == "venv"


def test_pipx_by_its_metadata_although_uv_has_installed() -> None:
    system = _system()
    system.put(str(SITE / "swarmbus-1.0.0.dist-info/INSTALLER"), "uv")
    system.put(
        str(VENV / "pipx_metadata.json"),
        json.dumps({"main_package": {"package_or_url": "/home/pi/swarmbus[mcp]"}}),
    )
    here = detect(system, _interpreter())
    assert (here.kind, here.extras) == ("pipx", ("mcp",))


@pytest.mark.parametrize(("recorded", "extras"), [("mcp\n", ("mcp",)), ("\n", ()), (None, ())])
def test_install_sh_by_its_link_with_the_extras_it_has_recorded(
    recorded: str | None, extras: tuple[str, ...]
) -> None:
    system = _system()
    system.link(str(VENV), "env-20260101000000-1")
    if recorded is not None:
        system.put(str(VENV / ".extras"), recorded)
    here = detect(system, _interpreter())
    assert (here.kind, here.extras) == ("linked-venv", extras)


@pytest.mark.parametrize(
    ("url", "source"),
    [
        ({"url": "file:///home/pi/swarmbus", "dir_info": {}}, "/home/pi/swarmbus"),
        ({"url": "https://x/y.whl", "archive_info": {}}, "https://x/y.whl"),
        ({"url": "https://x/y", "vcs_info": {"vcs": "git", "commit_id": "1"}}, "git+https://x/y"),
        (
            {"url": "https://x/y", "vcs_info": {"vcs": "git", "requested_revision": "v1"}},
            "git+https://x/y@v1",
        ),
        (None, None),
    ],
)
def test_it_is_known_where_it_came_from(url: dict[str, object] | None, source: str | None) -> None:
    here = detect(_system(url=url), _interpreter())
    assert (here.kind, here.version, here.source) == ("venv", "1.0.0", source)


def test_container_is_refused_whatever_is_in_it() -> None:
    system = _system()
    system.put("/.dockerenv")
    here = detect(system, _interpreter())
    assert here.kind == "container"
    assert here.refusal is not None


def _owned_by(package: str | None) -> FakeSystem:
    system = _system(DIST)

    def dpkg(_: FakeSystem, argv: tuple[str, ...], root: bool) -> Result | None:
        asked = argv == ("dpkg", "-S", f"{DIST}/swarmbus/__init__.py")
        if asked and package is not None:
            return Result(argv, 0, f"{package}: {DIST}/swarmbus/__init__.py\n")
        return Result(argv, 1, stderr="no path found")

    system.programs = dpkg
    return system


def test_debian_package_is_apts_to_upgrade() -> None:
    here = detect(_owned_by("python3-swarmbus"), _interpreter(Path("/usr"), DIST))
    assert here.kind == "debian"
    assert here.refusal is not None
    assert "apt-get install --only-upgrade python3-swarmbus" in here.refusal[1]


@pytest.mark.parametrize(
    ("packages", "managed", "kind", "command"),
    [
        (DIST, True, "system", "pipx install swarmbus"),
        (DIST, False, "system", "sudo python3 -m pip install --upgrade swarmbus"),
        (USER_SITE, True, "user", "pipx install swarmbus"),
        (USER_SITE, False, "user", "python3 -m pip install --user --upgrade swarmbus"),
    ],
)
def test_pip_outside_an_environment_is_refused_with_the_command(
    packages: Path, managed: bool, kind: str, command: str
) -> None:
    system = _owned_by(None)
    system.put(str(packages / "swarmbus-1.0.0.dist-info/METADATA"))
    if managed:
        system.put(str(STDLIB / "EXTERNALLY-MANAGED"))
    here = detect(system, _interpreter(Path("/usr"), packages))
    assert here.kind == kind
    assert here.refusal is not None
    assert here.refusal[1].startswith(command)


def test_this_process_runs_from_somewhere_that_is_known(tmp_path: Path) -> None:
    interpreter = Interpreter.this()
    assert (interpreter.stdlib / "os.py").exists()
    assert interpreter.packages.is_dir()


def test_interpreter_keeps_the_path_that_outlives_a_version() -> None:
    assert Installation("linked-venv", Path("/x/venv")).python == Path("/x/venv/bin/python")


@pytest.mark.parametrize(
    ("here", "command"),
    [
        (Installation("pipx", VENV, source="/home/pi/my bus"), "pipx install --force '/home/pi/my bus[mcp]'"),
        (Installation("uv-tool", VENV), "uv tool install --force 'swarmbus[mcp]'"),
        (Installation("debian", Path("/usr"), owner="python3-swarmbus"), "pipx install 'swarmbus[mcp]'"),
        (Installation("user", Path("/usr"), managed=True), "pipx install 'swarmbus[mcp]'"),
        (Installation("user", Path("/usr")), "/usr/bin/python -m pip install --user 'mcp<3,>=2.3'"),
        (
            Installation("linked-venv", VENV, source="/home/pi/my bus"),
            "'/home/pi/my bus/install.sh' --no-init --with-mcp",
        ),
        (
            Installation("linked-venv", Path("/opt/swarmbus/venv"), source="/srv/bus"),
            "sudo env -u SUDO_UID /srv/bus/install.sh --no-init --with-mcp",
        ),
        (
            Installation("linked-venv", VENV, source="/tmp/swarmbus-2.0.0-py3-none-any.whl"),
            f"{VENV}/bin/python -m pip install 'mcp<3,>=2.3'",
        ),
        (
            Installation("editable", VENV, owner="/home/pi/bus"),
            f"{VENV}/bin/python -m pip install 'mcp<3,>=2.3'",
        ),
    ],
    ids=lambda given: getattr(given, "kind", ""),
)
def test_extra_is_added_in_the_way_of_the_installation(here: Installation, command: str) -> None:
    assert here.command_for_extra("mcp", ["mcp<3,>=2.3"]) == command


@pytest.mark.parametrize(
    ("here", "command"),
    [
        (Installation("pipx", VENV), "pipx uninstall swarmbus"),
        (Installation("uv-tool", VENV), "uv tool uninstall swarmbus"),
        (
            Installation("linked-venv", Path("/home/pi/.local/share/swarmbus/venv")),
            "rm -r /home/pi/.local/share/swarmbus /home/pi/.local/bin/swarmbus",
        ),
        (
            Installation("linked-venv", Path("/opt/swarmbus/venv")),
            "rm -r /opt/swarmbus /usr/local/bin/swarmbus",
        ),
        (Installation("venv", VENV), "/home/pi/somewhere/env/bin/python -m pip uninstall swarmbus"),
        (Installation("debian", Path("/usr"), owner="swarmbus"), "sudo apt-get purge swarmbus"),
        (
            Installation("user", Path("/usr"), managed=True),
            "python3 -m pip uninstall --break-system-packages swarmbus",
        ),
    ],
)
def test_how_the_command_itself_is_removed(here: Installation, command: str) -> None:
    assert here.removal == command
