"""Cases are folders: a host, what is asked for, and the plan and the files that must come out, byte for byte.

``UPDATE_GOLDEN=1`` writes them anew; then read the difference before it is committed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from swarmbus.provision.outcome import Prepared
from swarmbus.provision.prepare import prepare
from swarmbus.provision.resources.file import File
from swarmbus.provision.resources.toml_key import TomlKey
from swarmbus.version import __version__
from tests.provision.fake_system import FakeSystem
from tests.provision.installing import LAYOUT, inspector
from tests.provision.machine import Machine, bare_debian

CASES = sorted(path.parent for path in Path(__file__).parent.glob("plans/*/case.json"))
_ANSWERS = {"mqtt": b"\x20\x02\x00\x00", "mqtt-refuses": b"\x20\x02\x00\x05", "other": b"HTTP/1.1 400"}


def host_of(case: dict[str, Any]) -> FakeSystem:
    """The machine that a case describes."""
    user = FakeSystem().user
    system = FakeSystem(programs=Machine(), installed={"apt-get": "/usr/bin/apt-get", "cat": "/usr/bin/cat"})
    bare_debian(system)
    if not case.get("systemd", True):
        system.remove(Path("/run/systemd/system"))
    if case.get("user_manager", True):
        system.put("/run/user/1000/bus")
    if case.get("mosquitto"):
        system.put("/var/lib/apt/lists/debian_main_Packages")
        Machine()(system, ("apt-get", "-y", "install", "mosquitto"), True)
    if version := case.get("systemd_version"):
        known = (system.read(Path("/var/lib/dpkg/status")) or b"").decode()
        system.put("/var/lib/dpkg/status", known.replace("252.39-1~deb12u2", version))
    system.installed = {**system.installed, **case.get("programs", {})}
    for path, text in case.get("files", {}).items():
        system.put(path, "\n".join(text) + "\n")
    system.root = case.get("root", "sudo")
    system.answers = {int(port): _ANSWERS[word] for port, word in case.get("answers", {}).items()}
    system.put("/usr/lib/aarch64-linux-gnu/libc.so.6")
    assert user == system.user
    return system


def prepared(case: dict[str, Any]) -> tuple[FakeSystem, Prepared]:
    system = host_of(case)
    return system, prepare(system, case["flags"], layout=LAYOUT, inspector=inspector())


def _plan_text(case: dict[str, Any], what: Prepared) -> str:
    lines = [f"{name} {value}" for name, value in what.spec.chosen.items()]
    lines += ["", *(f"{one.verb:8} {one.scope:4} {one.resource.id}" for one in what.plan.actions)]
    lines += ["", *(f"handler {handler.id}" for handler in what.plan.handlers)]
    lines += [f"note {note}" for note in what.plan.notes]
    return "\n".join([case["what"], "", *lines]) + "\n"


@pytest.mark.parametrize("folder", CASES, ids=[folder.name for folder in CASES])
def test_plan_and_files(folder: Path) -> None:
    case = json.loads((folder / "case.json").read_text())
    system, what = prepared(case)
    out = {"plan.txt": _plan_text(case, what)}
    for action in what.plan.actions:
        resource = action.resource
        if isinstance(resource, File) and resource.path != LAYOUT.rescue:  # which is copied, not rendered
            text = resource.content.replace(f"swarmbus {__version__};", "swarmbus VERSION;", 1)
            out[f"files{resource.path}"] = text
        elif isinstance(resource, TomlKey) and action.verb.changes_host:
            system.make_dir(resource.path.parent)
            resource.realise(system)
            out[f"files{resource.path}"] = (system.read(resource.path) or b"").decode()
    if os.environ.get("UPDATE_GOLDEN"):
        for name, text in out.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    golden = {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "case.json"
    }
    assert out == golden


def test_planning_writes_nothing() -> None:
    for folder in CASES:
        case = json.loads((folder / "case.json").read_text())
        system = host_of(case)
        before = dict(system.files)
        system.writes.clear()
        prepare(system, case["flags"], layout=LAYOUT, inspector=inspector())
        assert (system.writes, system.files) == ([], before), folder.name
