"""`swarmbus adopt` on booted hosts, over real releases of the tool that was there before."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from tests.hosts.conftest import MakeHost
from tests.lab.hosts import Host
from tests.lab.peers import RELEASES

SWARMBUS = ".local/bin/swarmbus"
OLD = "old/bin/swarmbus"
UNITS = ".config/systemd/user"

#: As the documentation of the existing tool has its unit.
_UNIT = """\
[Unit]
Description=messages for planner
After=network.target
Wants=network-online.target

[Service]
Type=simple
Environment=PATH=/home/pi/.local/bin:/usr/local/bin:/usr/bin:/bin
Environment=SWARMBUS_OUTBOX_PLANNER=/home/pi/sync/planner-outbox.md
Environment=WAKE_GREETING=good\\x20morning
ExecStart=/home/pi/old/bin/swarmbus start \\
  --agent-id planner \\
  --broker localhost \\
  --inbox /home/pi/sync/planner-inbox.md \\
  --invoke "/home/pi/bin/wake planner"
Restart=on-failure
RestartSec=5s
StandardOutput=append:/home/pi/logs/swarmbus-planner.log
StandardError=append:/home/pi/logs/swarmbus-planner.log

[Install]
WantedBy=default.target
"""

_WAKE = """\
#!/bin/sh
{ printf '%s %s %s ' "$1" "$SWARMBUS_SUBJECT" "$WAKE_GREETING"; cat; echo; } >> /home/pi/woken
"""

_SETTINGS = """\
{
    "model": "opus",   "mcpServers": {
        "other": {"command": "x"},
        "swarmbus": {
            "command": "swarmbus",
            "args": ["mcp-server", "--agent-id", "planner", "--broker", "localhost"]
        }
    },
    "hooks": {}
}
"""


def _old_host(make_host: MakeHost, release: str, unit: str = _UNIT) -> Host:
    """A host on which the existing tool has been at work for a while."""
    host = make_host("bookworm")
    host.run_as_root("apt-get -q -y install mosquitto python3-venv")
    host.ssh(f"python3 -m venv old && old/bin/pip install -q swarmbus-py=={release}")
    host.write("/home/pi/bin/wake", _WAKE, owner="pi", mode=0o755)
    host.write("/home/pi/.claude/settings.json", _SETTINGS, owner="pi")
    host.write(f"/home/pi/{UNITS}/swarmbus-planner.service", unit, owner="pi")
    host.ssh("mkdir -p sync logs; systemctl --user daemon-reload")
    host.ssh("systemctl --user enable --now swarmbus-planner")
    host.copy_checkout()
    host.ssh("./swarmbus/install.sh --no-init")
    return host


def _old_send(host: Host, subject: str) -> None:
    host.ssh(f"{OLD} send --agent-id coder --to planner --subject {subject} --body 'body of {subject}'")


def _wait_for(host: Host, command: str) -> None:
    deadline = time.monotonic() + 30
    while host.ssh(command, check=False).returncode != 0:
        assert time.monotonic() < deadline, command
        time.sleep(0.3)


def _subjects(host: Host, path: str = "sync/planner-inbox.md") -> list[str]:
    lines = host.ssh(f"cat {path}", check=False).stdout.splitlines()
    return [line.rpartition(" | ")[2] for line in lines if line.startswith("## [")]


def _adopt(host: Host, options: str = "--yes", **more: Any) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(host.ssh(f"{SWARMBUS} adopt {options} --json", **more).stdout)
    return said


def _main_pid(host: Host) -> str:
    return host.ssh("systemctl --user show -P MainPID swarmbus-planner").stdout.strip()


@pytest.mark.parametrize("release", RELEASES)
def test_nothing_is_lost(make_host: MakeHost, release: str) -> None:
    host = _old_host(make_host, release)
    _wait_for(host, "grep -q ready logs/swarmbus-planner.log")
    _wait_for(
        host,
        f"{OLD} send --agent-id coder --to planner --subject first --body b && sleep 1 &&"
        " grep -q first sync/planner-inbox.md",
    )  # its listener says ready before it has subscribed
    seen = host.ssh(f"{OLD} tail --agent-id planner").stdout
    host.ssh("systemctl --user stop swarmbus-planner")
    queued = [f"queued{number}" for number in range(20)]
    for subject in queued:
        _old_send(host, subject)
    before = _subjects(host)

    plan = _adopt(host, "--dry-run")
    assert plan["changed"]
    assert _subjects(host) == before, "a dry run changes nothing"
    done = _adopt(host)
    assert (done["failed"], done["gate"]["ok"]) == (False, True), done

    _wait_for(host, "grep -q queued19 sync/planner-inbox.md")
    _old_send(host, "after")
    _wait_for(host, "grep -q ' after' sync/planner-inbox.md")
    assert _subjects(host) == [*before, *queued, "after"]
    _wait_for(host, "grep -q after woken")
    woken = host.read("/home/pi/woken").splitlines()
    assert "planner after good morning body of after" in woken
    assert [line.split()[1] for line in woken] == [*before, *queued, "after"]

    assert "first" in seen
    told = host.ssh(f"{SWARMBUS} tail --agent-id planner").stdout
    assert "queued0" in told
    assert " first" not in told, "the cursor goes on where it was"

    host.ssh(f"{SWARMBUS} send --agent-id planner --to coder --subject sent --body b", check=False)
    assert _subjects(host, "sync/planner-outbox.md") == ["sent"]
    settings = host.read("/home/pi/.claude/settings.json")
    assert json.loads(settings)["mcpServers"] == {"other": {"command": "x"}}
    assert settings.startswith('{\n    "model": "opus",   "mcpServers": {\n        "other": {"command": "x"}')
    assert not _adopt(host)["changed"], "there is nothing left to adopt"
    assert not json.loads(host.ssh(f"{SWARMBUS} init --dry-run --json").stdout)["changed"]

    host.reboot()
    _old_send(host, "again")
    _wait_for(host, "grep -q again sync/planner-inbox.md")


def test_the_old_daemon_runs_again_when_ours_does_not_come_up(make_host: MakeHost) -> None:
    host = _old_host(make_host, "0.2.0")
    _wait_for(
        host,
        f"{OLD} send --agent-id coder --to planner --subject first --body b && sleep 1 &&"
        " grep -q first sync/planner-inbox.md",
    )
    before = {path: host.read(path) for path in _touched(host)}
    host.ssh(
        "mkdir -p .local/state/swarmbus/planner && echo nonsense > .local/state/swarmbus/planner/mailbox.db"
    )
    ran = host.ssh(f"{SWARMBUS} adopt --yes --json", check=False)
    said = json.loads(ran.stdout)
    assert (ran.returncode, said["failed"], said["rolled_back"]) == (1, True, True), ran.stderr
    assert {path: host.read(path) for path in _touched(host)} == before
    _old_send(host, "afterwards")
    _wait_for(host, "grep -q afterwards sync/planner-inbox.md")
    assert "/home/pi/old" in host.ssh(f"cat /proc/{_main_pid(host)}/cmdline").stdout
    host.ssh("rm .local/state/swarmbus/planner/mailbox.db*")
    assert not _adopt(host)["failed"]


_AUTH = """\
[Service]
Environment=SWARMBUS_BROKER_USERNAME=pi
Environment=SWARMBUS_BROKER_PASSWORD=hunter2
"""

#: As its installer writes it without a wake command: the backslashes are gone.
_TORN = """\
[Service]
ExecStart=/home/pi/old/bin/swarmbus start
  --agent-id coder
  --broker localhost
  --inbox /home/pi/sync/coder-inbox.md
Restart=on-failure
RestartSec=5s

[Install]
WantedBy=default.target
"""

_TAILNET = "100.101.102.103"


def test_credentials_the_tailnet_and_a_unit_that_never_ran(make_host: MakeHost) -> None:
    host = _old_host(make_host, "0.2.0", _UNIT.replace("--broker localhost", f"--broker {_TAILNET}"))
    host.run_as_root(
        "ip link add tailscale0 type bridge && ip link set tailscale0 up &&"
        f" ip address add {_TAILNET}/32 dev tailscale0 && touch /etc/mosquitto/passwd &&"
        " chown mosquitto /etc/mosquitto/passwd && mosquitto_passwd -b /etc/mosquitto/passwd pi hunter2"
    )
    listener = f"listener 1883 {_TAILNET}\nallow_anonymous false\npassword_file /etc/mosquitto/passwd\n"
    host.write("/etc/mosquitto/conf.d/tailscale.conf", listener)
    host.run_as_root("systemctl restart mosquitto")
    host.write(f"/home/pi/{UNITS}/swarmbus-coder.service", _TORN, owner="pi")
    for agent in ("planner", "coder"):
        drop_in = f"/home/pi/{UNITS}/swarmbus-{agent}.service.d/auth.conf"
        host.write(drop_in, _AUTH, owner="pi", mode=0o600)
    host.ssh("systemctl --user daemon-reload; systemctl --user enable swarmbus-coder")
    host.ssh("systemctl --user restart swarmbus-planner")
    send = f"{OLD} send --broker {_TAILNET} --username pi --password hunter2 --agent-id other --body b"
    _wait_for(host, f"{send} --to planner --subject first && sleep 1 && grep -q first sync/planner-inbox.md")
    host.ssh("systemctl --user stop swarmbus-planner")
    host.ssh(f"{send} --to planner --subject queued")

    shown = host.ssh(f"{SWARMBUS} adopt --dry-run")
    assert "hunter2" not in shown.stdout + shown.stderr
    assert f"mosquitto gives up at boot when {_TAILNET} is not there yet" in shown.stdout
    done = host.ssh(f"{SWARMBUS} adopt --yes")
    assert "hunter2" not in done.stdout + done.stderr
    assert host.read("/etc/mosquitto/conf.d/tailscale.conf") == listener
    assert host.ssh("stat -c %a .config/swarmbus/planner.password").stdout == "600\n"
    assert host.ssh(f"find {UNITS} -name auth.conf").stdout == ""
    host.ssh(f"{send} --to planner --subject after; {send} --to coder --subject hello")
    _wait_for(host, "grep -q after sync/planner-inbox.md && grep -q hello sync/coder-inbox.md")
    assert _subjects(host)[-2:] == ["queued", "after"]
    told = host.ssh(f"{SWARMBUS} send --agent-id coder --to planner --subject s --body b --wait stored")
    assert told.stdout.startswith("stored")


def test_a_listener_in_a_terminal(make_host: MakeHost) -> None:
    host = _old_host(make_host, "0.1.4")
    host.ssh(
        "systemctl --user disable --now swarmbus-planner; rm .config/systemd/user/swarmbus-planner.service"
    )
    command = f"{OLD} start --agent-id planner --inbox /home/pi/sync/planner-inbox.md"
    host.ssh(f"setsid {command} >/dev/null 2>&1 </dev/null &")
    _wait_for(host, "pgrep -f 'start --agent-id planner'")
    told = host.ssh(f"{SWARMBUS} adopt --yes").stderr
    again = "swarmbus init --agent-id planner --inbox /home/pi/sync/planner-inbox.md"
    assert again in told
    host.ssh(re.findall(r"kill \d+", told)[0])
    host.ssh(f".local/bin/{again} --yes")
    _old_send(host, "after")
    _wait_for(host, "grep -q after sync/planner-inbox.md")


def _touched(host: Host) -> list[str]:
    listed = host.ssh(
        f"find /home/pi/{UNITS} /home/pi/.claude /home/pi/.config/swarmbus -type f", check=False
    )
    return sorted(listed.stdout.split())
