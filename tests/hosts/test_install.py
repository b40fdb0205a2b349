"""install.sh on bare Debian hosts: no python3-venv, no pip, no mosquitto."""

from __future__ import annotations

import json
import time

import pytest

from tests.hosts.conftest import MakeContainer, MakeHost
from tests.lab.hosts import Container, Host

SUITES = ["bookworm", "trixie"]
INSTALL = "./swarmbus/install.sh --no-init"
USERS_COMMAND = ".local/bin/swarmbus"


@pytest.fixture(params=SUITES)
def bare(request: pytest.FixtureRequest, make_container: MakeContainer) -> Container:
    """A machine without systemd as process 1, with the checkout in pi's home."""
    container = make_container(request.param, index=False)
    container.copy_checkout()
    return container


@pytest.fixture
def bookworm_container(make_container: MakeContainer) -> Container:
    """The same, where one Debian is enough."""
    container = make_container("bookworm", index=False)
    container.copy_checkout()
    return container


def _installed(container: Container, package: str) -> bool:
    return container.run(["dpkg", "-s", package], check=False).returncode == 0


def test_user_with_sudo_gets_what_is_missing_by_apt(bare: Container) -> None:
    assert not _installed(bare, "python3-venv")
    ran = bare.run(INSTALL)
    assert _installed(bare, "python3-venv")
    assert bare.run([USERS_COMMAND, "--version"]).stdout.startswith("swarmbus ")
    assert "In this shell, first: export PATH=" in ran.stderr
    assert bare.run("bash -lc 'command -v swarmbus'").stdout == f"/home/pi/{USERS_COMMAND}\n"
    assert bare.run("find . -user root").stdout == ""
    began = time.monotonic()
    again = bare.run(INSTALL)
    assert time.monotonic() - began < 10
    assert "already up to date" in again.stderr


def test_root_installs_for_everybody(bare: Container) -> None:
    bare.run("/home/pi/swarmbus/install.sh --no-init", user="root")
    assert bare.run("readlink /usr/local/bin/swarmbus").stdout == "/opt/swarmbus/venv/bin/swarmbus\n"
    assert bare.run("swarmbus --version", user="guest").stdout.startswith("swarmbus ")
    assert bare.run("find /opt/swarmbus ! -user root").stdout == ""
    assert (
        bare.run("find /home/pi/swarmbus -name __pycache__ -o -name '*.egg-info' -o -name build").stdout == ""
    )


def test_sudo_install_is_for_the_user_who_said_sudo(bookworm_container: Container) -> None:
    ran = bookworm_container.run(f"sudo -n {INSTALL}")
    assert "going on as pi" in ran.stderr
    assert bookworm_container.run([USERS_COMMAND, "--version"]).returncode == 0
    assert bookworm_container.run("find . -user root").stdout == ""
    assert bookworm_container.run("test -e /opt/swarmbus", check=False).returncode == 1


def test_user_without_sudo_needs_nobody(bookworm_container: Container) -> None:
    bookworm_container.copy_checkout("/home/guest/swarmbus", owner="guest")
    ran = bookworm_container.run(INSTALL, user="guest")
    assert "python3-pip-whl ... OK" in ran.stderr
    assert not _installed(bookworm_container, "python3-venv")
    assert bookworm_container.run([USERS_COMMAND, "--version"], user="guest").returncode == 0


def test_user_whom_nothing_helps_is_told_what_to_ask_for(bookworm_container: Container) -> None:
    bookworm_container.copy_checkout("/home/guest/swarmbus", owner="guest")
    bookworm_container.run_as_root("rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin")
    before = bookworm_container.run("find . -not -path './swarmbus/*'", user="guest").stdout
    ran = bookworm_container.run(INSTALL, user="guest", check=False)
    assert ran.returncode == 1
    message = ran.stderr[ran.stderr.rindex("install.sh: ") :].splitlines()
    assert len(message) <= 3
    assert "apt-get install" in message[1]
    after = bookworm_container.run("find . -not -path './swarmbus/*' -not -type d", user="guest").stdout
    assert set(after.splitlines()) <= set(before.splitlines())


def test_lists_that_are_missing_are_fetched(make_container: MakeContainer) -> None:
    container = make_container("trixie", index=False)
    container.copy_checkout()
    container.run_as_root("rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin")
    ran = container.run(INSTALL)
    assert "apt-get update ... OK" in ran.stderr
    assert container.run([USERS_COMMAND, "--version"]).returncode == 0


def test_python_of_pyenv_is_found_behind_its_shim(bookworm_container: Container) -> None:
    bookworm_container.run_as_root("apt-get install --yes --quiet python3-venv")
    real = "/home/pi/.pyenv/versions/3.11.2/bin/python3"
    bookworm_container.run(
        f"mkdir -p .pyenv/shims $(dirname {real}) && ln -s /usr/bin/python3 {real} &&"
        f" printf '#!/bin/sh\\nexec {real} \"$@\"\\n' > .pyenv/shims/python3 && chmod +x .pyenv/shims/python3"
    )
    ran = bookworm_container.run(f"PATH=$HOME/.pyenv/shims:$PATH {INSTALL}")
    assert f"OK ({real})" in ran.stderr
    bookworm_container.run("rm -r .pyenv/shims")
    assert bookworm_container.run([USERS_COMMAND, "--version"]).returncode == 0


@pytest.mark.parametrize("suite", SUITES)
def test_one_command_makes_a_bare_host_an_agent(suite: str, make_host: MakeHost) -> None:
    host = make_host(suite, name="kitchen", index=False)
    host.copy_checkout()
    ran = host.ssh("./swarmbus/install.sh", timeout=600)
    assert host.ssh("systemctl --user is-active swarmbus-kitchen.service").stdout == "active\n"
    assert "swarmbus send" in ran.stdout + ran.stderr
    # By the path that the next upgrade keeps.
    unit = host.ssh("systemctl --user cat swarmbus-kitchen.service").stdout
    assert "ExecStart=/home/pi/.local/share/swarmbus/venv/bin/python" in unit
    host.ssh("bash -lc 'swarmbus doctor'")

    before = _listener(host)
    again = host.ssh("./swarmbus/install.sh")
    assert "already up to date" in again.stderr
    assert _listener(host) == before


def test_one_command_is_enough_without_systemd_and_without_root(bookworm_container: Container) -> None:
    """Nothing is there but Debian: no sudo, no ensurepip, no mosquitto, no service manager."""
    bookworm_container.copy_checkout("/home/guest/swarmbus", owner="guest")
    bookworm_container.run("./swarmbus/install.sh --agent-id kitchen", user="guest", timeout=600)
    for command in ("swarmbus send --to kitchen --subject hi --body there --wait stored", "swarmbus doctor"):
        bookworm_container.run(["bash", "-lc", command], user="guest")


def test_upgrade_ends_with_a_listener_that_runs_the_new_code(bookworm: Host) -> None:
    bookworm.copy_checkout()
    bookworm.ssh("./swarmbus/install.sh --agent-id kitchen", timeout=600)
    bookworm.ssh("sed -i 's/^__version__ = .*/__version__ = \"99.0.1\"/' swarmbus/swarmbus/version.py")
    bookworm.ssh("./swarmbus/install.sh")
    assert bookworm.ssh("bash -lc 'swarmbus --version'").stdout == "swarmbus 99.0.1\n"
    assert _listener(bookworm)["version"] == "99.0.1"


def _listener(host: Host) -> dict[str, object]:
    """What the running listener says of itself: its process, and the code it has loaded."""
    ask = "import json; from swarmbus.control import request; "
    ask += "print(json.dumps(request('kitchen', {'op': 'status'})))"
    status = json.loads(host.ssh([".local/share/swarmbus/venv/bin/python", "-c", ask]).stdout)
    return {name: status[name] for name in ("pid", "version")}
