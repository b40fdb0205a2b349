"""Root that acts for another account: really, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for others")

_ACT = """
import json, os, sys
from pathlib import Path
from swarmbus.errors import SwarmbusError
from swarmbus.provision import acting, local_system, root, command, layout
os.environ["SWARMBUS_STATE_DIR"] = os.environ["XDG_CONFIG_HOME"] = "/of/the/caller"
# The interpreter of a test may be where nobody else can read it; that is another test's.
os.access = lambda *given, **named: True
acting.act_for("nobody")
system = local_system.LocalSystem()
folder = Path(sys.argv[1])
told = {"user": [system.user.uid, str(system.user.home)], "root": system.root_access()}
told["state"] = str(layout.Layout.of_this_user().state)
system.write_file(folder / "file", b"x", mode=0o600)
told["file"] = os.stat(folder / "file").st_uid
told["program"] = system.run(["/usr/bin/id", "-u"]).stdout
told["way back"] = system.run(["/usr/bin/env", "python3", "-c", "import os; os.setuid(0)"]).ok
pid = system.spawn(["/bin/sh", "-c", "id -ru; id -u"], log=folder / "log")
while system.process(pid) is not None:
    system.sleep(0.02)
told["spawned"] = (folder / "log").read_text()
ids = f"id -u >{folder}/root"
system.run_as_root([root.RootStep("a", "a", (command.Command(("/bin/sh", "-c", ids)),))], lambda step: None)
told["as root"] = (folder / "root").read_text()
try:
    system.read(Path("/etc/shadow"))
except SwarmbusError as error:
    told["shadow"] = error.message
print(json.dumps(told))
"""


def _act(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *words]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=60)


def test_everything_but_the_script_of_root_has_the_rights_of_the_account() -> None:
    with_room = subprocess.run(
        ["mktemp", "--directory", "--tmpdir=/tmp"], capture_output=True, text=True, check=True
    )
    folder = with_room.stdout.strip()
    Path(folder).chmod(0o755)
    os.chown(folder, 65534, 65534)
    try:
        ran = _act(_ACT, folder)
        assert ran.returncode == 0, ran.stderr
        told: dict[str, Any] = json.loads(ran.stdout)
    finally:
        subprocess.run(["rm", "-r", "--", folder], check=True)
    assert told["user"][0] == 65534
    assert told["root"] == "root"
    assert told["file"] == 65534
    assert (told["program"], told["way back"], told["spawned"]) == ("65534\n", False, "65534\n65534\n")
    assert told["as root"] == "0\n"
    assert "Permission denied" in told["shadow"]
    assert not told["state"].startswith("/of/the/caller")


_GIVE_UP = """
import os
from swarmbus.provision import acting, local_system
os.access = lambda *given, **named: True
acting.act_for("nobody", keeping_root=False)
assert not acting.is_acting()
print(os.getresuid(), os.getresgid(), local_system.LocalSystem().root_access())
os.seteuid(0)
"""


def test_what_has_no_steps_for_root_gives_root_up_for_good() -> None:
    ran = _act(_GIVE_UP)
    assert ran.stdout.startswith("(65534, 65534, 65534) (65534, 65534, 65534) none")
    assert "PermissionError" in ran.stderr


@pytest.mark.parametrize(
    ("name", "reason"), [("no-such-account", "there is no account"), ("root", "agents do not run as root")]
)
def test_for_whom_nobody_can_act(name: str, reason: str) -> None:
    ran = _act("import sys; from swarmbus.provision.acting import act_for; act_for(sys.argv[1])", name)
    assert ran.returncode != 0
    assert reason in ran.stderr
