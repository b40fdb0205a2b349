"""Uninstall and show on a real home with real daemons and a real broker, where there is no systemd."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from swarmbus.config import load_settings
from swarmbus.provision.bus import LocalBus
from swarmbus.provision.canary import canary
from swarmbus.provision.carry_out import carry_out
from swarmbus.provision.goodbye import Goodbye
from swarmbus.provision.layout import Layout
from swarmbus.provision.local_system import LocalSystem
from swarmbus.provision.outcome import GateReport, Outcome, Prepared
from swarmbus.provision.prepare import prepare
from swarmbus.provision.resources.process import Process
from swarmbus.provision.supervisors.processes import agent_process
from swarmbus.provision.system import FileStat
from swarmbus.provision.uninstall import prepare_uninstall
from tests.lab.command import swarmbus
from tests.lab.mosquitto import Broker
from tests.provision.installing import inspector
from tests.provision.sandbox import tree


class NoSystemd(LocalSystem):
    """This machine, whatever its first process is."""

    def stat(self, path: Path) -> FileStat | None:
        return None if path == Path("/run/systemd/system") else super().stat(path)


@pytest.fixture
def system() -> Iterator[LocalSystem]:
    made = NoSystemd()
    yield made
    for agent in ("planner", "coder"):
        Process(group="", name=agent_process(agent), argv=(), folder=Layout.of_this_user().processes).stop(
            made
        )


def _init(system: LocalSystem, broker: Broker, *agents: str) -> None:
    flags = {"agent_id": list(agents), "port": broker.port, "skip_broker": True}
    look = inspector(python=sys.executable)
    outcome = carry_out(prepare(system, flags, inspector=look), gate=_gate)
    assert not outcome.failed, (outcome.error, outcome.gate)


def _gate(prepared: Prepared) -> GateReport:
    results = [canary(load_settings({"agent_id": one.id}), patience=15.0) for one in prepared.spec.agents]
    return GateReport(ok=all(result.ok for result in results), summary=str(results))


def _uninstall(system: LocalSystem, *agents: str, purge: bool = True) -> Outcome:
    goodbye = partial(Goodbye.to, system, LocalBus())
    what = prepare_uninstall(
        system,
        agents,
        everything=not agents,
        purge=purge,
        inspector=inspector(python=sys.executable),
        goodbye=goodbye,
    )
    assert what is not None
    outcome = carry_out(what, gate=_gate if what.spec.agents else None)
    assert not outcome.failed, (outcome.error, outcome.gate)
    return outcome


def _listed(broker: Broker) -> list[str]:
    listed: list[str] = swarmbus("list", "--all", "--json", f"--port={broker.port}").json
    return listed


def _shown() -> Mapping[str, Any]:
    shown: Mapping[str, Any] = swarmbus("show", "--json").json
    return shown


def test_a_home_is_as_it_was_and_no_list_has_the_agents(
    home: Path, system: LocalSystem, broker: Broker
) -> None:
    (home / ".config/swarmbus").mkdir(parents=True)
    (home / ".config/swarmbus/config.toml").write_text("# mine\ninbox_keep = 7\n")
    before = tree(home)
    _init(system, broker, "planner", "coder")
    assert _listed(broker) == ["coder", "planner"]
    pid = _pid(system, "coder")

    _uninstall(system, "planner")
    assert _listed(broker) == ["coder"]
    assert _pid(system, "planner") is None
    assert _pid(system, "coder") == pid

    outcome = _uninstall(system)
    assert _pid(system, "coder") is None
    assert _listed(broker) == []
    shutil.rmtree(home / "sync")  # the inbox files are the user's
    assert tree(home) == before, outcome.notes


def test_messages_stay_readable_until_they_are_purged(
    home: Path, system: LocalSystem, broker: Broker
) -> None:
    _init(system, broker, "planner")
    port = f"--port={broker.port}"
    words = ("--to=planner", "--subject=hello", "--body=b", "--wait=stored")
    assert swarmbus("send", "--agent-id=planner", port, *words).status == 0
    inbox = home / "sync/planner-inbox.md"
    outcome = _uninstall(system, purge=False)
    assert any(str(home / ".local/state/swarmbus/planner") in note for note in outcome.notes)
    assert "hello" in inbox.read_text()
    assert [one["subject"] for one in swarmbus("read", "--agent-id=planner", port, "--json").json] == [
        "hello"
    ]
    assert not (home / ".local/state/swarmbus/.provision").exists()
    _uninstall(system)
    assert set(tree(home)) == {
        ".local",
        ".local/state",
        "sync",
        "sync/planner-inbox.md",
    }


def test_presence_of_an_agent_that_runs_elsewhere_stays(system: LocalSystem, broker: Broker) -> None:
    _init(system, broker, "planner")
    settings = load_settings({"agent_id": "planner", "port": broker.port})
    LocalBus().clear_presence(settings, "planner")
    assert _listed(broker) == ["planner"]


def test_show_says_what_is_ours_and_what_became_of_it(
    home: Path, system: LocalSystem, broker: Broker
) -> None:
    assert _shown()["agents"] == []
    config = home / ".config/swarmbus/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('broker = "127.0.0.1"\n')
    _init(system, broker, "planner")
    before = tree(home, without=["mailbox.db"])
    shown = _shown()
    assert shown["schema"] == "swarmbus.show/1"
    assert [agent["id"] for agent in shown["agents"]] == ["planner"]
    assert shown["broker"] == {"host": "127.0.0.1", "port": broker.port}
    assert shown["choices"]["supervisor"] == "processes"
    entries = {entry["id"]: entry for entry in shown["entries"]}
    assert {entry["state"] for entry in shown["entries"]} == {"as-left"}
    assert entries["process:agent.planner"]["ours"] is True
    assert entries[f"toml:{config}:broker"]["ours"] is False
    assert (shown["conflicts"], shown["interrupted"]) == ([], None)

    text = swarmbus("show").out
    assert "of agent planner\n" in text
    assert "was here before, and stays\n" in text
    assert "changed since" not in text
    assert tree(home, without=["mailbox.db"]) == before, "it only looked"

    config.write_text(config.read_text().replace(f"port = {broker.port}\n", "port = 1\n"))
    Process(group="", name="agent.planner", argv=(), folder=Layout.of_this_user().processes).stop(system)
    (config.parent / "broker.conf.swarmbus-new").write_text("")
    with (Layout.of_this_user().provision / "journal.jsonl").open("w") as journal:
        journal.write(json.dumps({"event": "begin", "spec": {}, "spec_before": None}) + "\n")
    shown = _shown()
    states = {entry["id"]: entry["state"] for entry in shown["entries"]}
    assert states[f"toml:{config}:port"] == "changed"
    assert states["process:agent.planner"] == "gone"
    assert shown["conflicts"] == [str(config.parent / "broker.conf.swarmbus-new")]
    assert shown["interrupted"] == {"changes": [], "owed": []}
    text = swarmbus("show").out
    assert f"{config}:port  (changed since)\n" in text
    assert "a run was interrupted" in text


def _pid(system: LocalSystem, agent: str) -> int | None:
    folder = Layout.of_this_user().processes
    seen = Process(group="", name=agent_process(agent), argv=(), folder=folder).running(system)
    return seen.pid if seen else None
