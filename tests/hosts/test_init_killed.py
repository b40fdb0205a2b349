"""`swarmbus init` killed after every step on a booted host: healed by the next run, or taken back."""

from __future__ import annotations

import json
import shlex

import pytest

from tests.hosts.conftest import MakeHost
from tests.hosts.test_init import PYTHON, SWARMBUS, _install, _plan, _talks
from tests.lab.hosts import Host
from tests.lab.snapshot import changed, snapshot

# Without a package to install: that takes its time, and tests/provision kills in every step of it.
_PREPARED = (
    "apt-get -q -y install mosquitto;"
    " printf 'listener 1883 127.0.0.1\\nallow_anonymous true\\n' > /etc/mosquitto/conf.d/own.conf;"
    " systemctl restart mosquitto"
)

_KILLED = """
import json, os, sys
from swarmbus.provision.carry_out import carry_out
from swarmbus.provision.prepare import prepare
from swarmbus.provision.local_system import LocalSystem

class Deadly:
    left = int(sys.argv[1])
    def tell(self, event):
        self.left -= event.stage == "done"
        if self.left == 0:
            os.kill(os.getpid(), 9)
    def hush(self):
        pass

carry_out(prepare(LocalSystem(), {"agent_id": ["planner", "coder"], "port": 1884}), observer=Deadly())
"""

_TAKE_BACK = """
from swarmbus.provision.rollback import roll_back
from swarmbus.provision.local_system import LocalSystem
outcome = roll_back(LocalSystem(), finished=True)
assert outcome is None or outcome.rolled_back, outcome.notes
"""


def _kill_after(host: Host, steps: int) -> bool:
    """False if it had come to its end before."""
    command = shlex.join([PYTHON, "-I", "-c", _KILLED, str(steps)])
    return "ended 137" in host.ssh(f"{command}; echo ended $?").stdout


@pytest.mark.parametrize(("suite", "heal"), [("bookworm", "rollback"), ("trixie", "again")])
def test_killed_after_every_step(make_host: MakeHost, suite: str, heal: str) -> None:
    host = make_host(suite)
    _install(host)
    host.run_as_root(_PREPARED)
    host.ssh("mkdir -p .local/state/swarmbus sync")  # what listeners and the journal itself leave
    before = snapshot(host)
    steps = 0
    while True:
        steps += 1
        if not _kill_after(host, steps):
            break
        if heal == "again":
            done = json.loads(host.ssh(f"{SWARMBUS} init --yes --json").stdout)
            assert (done["failed"], done["gate"]["ok"]) == (False, True), (steps, done)
            assert not _plan(host)["changed"], steps
            host.ssh([PYTHON, "-I", "-c", _TAKE_BACK])
        else:
            host.ssh(f"{SWARMBUS} init --rollback --yes")
        left = {path for path in changed(before, snapshot(host)) if not path.startswith("/home/pi/sync/")}
        assert left == set(), steps
        assert host.run_as_root("systemctl is-active mosquitto").stdout == "active\n"
        assert "1884" not in host.run_as_root("ss -ltn").stdout, steps
    assert steps > 12
    _talks(host, "coder", "pi")
