"""`swarmbus upgrade` on booted hosts, under load: to a release that works, and to one that does not."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.hosts.conftest import MakeContainer, MakeHost
from tests.lab.hosts import Host

SWARMBUS = "~/.local/bin/swarmbus"
STATE = "/home/pi/.local/state/swarmbus"

# uv neither reads pip.conf nor, by itself, the certificates of the host.
ENVIRONMENT = "UV_SYSTEM_CERTS=1 UV_FIND_LINKS=/var/cache/wheelhouse"

INSTALL = {
    "install.sh": "./swarmbus/install.sh --no-init",
    "pipx": "sudo apt-get install -y -q pipx && pipx install ./swarmbus",
    "uv": (
        "sudo apt-get install -y -q python3-venv && python3 -m venv uv && uv/bin/pip install -q uv"
        " && mkdir -p .local/bin && ln -s ~/uv/bin/uv .local/bin/uv"
        f" && {ENVIRONMENT} .local/bin/uv tool install --python /usr/bin/python3 ./swarmbus"
    ),
}

BROKEN = r"""
set -e
cp -a swarmbus next
sed -i 's/^__version__ = .*/__version__ = "98.0.0"/' next/swarmbus/version.py
cp -a next broken
sed -i 's/98/99/' broken/swarmbus/version.py
sed -i '/^    async def run(self) -> None:/a\        raise RuntimeError("born dead")' \
    broken/swarmbus/listener.py
grep -q 'born dead' broken/swarmbus/listener.py
"""

# Fifty a second until it is told to stop; then how many, and a while for the last receipts.
SENDER = """
import asyncio, pathlib, time
from swarmbus import AgentBus
async def main():
    number, stop, under_way = 0, pathlib.Path("/tmp/stop"), set()
    async with AgentBus(agent_id="tester", broker="localhost") as bus:
        start = time.monotonic()
        pathlib.Path("/tmp/sending").touch()
        while not stop.exists():
            task = asyncio.create_task(bus.send("planner", f"n{number}", "x", wait="queued"))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            number += 1
            await asyncio.sleep(max(0, start + number / 50 - time.monotonic()))
        await asyncio.gather(*under_way)
        await asyncio.sleep(8)
    print(number)
asyncio.run(main())
"""

RECEIVED = """
import json, sqlite3
mailbox = sqlite3.connect("{state}/planner/mailbox.db")
rows = mailbox.execute("SELECT subject FROM inbound WHERE sender = 'tester'")
print(json.dumps([row[0] for row in rows]))
"""


def _prepared(make_host: MakeHost, way: str) -> Host:
    host = make_host("bookworm", name="kitchen")
    host.copy_checkout()
    host.ssh(INSTALL[way], timeout=600)
    host.ssh(f"{SWARMBUS} init --agent-id planner --yes", timeout=600)
    host.ssh(f"{SWARMBUS} init --agent-id coder --yes", timeout=600)
    host.ssh(BROKEN)
    # The sender's own environment, which no upgrade touches.
    prefix = host.ssh("head -1 ~/.local/bin/swarmbus").stdout[2:].strip().removesuffix("/bin/python")
    prefix = prefix.removesuffix("/bin/python3")
    host.ssh(f"cp -a {prefix}/. sender")
    host.write("/home/pi/sender.py", SENDER, owner="pi")
    return host


@contextmanager
def _fifty_a_second(host: Host) -> Iterator[None]:
    """Send meanwhile; afterwards each message must be there once, in the mailbox and in the inbox file."""
    host.ssh(f"rm -rf /tmp/stop /tmp/sending {STATE}/tester; : > sync/planner-inbox.md")
    before = Counter(_received(host))
    host.ssh(
        "nohup sender/bin/python -I sender.py >/tmp/sent 2>/tmp/sender.log </dev/null &"
        " for i in $(seq 100); do [ -e /tmp/sending ] && exit 0; sleep 0.1; done; cat /tmp/sender.log; exit 1"
    )
    yield
    host.ssh("touch /tmp/stop; for i in $(seq 200); do [ -s /tmp/sent ] && exit 0; sleep 0.1; done; exit 1")
    wanted = Counter(f"n{number}" for number in range(int(host.read("/tmp/sent"))))
    assert len(wanted) > 50
    assert Counter(_received(host)) - before == wanted
    inbox = host.read("/home/pi/sync/planner-inbox.md")
    assert Counter(re.findall(r"^## \[.*\] From: tester \| (\S+)$", inbox, re.MULTILINE)) == wanted


def _received(host: Host) -> list[str]:
    program = RECEIVED.format(state=STATE)
    subjects: list[str] = json.loads(host.ssh(["python3", "-c", program]).stdout)
    return subjects


def _listener(host: Host, agent: str) -> dict[str, Any]:
    """What the running listener says of itself."""
    ask = "import json; from swarmbus.control import request; "
    ask += f"print(json.dumps(request({agent!r}, {{'op': 'status'}})))"
    status: dict[str, Any] = json.loads(host.ssh(["sender/bin/python", "-I", "-c", ask]).stdout)
    return status


def _upgrade(host: Host, source: str) -> tuple[int, dict[str, Any]]:
    ran = host.ssh(
        f"{ENVIRONMENT} {SWARMBUS} upgrade --from ~/{source} --yes --json", check=False, timeout=600
    )
    assert ran.stdout.startswith("{"), ran.stderr
    return ran.returncode, json.loads(ran.stdout)


def _version(host: Host) -> str:
    return host.ssh(f"{SWARMBUS} --version").stdout.removeprefix("swarmbus ").strip()


@pytest.mark.parametrize("way", INSTALL)
def test_upgrade_and_failed_upgrade_lose_nothing_under_load(way: str, make_host: MakeHost) -> None:
    host = _prepared(make_host, way)
    old = _listener(host, "planner")

    with _fifty_a_second(host):
        status, said = _upgrade(host, "next")
        assert (status, said.get("new"), said.get("failed")) == (0, "98.0.0", False), said
    assert _version(host) == "98.0.0"
    new = _listener(host, "planner")
    assert new["version"] == _listener(host, "coder")["version"] == "98.0.0"
    assert new["instance"] != old["instance"]

    with _fifty_a_second(host):
        status, said = _upgrade(host, "broken")
        assert (status, said.get("failed"), said.get("rolled_back")) == (1, True, True), said
    assert "planner" in said["error"]
    assert _version(host) == "98.0.0"
    assert _listener(host, "planner")["version"] == _listener(host, "coder")["version"] == "98.0.0"
    host.ssh(f"{SWARMBUS} doctor")
    host.ssh(f"! test -e {STATE}/.provision/upgrade.json")


def test_upgrade_that_was_killed_is_put_back_by_the_next(make_host: MakeHost) -> None:
    host = _prepared(make_host, "install.sh")
    record = f"{STATE}/.provision/upgrade.json"
    # Killed once the broken release is in place.
    host.ssh(
        f"({SWARMBUS} upgrade --from ~/broken --yes >/dev/null 2>&1 & echo $! >/tmp/pid);"
        f" until grep -q switched {record} 2>/dev/null; do sleep 0.02; done; kill -9 $(cat /tmp/pid)"
    )
    assert _version(host) == "99.0.0"
    rescue = "swarmbus/templates/rescue/swarmbus-rescue.sh"
    told = host.ssh(f"sh {rescue}", check=False)
    assert (told.returncode, "an upgrade was interrupted" in told.stdout) == (1, True), told
    again = host.ssh(f"{SWARMBUS} upgrade --yes --json", check=False)
    said = json.loads(again.stdout)
    assert (again.returncode, said["rolled_back"]) == (1, True), said
    assert _version(host) == said["old"]
    host.ssh(f"{SWARMBUS} doctor")
    assert host.ssh(f"sh {rescue}").returncode == 0


def test_rescue_says_what_mends_an_environment_whose_python_is_gone(make_host: MakeHost) -> None:
    host = _prepared(make_host, "install.sh")
    python = host.ssh("readlink -f ~/.local/share/swarmbus/venv/bin/python").stdout.strip()
    host.run_as_root(["mv", python, "/usr/bin/python3.away"])  # as a distribution upgrade does
    told = host.ssh("sh swarmbus/templates/rescue/swarmbus-rescue.sh", check=False)
    host.run_as_root(["mv", "/usr/bin/python3.away", python])
    assert told.returncode == 1
    mend = told.stdout.partition("mend: ")[2].strip()
    assert mend == "/home/pi/swarmbus/install.sh --yes"
    host.ssh(mend, timeout=600)
    host.ssh(f"{SWARMBUS} doctor")


def test_restart_brings_another_instance_and_loses_nothing(make_host: MakeHost) -> None:
    host = _prepared(make_host, "install.sh")
    before = _listener(host, "planner")["instance"]
    with _fifty_a_second(host):
        said = json.loads(host.ssh(f"{SWARMBUS} restart --all --json").stdout)
    assert [agent["ok"] for agent in said["agents"]] == [True, True]
    assert _listener(host, "planner")["instance"] != before
    unknown = host.ssh(f"{SWARMBUS} restart plannr", check=False)
    assert unknown.returncode == 2
    assert shlex.quote("planner") in unknown.stderr


def test_restart_and_upgrade_without_systemd(make_container: MakeContainer) -> None:
    container = make_container("bookworm", index=False)
    container.copy_checkout("/home/guest/swarmbus", owner="guest")
    container.run("./swarmbus/install.sh --agent-id planner", user="guest", timeout=600)
    said = json.loads(container.run(f"{SWARMBUS} restart --json", user="guest").stdout)
    assert (said["agents"][0]["ok"], said["agents"][0]["restarted"]) == (True, True)
    container.run(BROKEN, user="guest")
    container.run(f"{SWARMBUS} upgrade --from ~/next --yes", user="guest", timeout=600)
    assert container.run(f"{SWARMBUS} --version", user="guest").stdout == "swarmbus 98.0.0\n"
    ran = container.run(f"{SWARMBUS} upgrade --from ~/broken --yes --json", user="guest", check=False)
    assert (ran.returncode, json.loads(ran.stdout)["rolled_back"]) == (1, True), ran
    container.run(f"{SWARMBUS} doctor", user="guest")


def test_extra_that_install_sh_was_given_is_brought_by_an_upgrade(make_container: MakeContainer) -> None:
    container = make_container("bookworm", index=False)
    container.copy_checkout()
    container.run("./swarmbus/install.sh --no-init --with-mcp", timeout=600)
    python = ".local/share/swarmbus/venv/bin/python"
    container.run(f"{python} -I -m pip uninstall --quiet --yes mcp")  # as if the new release wanted it anew
    container.run("cp -a swarmbus next")
    container.run("sed -i 's/^__version__ = .*/__version__ = \"98.0.0\"/' next/swarmbus/version.py")
    container.run(f"{SWARMBUS} upgrade --from ~/next --yes", timeout=600)
    assert container.run(f"{SWARMBUS} --version").stdout == "swarmbus 98.0.0\n"
    container.run([python, "-I", "-c", "import swarmbus.mcp.server"])
