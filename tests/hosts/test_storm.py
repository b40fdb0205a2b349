"""The storm on real hosts: units, Debian's own mosquitto, and SIGKILL for each of them again and again.

Eight senders, 2,000 messages, an inbox file and a command. With Debian's broker as it comes, and with ours.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter

import pytest

from tests.hosts.conftest import MakeHost
from tests.lab.hosts import Host

SENDERS = [f"sender{number}" for number in range(8)]
EACH = 250
STORM_SECONDS = 60.0
CALM_SECONDS = 240.0
PYTHON = "/home/pi/.local/share/swarmbus/venv/bin/python"
OUR_BROKER_FILE = "/etc/mosquitto/conf.d/50-swarmbus.conf"

#: Run on the host: what the senders were promised, what the mailbox and the inbox file have.
LOOK = """
import json
from pathlib import Path
from swarmbus.control import request
from swarmbus.inbox_file import parse_entries
from swarmbus.mailbox import Mailbox
from swarmbus.paths import mailbox_path
with Mailbox.open(mailbox_path("receiver")) as mailbox:
    stored = [message.id for message in mailbox.inbound.after(0, 1_000_000)]
    quarantined = mailbox.quarantine.count()
handlers = request("receiver", {"op": "status"})["handlers"]
written = [entry.id for entry in parse_entries(Path("sync/receiver-inbox.md").read_text())]
promised = [line for path in Path().glob("*.sent") for line in path.read_text().split()]
invoked = Path("invoked").read_text().split()
print(json.dumps([promised, stored, written, invoked, quarantined, [one["lag"] for one in handlers]]))
"""


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
@pytest.mark.parametrize("broker", ["debian's", "ours"])
def test_storm_loses_nothing_and_doubles_nothing(suite: str, broker: str, make_host: MakeHost) -> None:
    host = make_host(suite, index=False)
    host.copy_checkout()
    host.write(
        "/home/pi/wake.sh", '#!/bin/sh\necho "$SWARMBUS_ID" >> /home/pi/invoked\n', mode=0o755, owner="pi"
    )
    host.ssh("./swarmbus/install.sh --agent-id receiver --invoke /home/pi/wake.sh", timeout=600)
    host.ssh("sed -i '1i wake = \"each\"' .config/swarmbus/config.toml")
    host.ssh("systemctl --user restart swarmbus-receiver")
    if broker == "debian's":
        host.run_as_root(["rm", OUR_BROKER_FILE])
        host.run_as_root(["systemctl", "restart", "mosquitto"])
    seed = random.SystemRandom().randrange(10**9)
    every = STORM_SECONDS * 0.7 / EACH
    for sender in SENDERS:
        host.ssh(
            f"systemd-run --user --quiet --unit={sender} -p Restart=on-failure -p RestartSec=0.3"
            f" -p StartLimitIntervalSec=0 -p WorkingDirectory=/home/pi {PYTHON}"
            f" swarmbus/tests/broker/storm_agents.py send {sender} 1883 receiver {EACH} {every} {sender}.sent"
        )
    kills = storm(host, random.Random(seed))
    print(f"seed {seed}, killed: {dict(kills)}")
    assert min(kills["mosquitto"], kills["swarmbus-receiver"]) >= 5
    promised, stored, written, invoked, quarantined = when_calm(host)
    assert len(promised) == len(set(promised)) == EACH * len(SENDERS)
    assert set(promised) - set(stored) == set(), "lost on the way"
    assert len(stored) == len(set(stored)), "twice in the mailbox"
    assert sorted(written) == sorted(stored), "the inbox file is not what the mailbox has"
    assert set(stored) - set(invoked) == set(), "the command was not run for some"
    assert quarantined == 0


def storm(host: Host, chance: random.Random) -> Counter[str]:
    """Kill one after the other; systemd starts the listener and the senders again, we the broker."""
    kills: Counter[str] = Counter()
    end = time.monotonic() + STORM_SECONDS
    while time.monotonic() < end:
        victim = chance.choice(["mosquitto", "swarmbus-receiver", chance.choice(SENDERS)])
        kills[victim] += 1
        if victim == "mosquitto":
            host.run_as_root(["systemctl", "kill", "--signal=KILL", "mosquitto"])
            time.sleep(chance.choice([0, 0.2, 1.5]))
            # More often than systemd lets a unit that only restarts on failure.
            host.run_as_root("systemctl reset-failed mosquitto; systemctl start mosquitto")
        else:
            host.ssh(f"systemctl --user kill --signal=KILL {victim}.service", check=False)
        time.sleep(chance.uniform(0.1, 0.5))
    return kills


def when_calm(host: Host) -> tuple[list[str], list[str], list[str], list[str], int]:
    """What there is when all senders have ended and all handlers are done."""
    end = time.monotonic() + CALM_SECONDS
    while True:
        names = " ".join(f"{sender}.service" for sender in SENDERS)
        running = host.ssh(f"systemctl --user show -P ActiveState {names}").stdout.split()
        if set(running) <= {"inactive"}:
            looked = host.ssh([PYTHON, "-c", LOOK], check=False)
            if looked.returncode == 0:
                promised, stored, written, invoked, quarantined, lags = json.loads(looked.stdout)
                if max(lags) == 0:
                    return promised, stored, written, invoked, quarantined
        assert time.monotonic() < end, f"not calm after {CALM_SECONDS:.0f} s: {running}"
        time.sleep(1)
