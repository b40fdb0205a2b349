"""The lab itself keeps its promises; where these fail, the other tests on hosts say nothing."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hosts.conftest import MakeContainer, MakeHost
from tests.lab.hosts import CommandFailed, Host
from tests.lab.runs import Lab
from tests.lab.wheelhouse import wheelhouse

BOOT_ID = ["cat", "/proc/sys/kernel/random/boot_id"]


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def shared(request: pytest.FixtureRequest, make_module_host: MakeHost) -> Host:
    """One host of each suite, for the tests that leave it as they found it."""
    return make_module_host(request.param)


def test_host_boots_within_a_minute_and_nothing_has_failed(lab: Lab) -> None:
    lab.image("bookworm")
    wheelhouse()  # both once for all hosts, and not part of a boot
    before = time.monotonic()
    with Host(lab, "bookworm") as host:
        assert time.monotonic() - before < 60
        assert host.run_as_root(["systemctl", "is-system-running"]).stdout == "running\n"


def test_systemd_is_process_1_on_a_cgroup2_hierarchy(shared: Host) -> None:
    assert shared.ssh("cat /proc/1/comm").stdout == "systemd\n"
    assert shared.ssh("stat -f -c %T /sys/fs/cgroup").stdout == "cgroup2fs\n"


def test_ssh_session_has_a_user_manager_that_runs_units(shared: Host) -> None:
    assert shared.ssh("systemctl --user is-system-running --wait").stdout == "running\n"
    ran = shared.ssh(["systemd-run", "--user", "--wait", "--pipe", "--quiet", "id", "-un"])
    assert ran.stdout == "pi\n"


def test_pi_may_use_sudo_and_guest_may_not(shared: Host) -> None:
    assert shared.ssh("sudo -n id -un").stdout == "root\n"
    refused = shared.ssh("sudo -n id -un", user="guest", check=False)
    assert refused.returncode == 1
    assert "password is required" in refused.stderr


def test_mosquitto_and_venv_are_not_there_yet(shared: Host) -> None:
    assert shared.ssh("command -v mosquitto", check=False).returncode != 0
    assert shared.ssh("python3 -c 'import ensurepip'", check=False).returncode != 0


def test_failing_command_raises_with_what_it_wrote(shared: Host) -> None:
    with pytest.raises(CommandFailed, match="no such luck"):
        shared.ssh("echo no such luck >&2; exit 3")


def test_input_and_argument_lists_arrive_unharmed(shared: Host) -> None:
    assert shared.ssh(["printf", "%s|", "a b", "$HOME", "'"]).stdout == "a b|$HOME|'|"
    assert shared.ssh("cat", input="a line\n").stdout == "a line\n"


def test_put_and_write_give_files_to_their_owner(shared: Host, tmp_path: Path) -> None:
    shared.write("/home/pi/a/b/note", "text\n", owner="pi", mode=0o600)
    assert shared.ssh("stat -c '%U %a %n' a/b a/b/note").stdout == "pi 755 a/b\npi 600 a/b/note\n"
    (tmp_path / "real").write_text("content\n")
    (tmp_path / "link").symlink_to("real")
    shared.put(tmp_path / "real", "/etc/lab/file", mode=0o640)
    assert shared.run_as_root(["stat", "-c", "%U %a", "/etc/lab/file"]).stdout == "root 640\n"
    assert shared.read("/etc/lab/file") == "content\n"
    shared.put(tmp_path, "/home/pi/folder", owner="pi")
    assert shared.ssh("readlink folder/link; stat -c %U folder folder/real").stdout == "real\npi\npi\n"


def test_checkout_is_copied_with_its_symbolic_links(shared: Host) -> None:
    shared.copy_checkout()
    assert shared.ssh("stat -c %U swarmbus/pyproject.toml").stdout == "pi\n"
    assert shared.ssh("readlink swarmbus/swarmbus/provision").stdout == "../provision\n"
    assert shared.ssh("test -e swarmbus/.git", check=False).returncode == 1


def test_reboot_keeps_files_and_changes_the_boot_id(bookworm: Host) -> None:
    bookworm.ssh("echo kept > note")
    before = bookworm.ssh(BOOT_ID).stdout
    bookworm.reboot()
    assert bookworm.ssh("cat note").stdout == "kept\n"
    assert bookworm.ssh(BOOT_ID).stdout != before


def test_host_rebooted_from_inside_is_off_until_it_is_booted(trixie: Host) -> None:
    trixie.ssh("sudo reboot", check=False)
    trixie.wait_until_off()
    assert not trixie.running
    trixie.boot()
    trixie.ssh("true")


def test_shutdown_stops_units_cleanly_and_a_power_cut_does_not(trixie: Host) -> None:
    trixie.write(
        "/etc/systemd/system/farewell.service",
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=true\nExecStop=touch /var/farewell\n"
        "[Install]\nWantedBy=multi-user.target\n",
    )
    trixie.run_as_root(["systemctl", "enable", "--now", "farewell.service"])
    trixie.ssh("echo kept > note")
    trixie.power_cut()
    assert not trixie.running
    trixie.boot()
    assert trixie.ssh("cat note").stdout == "kept\n"
    assert trixie.ssh("test -e /var/farewell", check=False).returncode == 1
    trixie.reboot()
    trixie.ssh("test -e /var/farewell")


def test_lingering_user_manager_is_back_after_a_reboot(bookworm: Host) -> None:
    bookworm.ssh("sudo loginctl enable-linger pi")
    bookworm.reboot()
    manager = [
        "systemctl",
        "is-active",
        "user@1000.service",
    ]  # logind starts it a little after the boot's end
    assert _soon(lambda: bookworm.run_as_root(manager, check=False).stdout == "active\n")


def test_apt_and_pip_reach_their_indexes(make_host: MakeHost, lab: Lab) -> None:
    host = make_host("trixie")
    host.ssh("sudo apt-get update --error-on=any")
    host.ssh("sudo apt-get install --yes --quiet python3-venv")
    host.ssh("python3 -m venv env")
    host.ssh("env/bin/pip download --no-deps --no-binary :none: --dest fresh iniconfig")
    assert host.ssh("ls fresh").stdout.startswith("iniconfig-")


def test_wheelhouse_serves_pip_without_a_network(make_host: MakeHost) -> None:
    host = make_host("bookworm", index=False)
    host.partition(silent=True)
    host.run_as_root("apt-get install --yes --quiet python3-venv")  # from the image's archive
    host.run_as_root("python3 -m venv /opt/env && /opt/env/bin/pip install hatchling aiomqtt mcp")
    host.run_as_root(["/opt/env/bin/python", "-c", "import hatchling, aiomqtt, mcp"])


def test_hosts_reach_each_other_until_they_are_partitioned(make_host: MakeHost) -> None:
    one, two = make_host("bookworm"), make_host("trixie")
    ping = ["ping", "-c1", "-W1", two.address]
    one.ssh(ping)
    for silent in (False, True):
        two.partition(silent=silent)
        assert one.ssh(ping, check=False).returncode != 0
        two.heal()
        assert _soon(lambda: one.ssh(ping, check=False).returncode == 0)
    assert one.name != two.name


def test_container_has_systemctl_but_no_systemd(make_container: MakeContainer) -> None:
    box = make_container("bookworm")
    assert box.run("id -un; pwd").stdout == "pi\n/home/pi\n"
    assert box.run("test -d /run/systemd/system", check=False).returncode == 1
    refused = box.run(["systemctl", "list-units"], check=False)
    assert "not been booted with systemd" in refused.stderr
    box.run("sudo -n apt-get update --error-on=any")


def test_background_process_in_a_container_outlives_the_call(make_container: MakeContainer) -> None:
    box = make_container("trixie")
    pid = box.run("setsid sleep 1000 >/dev/null 2>&1 & echo $!").stdout.strip()
    box.run(f"until grep -qx sleep /proc/{pid}/comm; do sleep 0.05; done", timeout=10)


def test_second_lab_runs_beside_the_first_and_leaves_nothing(lab: Lab) -> None:
    with Lab() as other:
        assert not other.network.overlaps(lab.network)
        with Host(other, "bookworm") as host:
            host.ssh("true")
            assert other.run_id in _traces()
    assert other.run_id not in _traces()
    assert not other.folder.exists()
    assert lab.run_id in _traces()


def _traces() -> str:
    """All that a run leaves outside its folder: links, firewall rules, mounts."""
    looks = (["ip", "link"], ["nft", "list", "ruleset"], ["mount"])
    return "".join(subprocess.run(look, capture_output=True, text=True, check=True).stdout for look in looks)


def _soon(holds: Callable[[], bool], *, within: float = 15.0) -> bool:
    """Whether something becomes true within so many seconds."""
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
