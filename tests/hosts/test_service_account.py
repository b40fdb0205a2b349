"""`swarmbus --user NAME` on a booted host: root sets up agents of the system in an account of their own."""

from __future__ import annotations

import json

from tests.hosts.conftest import MakeHost
from tests.lab.hosts import Host
from tests.lab.snapshot import LEFT_BY_DEBIAN, changed, snapshot

FOR_IT = "swarmbus --user swarmbus"
INIT = f"{FOR_IT} init --agent-id planner --scope system --yes"
UNIT = "swarmbus-planner.service"
HOME = "/var/lib/swarmbus"
SEND = f"{FOR_IT} send --agent-id planner --to planner --subject hi --body 'for the account' --wait stored"


def test_an_account_for_agents_comes_and_goes(make_host: MakeHost) -> None:
    host = make_host("trixie", index=False)
    host.copy_checkout()
    _as_root(host, "/home/pi/swarmbus/install.sh --no-init")
    bare = _snapshot(host)

    shown = _as_root(host, f"{INIT} --dry-run")
    assert f"create the service account swarmbus, with the home {HOME}" in shown
    assert changed(bare, _snapshot(host)) == set(), "it only shows"
    # Without --scope, for an account that nobody logs in as can have no other.
    _as_root(host, f"{FOR_IT} init --agent-id planner --yes")
    assert _as_root(host, "getent passwd swarmbus").rstrip().endswith(f":{HOME}:/usr/sbin/nologin")
    _runs_as_the_account(host)

    pid = _as_root(host, f"systemctl show --property MainPID {UNIT}")
    assert not json.loads(_as_root(host, f"{INIT} --json"))["changed"]
    assert _as_root(host, f"systemctl show --property MainPID {UNIT}") == pid

    _root_himself_leaves_it_alone(host)
    host.reboot()
    _runs_as_the_account(host)
    _as_root(host, f"{FOR_IT} restart --all")
    _as_root(host, f"{FOR_IT} doctor --all")

    left = _as_root(host, f"{FOR_IT} uninstall --all --yes 2>&1")
    assert f"the account swarmbus stays, for there is something in {HOME}" in left
    _as_root(host, INIT)
    _as_root(host, f"{FOR_IT} uninstall --all --purge --yes")
    assert host.run_as_root("getent passwd swarmbus", check=False).stdout == ""
    assert changed(bare, _snapshot(host)) - LEFT_BY_DEBIAN == set()


def _runs_as_the_account(host: Host) -> None:
    """And so does all that it has written; and a message comes through."""
    pid = _as_root(host, f"systemctl show --property MainPID --value {UNIT}").strip()
    assert _as_root(host, f"stat --format %U /proc/{pid}") == "swarmbus\n"
    assert _as_root(host, SEND).startswith("stored")
    assert "for the account" in _as_root(host, f"{FOR_IT} log --agent-id planner")
    assert _as_root(host, f"find {HOME} ! -user swarmbus") == ""


def _root_himself_leaves_it_alone(host: Host) -> None:
    said = _as_root(host, "swarmbus uninstall --all --yes 2>&1")
    assert "the account swarmbus stays" in said
    assert _as_root(host, f"systemctl is-active {UNIT}") == "active\n"
    assert "account swarmbus" in _as_root(host, "swarmbus show"), "it is still known whose it is"


def _as_root(host: Host, command: str) -> str:
    return host.run_as_root(["bash", "-c", command]).stdout


def _snapshot(host: Host) -> list[str]:
    """The host, and what is in root's home."""
    return [*snapshot(host), *_as_root(host, "find /root -printf '%y %m %u %g %l %p\\n' | sort").splitlines()]
