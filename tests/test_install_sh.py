"""install.sh, run for real in a home of its own; what needs a whole host is in tests/hosts/test_install.py.

As root, each run is in a mount namespace with an /opt, a /usr/local/bin and an /etc/passwd of its own, and
as a user that only this /etc/passwd knows. As anybody else, it runs as that user.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
IS_ROOT = os.geteuid() == 0
NUMBER = 61234  # of the user in the sandbox, and of its group
NAME = "sbpi"

pytestmark = pytest.mark.timeout(300)
needs_root = pytest.mark.skipif(not IS_ROOT, reason="needs root, for a mount namespace")


#: Hides the distribution's interpreters in a sandbox.
WITHOUT_PYTHON = " && ".join(
    f"mount --bind /dev/null {path}"
    for path in sorted({path.resolve() for path in Path("/usr/bin").glob("python3*") if path.is_file()})
)


class Sandbox:
    """A folder with a copy of the checkout, a home, and stand-ins for the folders that root installs into.

    No package manager and no sudo can be reached: `apt-get` and `sudo` are stubs that fail and leave a trace.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkout, self.home = folder / "checkout", folder / "home"
        self.opt, self.local_bin, self.stubs = folder / "opt", folder / "local-bin", folder / "stubs"
        folder.chmod(0o755)
        for place in (self.home, self.opt, self.local_bin, self.stubs):
            place.mkdir()
        copy_checkout(self.checkout)
        if IS_ROOT:
            os.chown(self.home, NUMBER, NUMBER)
        entry = f"{NAME}:x:{NUMBER}:{NUMBER}::{self.home}:/bin/bash\n"
        (folder / "passwd").write_text(Path("/etc/passwd").read_text() + entry)
        for name in ("apt-get", "sudo"):
            (self.stubs / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{folder}/asked-for\nexit 1\n')
            (self.stubs / name).chmod(0o755)
        self.environment = {
            "PATH": f"{self.stubs}:{sys.base_prefix}/bin:/usr/bin:/bin",
            "PIP_CONFIG_FILE": str(self._config_of_pip()),
            "PIP_FIND_LINKS": str(folder / "wheels"),
            "PIP_NO_COMPILE": "1",  # half of pip's time, and not what is tested here
            "TMPDIR": str(folder / "tmp"),
        }
        (folder / "tmp").mkdir(mode=0o1777)
        (folder / "tmp").chmod(0o1777)

    def _config_of_pip(self) -> Path:
        """The way to the package index, where the user may read it; it may hold a password."""
        copy = self.folder / "pip.conf"
        copy.touch(mode=0o600)
        if IS_ROOT:
            os.chown(copy, NUMBER, NUMBER)
        if outside := os.environ.get("PIP_CONFIG_FILE"):
            copy.write_text(Path(outside).read_text())
        return copy

    @property
    def prefix(self) -> Path:
        """Where an ordinary user's environment is."""
        return self.home / ".local/share/swarmbus"

    @property
    def command(self) -> Path:
        """The link that an ordinary user calls."""
        return self.home / ".local/bin/swarmbus"

    def argv(self, *command: str, root: bool = False, mounts: str = "") -> list[str]:
        """The command line that runs ``command`` in here as the user, or as root."""
        if not IS_ROOT:
            return list(command)
        switch = [] if root else ["setpriv", f"--reuid={NUMBER}", f"--regid={NUMBER}", "--clear-groups"]
        script = (
            f"mount --bind {self.folder}/passwd /etc/passwd && mount --bind {self.opt} /opt &&"
            f'mount --bind {self.local_bin} /usr/local/bin && {mounts or "true"} && exec "$@"'
        )
        return ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", *switch, *command]

    def variables(self, **more: str) -> dict[str, str]:
        """The whole environment of a run."""
        ways = ("PIP_", "SSL_", "http", "HTTP", "no_proxy", "NO_PROXY")
        kept = {name: value for name, value in os.environ.items() if name.startswith(ways)}
        kept.pop("PIP_CACHE_DIR", None)  # the developer's
        user = NAME if IS_ROOT else pwd.getpwuid(os.getuid()).pw_name
        who = {"HOME": str(self.home), "USER": user, "LOGNAME": user}
        return kept | self.environment | who | more

    def install(
        self, *arguments: str, root: bool = False, mounts: str = "", **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run install.sh; keyword arguments are variables."""
        return self.run(str(self.checkout / "install.sh"), *arguments, root=root, mounts=mounts, **more)

    def run(
        self, *command: str, root: bool = False, mounts: str = "", **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in here."""
        if root:
            own = {"HOME": str(self.folder / "root"), "USER": "root", "LOGNAME": "root"}
            more = own | {"PIP_CONFIG_FILE": str(self.folder / "pip.conf")} | more
        return subprocess.run(
            self.argv(*command, root=root, mounts=mounts),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.variables(**more),
            cwd="/",
            timeout=240,
        )

    def start_and_kill(self) -> None:
        """Run install.sh, and kill it with all its children as soon as it makes an environment."""
        process = subprocess.Popen(
            self.argv(str(self.checkout / "install.sh"), "--no-init"),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=self.variables(),
            start_new_session=True,
        )
        assert process.stderr is not None
        with process.stderr as talk:
            while not talk.readline().startswith("finding Python"):
                assert process.poll() is None
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def asked_for(self) -> str:
        """Which packages and which rights it has tried to get."""
        trace = self.folder / "asked-for"
        return trace.read_text() if trace.exists() else ""


def copy_checkout(into: Path) -> None:
    """The working tree without what is built in it; the user of the sandbox may read it."""
    ignored = shutil.ignore_patterns(
        ".git", "build", "dist", ".venv", "__pycache__", ".*_cache", "*.egg-info"
    )
    shutil.copytree(CHECKOUT, into, symlinks=True, ignore=ignored)
    into.chmod(0o755)


@pytest.fixture(scope="module")
def make_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Sandbox]]:
    """Makes sandboxes that share one folder of wheels."""
    if IS_ROOT:
        tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True)
        if tried.returncode != 0:
            pytest.skip(f"needs a mount namespace: {tried.stderr.strip()}")
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    extra = project["project"]["optional-dependencies"]["mcp"]
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"], *extra]
    wheels = tmp_path_factory.mktemp("wheels")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(wheels)]
    ran = subprocess.run([*download, *wanted], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    made: list[Path] = []

    def make() -> Sandbox:
        # Not below pytest's folder, which the sandbox's user may not enter.
        folder = Path(tempfile.mkdtemp(prefix="swarmbus-install-"))
        made.append(folder)
        shutil.copytree(wheels, folder / "wheels", copy_function=os.link)
        (folder / "wheels").chmod(0o755)
        return Sandbox(folder)

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def installed(make_sandbox: Callable[[], Sandbox]) -> Sandbox:
    """A sandbox in which the user has run ``install.sh --no-init``, the first time killed half way.

    With variables set that would send pip's files elsewhere, or make it refuse.
    """
    sandbox = make_sandbox()
    sandbox.start_and_kill()
    assert list(sandbox.prefix.glob("venv-*"))
    assert not os.path.lexists(sandbox.command)
    ran = sandbox.install(
        "--no-init", PIP_TARGET=str(sandbox.home / "astray"), PIP_USER="1", PYTHONPATH="/nowhere"
    )
    assert ran.returncode == 0, ran.stderr
    return sandbox


@pytest.fixture
def sandbox(make_sandbox: Callable[[], Sandbox]) -> Sandbox:
    """A sandbox in which nothing is installed yet."""
    return make_sandbox()


def version() -> str:
    line = (CHECKOUT / "swarmbus/version.py").read_text().split('__version__ = "')[1]
    return line.split('"')[0]


def test_user_gets_a_command_that_runs(installed: Sandbox) -> None:
    assert installed.command.readlink() == (installed.prefix / "venv/bin/swarmbus")
    ran = installed.run(str(installed.command), "--version")
    assert (ran.returncode, ran.stdout) == (0, f"swarmbus {version()}\n")
    assert installed.asked_for() == ""


def test_first_run_was_killed_and_has_left_nothing(installed: Sandbox) -> None:
    current = str((installed.prefix / "venv").readlink())
    assert sorted(path.name for path in installed.prefix.iterdir()) == [".lock", "venv", current]
    assert not (installed.home / "astray").exists()


def test_scripts_and_interpreter_go_by_the_path_that_outlives_upgrades(installed: Sandbox) -> None:
    venv = installed.prefix / "venv"
    script = (venv / "bin/swarmbus").read_text()
    assert str(venv / "bin/python") in script.splitlines()[0] + script.splitlines()[1]
    asked = installed.run(str(venv / "bin/python"), "-c", "import sys; print(sys.prefix, sys.executable)")
    assert asked.stdout.split() == [str(venv), str(venv / "bin/python")]


def test_login_shell_finds_the_command(installed: Sandbox) -> None:
    if not IS_ROOT:
        pytest.skip("needs root: the login shell of a user whose home is the sandbox")
    login = installed.run("bash", "-l", "-c", "command -v swarmbus", PATH="/usr/bin:/bin")
    assert login.stdout == f"{installed.command}\n"
    marked = [line for line in (installed.home / ".profile").read_text().splitlines() if "install.sh" in line]
    assert len(marked) == 1


def test_second_run_is_quick_and_changes_nothing(installed: Sandbox) -> None:
    before = _tree(installed.home)
    began = time.monotonic()
    ran = installed.install("--no-init")
    assert time.monotonic() - began < 5
    assert ran.returncode == 0
    assert "already up to date" in ran.stderr
    assert _tree(installed.home) == before


def test_upgrade_replaces_the_environment_and_leaves_one(installed: Sandbox) -> None:
    before = str((installed.prefix / "venv").readlink())
    file = installed.checkout / "swarmbus/version.py"
    file.write_text(file.read_text().replace(f'"{version()}"', '"99.0.1"'))
    ran = installed.install("--no-init")
    assert ran.returncode == 0, ran.stderr
    after = str((installed.prefix / "venv").readlink())
    assert after != before
    assert [path.name for path in installed.prefix.glob("venv-*")] == [after]
    assert installed.run(str(installed.command), "--version").stdout == "swarmbus 99.0.1\n"


def test_what_does_not_run_never_takes_the_place_of_what_does(installed: Sandbox) -> None:
    before, told = (
        str((installed.prefix / "venv").readlink()),
        installed.run(str(installed.command), "--version"),
    )
    file = installed.checkout / "swarmbus/cli/__init__.py"
    text = file.read_text()
    file.write_text("this is no Python\n")
    ran = installed.install("--no-init")
    file.write_text(text)
    assert ran.returncode == 1
    assert "trying it ... failed" in ran.stderr
    assert "SyntaxError" in ran.stderr
    assert len(_message(ran.stderr)) <= 3
    assert str((installed.prefix / "venv").readlink()) == before
    assert [path.name for path in installed.prefix.glob("venv-*")] == [before]
    assert installed.run(str(installed.command), "--version").stdout == told.stdout


def test_first_failure_leaves_nothing_behind(sandbox: Sandbox) -> None:
    (sandbox.checkout / "pyproject.toml").write_text("[build-system\n")
    ran = sandbox.install("--no-init")
    assert ran.returncode == 1
    assert len(_message(ran.stderr)) <= 3
    left = [path for path in sandbox.home.rglob("*") if not path.is_dir()]
    assert left == []
    assert not sandbox.prefix.exists()


def test_init_gets_the_options_and_its_status_is_ours(installed: Sandbox) -> None:
    """``--yes`` is added because there is no terminal; an unknown option is init's to refuse (2)."""
    ran = installed.install("--no-such-option")
    assert ran.returncode == 2
    assert "--no-such-option" in ran.stderr


def test_help_names_all_options_and_installs_nothing(sandbox: Sandbox) -> None:
    ran = sandbox.install("--help")
    assert ran.returncode == 0
    for option in ("--no-init", "--with-mcp", "--without-mcp"):
        assert option in ran.stdout
    assert list(sandbox.home.iterdir()) == []


def test_command_of_another_installation_is_not_replaced(sandbox: Sandbox) -> None:
    target = sandbox.home / ".local/pipx/venvs/swarmbus-py/bin/swarmbus"
    for folder in (target.parent, sandbox.command.parent):
        folder.mkdir(parents=True)
    target.touch()
    sandbox.command.symlink_to(target)
    ran = sandbox.install("--no-init")
    assert ran.returncode == 3
    assert "pipx uninstall swarmbus-py" in ran.stderr
    assert sandbox.command.readlink() == target
    assert not sandbox.prefix.exists()


def test_two_at_once_do_not_meet(installed: Sandbox) -> None:
    with (installed.prefix / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ran = installed.install("--no-init")
    assert ran.returncode == 1
    assert "another install.sh" in ran.stderr
    assert installed.run(str(installed.command), "--version").returncode == 0


def test_checkout_without_its_symbolic_links_is_refused(sandbox: Sandbox) -> None:
    (sandbox.checkout / "swarmbus/provision").unlink()
    (sandbox.checkout / "swarmbus/provision").write_text("../provision")
    ran = sandbox.install("--no-init")
    assert ran.returncode == 1
    assert "core.symlinks" in ran.stderr


@needs_root
def test_root_installs_for_the_host(sandbox: Sandbox) -> None:
    ran = sandbox.install("--no-init", root=True)
    assert ran.returncode == 0, ran.stderr
    assert (sandbox.local_bin / "swarmbus").readlink() == Path("/opt/swarmbus/venv/bin/swarmbus")
    assert list(sandbox.home.iterdir()) == []
    assert "apt-get" not in sandbox.asked_for()
    everybody = sandbox.run("/usr/local/bin/swarmbus", "--version")
    assert everybody.stdout == f"swarmbus {version()}\n", everybody.stderr


@needs_root
def test_sudo_goes_on_as_the_user_who_called_it(installed: Sandbox) -> None:
    ran = installed.install("--no-init", root=True, SUDO_UID=str(NUMBER), SUDO_USER=NAME)
    assert ran.returncode == 0, ran.stderr
    assert f"going on as {NAME}" in ran.stderr
    assert str(installed.prefix) in ran.stderr
    assert list(installed.opt.iterdir()) == []


@needs_root
def test_sudo_hands_the_choice_of_the_extra_on(installed: Sandbox) -> None:
    """Without it there would be nothing to do; with it there is, and no index to do it with."""
    ran = installed.install(
        "--no-init",
        "--with-mcp",
        root=True,
        SUDO_UID=str(NUMBER),
        SUDO_USER=NAME,
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS="/nowhere",
    )
    assert ran.returncode == 1, ran.stderr
    assert "already up to date" not in ran.stderr
    assert "No matching distribution found" in ran.stderr


@needs_root
def test_root_does_not_run_a_python_that_a_user_could_have_written(sandbox: Sandbox) -> None:
    folder = sandbox.home / "bin"
    folder.mkdir()
    planted = folder / "python3"
    planted.write_text(f"#!/bin/sh\ntouch {sandbox.folder}/planted-was-run\nexit 1\n")
    planted.chmod(0o755)
    os.chown(planted, NUMBER, NUMBER)
    # No other Python is to be found, so that every candidate is looked at.
    ran = sandbox.install(
        "--no-init", root=True, mounts=WITHOUT_PYTHON, PATH=f"{sandbox.stubs}:{folder}:/usr/bin:/bin"
    )
    assert ran.returncode == 1, ran.stderr
    assert not (sandbox.folder / "planted-was-run").exists()
    assert len(_message(ran.stderr)) <= 3


@needs_root
def test_missing_python_is_told_with_the_command_that_mends_it(sandbox: Sandbox) -> None:
    ran = sandbox.install("--no-init", mounts=WITHOUT_PYTHON, PATH=f"{sandbox.stubs}:/usr/bin:/bin")
    assert ran.returncode == 1
    message = _message(ran.stderr)
    assert "no Python 3.11 or newer" in message[0]
    assert "python3-venv" in message[1] or "uv python install" in message[1]
    assert len(message) <= 3
    assert not sandbox.prefix.exists()


def test_package_that_something_else_has_changed_is_not_up_to_date(installed: Sandbox) -> None:
    """With no index to go to, the attempt to put it right fails soon, and harms nothing."""
    (record,) = (installed.prefix / "venv").glob("lib/python3*/site-packages/swarmbus-*.dist-info/RECORD")
    record.write_text(record.read_text() + "swarmbus/more.py,,\n")
    ran = installed.install("--no-init", PIP_NO_INDEX="1", PIP_FIND_LINKS="/nowhere")
    assert ran.returncode == 1
    assert "No matching distribution found" in ran.stderr
    assert len(_message(ran.stderr)) <= 3
    assert installed.run(str(installed.command), "--version").returncode == 0


def test_extra_stays_as_chosen(installed: Sandbox) -> None:
    python = str(installed.prefix / "venv/bin/python")

    def has_mcp() -> bool:
        return installed.run(python, "-I", "-c", "import swarmbus.mcp.server").returncode == 0

    assert not has_mcp()
    for options in (["--with-mcp"], []):
        ran = installed.install("--no-init", *options)
        assert ran.returncode == 0, ran.stderr
        assert has_mcp()
    assert "already up to date" in ran.stderr
    # As after an upgrade, whose environment is not install.sh's, so that it makes one of its own.
    (installed.prefix / "venv/.installed-from").unlink()
    for options, wanted in ([], True), (["--without-mcp"], False):
        ran = installed.install("--no-init", *options)
        assert ran.returncode == 0, ran.stderr
        assert "already up to date" not in ran.stderr
        assert has_mcp() is wanted


def _message(stderr: str) -> list[str]:
    """The lines of the last error, without the steps before it."""
    lines = stderr.splitlines()
    start = max(number for number, line in enumerate(lines) if line.startswith("install.sh: "))
    return lines[start:]


def _tree(folder: Path) -> list[tuple[str, int]]:
    """Every name below a folder, with the time of its last change."""
    return sorted(
        (str(path), path.lstat().st_mtime_ns) for path in folder.rglob("*") if "pycache" not in str(path)
    )
