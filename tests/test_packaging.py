"""The wheel and the sdist hold what git holds, and what they hold runs when it is installed elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]

#: Run in an environment that has swarmbus: where it was loaded from, and the names of its templates.
LOOK = """
import importlib.resources, pathlib, swarmbus, swarmbus.provision
def walk(folder, prefix=""):
    for entry in folder.iterdir():
        if entry.is_dir(): yield from walk(entry, f"{prefix}{entry.name}/")
        else: entry.read_bytes(); yield prefix + entry.name
print(pathlib.Path(swarmbus.__file__).parent)
print(*sorted(walk(importlib.resources.files("swarmbus") / "templates")), sep="\\n")
"""


def _run(*argv: str | Path, cwd: Path = Path("/")) -> str:
    ran = subprocess.run(argv, capture_output=True, text=True, cwd=cwd, timeout=300)
    assert ran.returncode == 0, f"{argv}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def _files_of_git() -> list[str]:
    """What git follows, and what it would if it were added: the checkout without what is built in it."""
    listed = _run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=CHECKOUT)
    return sorted({name for name in listed.split("\0") if name and os.path.lexists(CHECKOUT / name)})


@dataclass(frozen=True)
class Built:
    """A clean copy of the checkout, and what was built from it."""

    copy: Path
    files: list[str]
    sdist: Path
    wheel: Path
    wheel_of_sdist: Path

    @property
    def package(self) -> list[str]:
        """What must arrive in ``site-packages/swarmbus``, by its name there."""
        moved = {
            "swarmbus/": "swarmbus/",
            "provision/": "swarmbus/provision/",
            "templates/": "swarmbus/templates/",
            "docs/checks/": "swarmbus/check_pages/",
        }
        return sorted(
            here + name.removeprefix(there)
            for name in self.files
            for there, here in moved.items()
            if name.startswith(there) and not (self.copy / name).is_symlink()
        )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build once, for all tests of this file."""
    if shutil.which("git") is None or not (CHECKOUT / ".git").exists():
        pytest.skip("needs git and a checkout: git says which files belong into the packages")
    folder = tmp_path_factory.mktemp("packaging")
    copy = folder / "copy"
    files = _files_of_git()
    for name in files:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / name, copy / name, follow_symlinks=False)
    build = (sys.executable, "-m", "build", "--no-isolation")
    _run(*build, "--outdir", folder / "both", copy)  # the sdist, and a wheel from the sdist
    _run(*build, "--wheel", "--outdir", folder / "direct", copy)  # as `pip install .` does
    (sdist,) = (folder / "both").glob("*.tar.gz")
    (wheel_of_sdist,) = (folder / "both").glob("*.whl")
    (wheel,) = (folder / "direct").glob("*.whl")
    return Built(copy, files, sdist, wheel, wheel_of_sdist)


@pytest.fixture(scope="module")
def environment(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the wheel and its dependencies."""
    home = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(home)
    _pip(home, str(built.wheel))
    return home


def _pip(environment: Path, *arguments: str) -> None:
    """Install with the pip of the tests: bringing one, and compiling, take half of the time."""
    pip = (sys.executable, "-m", "pip", "--python", environment / "bin/python", "install")
    _run(*pip, "--quiet", "--no-compile", "--disable-pip-version-check", *arguments)


def _look(environment: Path) -> tuple[Path, list[str]]:
    place, *templates = _run(environment / "bin/python", "-I", "-c", LOOK).splitlines()
    return Path(place), [name for name in templates if "__pycache__" not in name]


def test_wheel_holds_the_package_as_git_has_it(built: Built) -> None:
    for wheel in (built.wheel, built.wheel_of_sdist):
        names = zipfile.ZipFile(wheel).namelist()
        assert sorted(name for name in names if ".dist-info/" not in name) == built.package


def test_wheel_brings_provision_templates_and_pages(built: Built) -> None:
    """The links are followed: a checkout without symbolic links would build a wheel without these."""
    assert "swarmbus/provision/__init__.py" in built.package
    for folder in ("swarmbus/templates/", "swarmbus/check_pages/"):
        assert any(name.startswith(folder) for name in built.package)


def test_sdist_holds_the_package_its_tests_and_its_documents(built: Built) -> None:
    root = built.sdist.name.removesuffix(".tar.gz")
    with tarfile.open(built.sdist) as archive:
        names = {name.removeprefix(f"{root}/") for name in archive.getnames()}
    # Pages of checks come by docs/, as in the checkout.
    assert {name for name in built.package if not name.startswith("swarmbus/check_pages/")} <= names
    top = ("tests/", "docs/", "ansible/", "scripts/")
    assert {name for name in built.files if name.startswith(top)} <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "install.sh", "Makefile"} <= names


def test_installed_wheel_runs_and_finds_its_templates(built: Built, environment: Path) -> None:
    version = built.wheel.name.split("-")[1]
    assert _run(environment / "bin/swarmbus", "--version") == f"swarmbus {version}\n"
    assert _run(environment / "bin/python", "-m", "swarmbus", "--version") == f"swarmbus {version}\n"
    place, templates = _look(environment)
    assert environment in place.parents
    assert templates == [
        name.removeprefix("swarmbus/templates/")
        for name in built.package
        if name.startswith("swarmbus/templates/")
    ]


def test_installed_wheel_has_the_page_of_every_check(environment: Path) -> None:
    program = "from swarmbus.provision.checks import CHECKS, page; print(*(page(one.code) for one in CHECKS))"
    assert "# systemd.linger" in _run(environment / "bin/python", "-I", "-c", program)


def test_mcp_server_without_its_extra_says_what_installs_it_here(environment: Path) -> None:
    argv = [str(environment / "bin/swarmbus"), "mcp-server", "--agent-id", "planner"]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert (ran.returncode, ran.stdout) == (2, "")
    what, hint = ran.stderr.splitlines()
    assert "needs the package mcp, which is not installed here" in what
    assert hint == f"  hint: install it: {environment}/bin/python -m pip install 'mcp<3,>=2.3'"


def test_installation_takes_one_name_in_site_packages(environment: Path) -> None:
    (record,) = environment.glob("lib/python3*/site-packages/swarmbus-*.dist-info/RECORD")
    tops = {line.split("/")[0] for line in record.read_text().splitlines()}
    assert tops == {"swarmbus", record.parent.name, ".."}  # the last is ../../../bin/swarmbus


def test_installed_package_says_that_it_is_typed(environment: Path) -> None:
    assert list(environment.glob("lib/python3*/site-packages/swarmbus/py.typed"))


def test_installed_sdist_runs_and_finds_its_templates(built: Built, environment: Path) -> None:
    before = _look(environment)
    _pip(environment, "--force-reinstall", "--no-deps", str(built.sdist))
    assert _look(environment) == before
    _run(environment / "bin/swarmbus", "--version")


def test_editable_installation_runs_from_the_checkout(built: Built, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home)
    _pip(home, "--no-deps", "--editable", str(built.copy))
    place, templates = _look(home)
    assert place == built.copy / "swarmbus"
    assert [f"swarmbus/templates/{name}" for name in templates] == [
        name for name in built.package if name.startswith("swarmbus/templates/")
    ]
