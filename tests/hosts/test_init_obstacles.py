"""`swarmbus init` where something is in its way: a full disk, a file that was edited."""

from __future__ import annotations

from tests.hosts.conftest import MakeHost
from tests.hosts.test_init import SWARMBUS, _install, _plan, _talks
from tests.lab.hosts import Host
from tests.lab.snapshot import changed, snapshot

UNIT = ".config/systemd/user/swarmbus-planner.service"


def test_a_disk_that_is_full_in_the_middle(make_host: MakeHost) -> None:
    """The folder of the units has no room; all that was done before is taken back."""
    host = make_host("bookworm")
    _install(host)
    host.ssh("mkdir -p .config/systemd/user .local/state")
    host.run_as_root("mount -t tmpfs -o size=4k,uid=1000,gid=1000 none /home/pi/.config/systemd/user")
    host.ssh("head -c 4096 /dev/zero > .config/systemd/user/filler; true")
    before = snapshot(host)
    ran = host.ssh(f"{SWARMBUS} init --agent-id planner --yes", check=False)
    assert ran.returncode == 1
    assert "No space left on device" in ran.stderr
    assert "everything was taken back" in ran.stderr
    assert changed(before, snapshot(host)) == set()
    host.ssh("rm .config/systemd/user/filler")
    host.run_as_root("umount /home/pi/.config/systemd/user")
    host.ssh(f"{SWARMBUS} init --agent-id planner --yes")
    _talks(host, "planner", "pi")
    _a_unit_that_waits_for_its_next_restart(host)


def _a_unit_that_waits_for_its_next_restart(host: Host) -> None:
    """What kept it from running is mended, and nobody has to wait for the restart to be due."""
    config, unit = ".config/swarmbus/config.toml", "swarmbus-planner.service"
    host.ssh(f"echo 'broken = [' >> {config}; systemctl --user restart --no-block {unit}")
    waits = f"[ $(systemctl --user show --property SubState --value {unit}) = auto-restart ]"
    host.ssh(f"until {waits}; do sleep 0.1; done; sed -i '$d' {config}; {SWARMBUS} init --yes", timeout=60)
    assert host.ssh(f"systemctl --user is-active {unit}").stdout == "active\n"


def test_a_disk_that_is_full_from_the_beginning(make_host: MakeHost) -> None:
    """Nothing can be written into the journal, so nothing is changed."""
    host = make_host("trixie")
    _install(host)
    host.ssh("mkdir -p .local/state/swarmbus")
    host.run_as_root(
        "mount -t tmpfs -o size=4k,uid=1000,gid=1000,mode=700 none /home/pi/.local/state/swarmbus"
    )
    host.ssh("head -c 4096 /dev/zero > .local/state/swarmbus/filler; true")
    before = snapshot(host)
    ran = host.ssh(f"{SWARMBUS} init --agent-id planner --yes", check=False)
    assert ran.returncode in (1, 2)
    assert "No space left on device" in ran.stderr
    assert changed(before, snapshot(host)) == set()
    assert "fault of swarmbus" not in ran.stderr
    host.run_as_root("umount /home/pi/.local/state/swarmbus")
    host.ssh(f"{SWARMBUS} init --agent-id planner --yes")

    # And of what was edited since, the edit is what stays.
    host.ssh(f"echo '# mine' >> {UNIT}")
    told = host.ssh(f"{SWARMBUS} init --yes").stderr
    assert "was changed since; left as it is" in told
    assert host.ssh(f"tail -1 {UNIT}").stdout == "# mine\n"
    assert not _plan(host)["changed"]

    # What somebody else has put where ours belongs is a conflict, until ours is taken.
    other = ".config/systemd/user/swarmbus-coder.service"
    host.ssh(f"printf '[Service]\\nExecStart=/bin/sleep infinity\\n' > {other}")
    ran = host.ssh(f"{SWARMBUS} init --agent-id coder --yes", check=False)
    assert ran.returncode in (1, 3)
    assert f"--take /home/pi/{other}" in ran.stderr
    assert "sleep infinity" in host.ssh(f"cat {other}").stdout
    host.ssh(f"{SWARMBUS} init --agent-id coder --yes --take /home/pi/{other}")
    _talks(host, "coder", "pi")
