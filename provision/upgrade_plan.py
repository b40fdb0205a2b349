"""What an upgrade would do, and whether it may be begun; reads only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarmbus.config import load_settings
from swarmbus.errors import CannotRun, Conflict, UsageError
from swarmbus.provision.bus import Bus
from swarmbus.provision.checks import Status
from swarmbus.provision.doctor import run_doctor
from swarmbus.provision.environments import Environments
from swarmbus.provision.installation import Installation
from swarmbus.provision.journal import Journal
from swarmbus.provision.known_agents import known_agents
from swarmbus.provision.layout import Layout
from swarmbus.provision.manifest import Manifest
from swarmbus.provision.supervisors.launchd import agent_label
from swarmbus.provision.supervisors.processes import agent_process
from swarmbus.provision.supervisors.units import find_unit
from swarmbus.provision.system import System
from swarmbus.provision.upgrade_record import SCHEMA

_HEALTH = ("broker.running", "mqtt.connect", "mqtt.canary", "agent.mailbox", "agent.listener-running")


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for.

    Attributes:
        version: A release of the package index.
        source: A checkout or a wheel; absolute.
    """

    version: str | None = None
    source: Path | None = None


@dataclass(frozen=True, slots=True)
class UpgradePlan:
    """What would be done.

    Attributes:
        target: Its version; None if only the package index knows.
        requirement: What the installer is given.
        rendered: Files that the new version writes again.
        agents: Whose listeners are restarted.
        problems: Why it is better not begun.
    """

    here: Installation
    target: str | None
    requirement: str
    rendered: tuple[str, ...]
    agents: tuple[str, ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_needless(self) -> bool:
        """Whether exactly that release is what is installed; of a checkout or a wheel nobody knows."""
        return self.requirement.endswith(f"=={self.here.version}")

    def as_json(self) -> dict[str, Any]:
        """For ``--plan --json``."""
        return {
            "schema": SCHEMA,
            "installed_by": self.here.kind,
            "prefix": str(self.here.prefix),
            "current": self.here.version,
            "target": self.target,
            "from": self.requirement,
            "render": list(self.rendered),
            "restart": list(self.agents),
            "problems": list(self.problems),
            "notes": list(self.notes),
        }


def look(
    system: System, layout: Layout, here: Installation, wish: Wish, *, bus: Bus | None = None
) -> UpgradePlan:
    """Decide what would be done; reads only.

    Raises:
        CannotRun: If the upgrade of such an installation is not ours to do; the hint is the command that is.
        UsageError: If the source is none.
        Conflict: If an installation was interrupted and has to be finished first.
        StorageError: If there is no room.
    """
    if here.refusal is not None:
        reason, command = here.refusal
        raise CannotRun(f"swarmbus {here.version} is not upgraded this way: {reason}", hint=command)
    if Journal(system, layout.provision).interrupted() is not None:
        raise Conflict("an init on this host was interrupted", hint="finish it first: swarmbus init --yes")
    Environments(system, layout, here).refuse_a_full_disk()
    target, requirement = _target(system, here, wish)
    known = known_agents(system, layout)
    agents = tuple(agent for agent in known if _is_kept_running(system, layout, agent))
    by_hand = [agent for agent in known if agent not in agents]
    notes = [f"the listener of {agent} was started by hand: restart it afterwards" for agent in by_hand]
    files = [
        str(entry.record["path"]) for entry in Manifest.load(system, layout.provision) if entry.kind == "file"
    ]
    problems = _problems(system, layout, agents, bus)
    return UpgradePlan(here, target, requirement, tuple(files), agents, problems, tuple(notes))


def _target(system: System, here: Installation, wish: Wish) -> tuple[str | None, str]:
    extras = f"[{','.join(here.extras)}]" if here.extras else ""
    if wish.version is not None:
        return wish.version, f"swarmbus{extras}=={wish.version}"
    source = str(wish.source) if wish.source else here.source
    if source is None:
        return None, f"swarmbus{extras}"
    if not source.startswith("/"):
        return None, f"swarmbus{extras} @ {source}"
    requirement = f"swarmbus{extras} @ {Path(source).as_uri()}" if extras else source
    return _version_of(system, Path(source)), requirement


def _version_of(system: System, source: Path) -> str:
    """Of a checkout or a wheel.

    Raises:
        UsageError: If it is neither.
    """
    if found := re.fullmatch(r"swarmbus-([^-]+)-py3-none-any\.whl", source.name):
        if system.stat(source) is not None:
            return found[1]
        raise UsageError(f"there is no {source}", hint="say where one is: swarmbus upgrade --from PATH")
    text = (system.read(source / "swarmbus/version.py") or b"").decode(errors="replace")
    if found := re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE):
        return found[1]
    raise UsageError(
        f"{source} is neither a checkout of swarmbus nor a wheel of it",
        hint="say where one is (swarmbus upgrade --from PATH), or which release (--to VERSION)",
    )


def _is_kept_running(system: System, layout: Layout, agent: str) -> bool:
    """Whether what init has set up starts its listener again."""
    records = (
        layout.processes / f"{agent_process(agent)}.json",
        layout.launch_agents / f"{agent_label(agent)}.plist",
    )
    with_unit = find_unit(system, layout, agent) is not None
    return with_unit or any(system.stat(record) is not None for record in records)


def _problems(system: System, layout: Layout, agents: Sequence[str], bus: Bus | None) -> tuple[str, ...]:
    """What the doctor finds of that without which nobody could say whether the upgrade went well."""
    if not agents:
        return ()
    report = run_doctor(
        system, load_settings({"agent_id": agents[0]}), agent_ids=agents, only=_HEALTH, layout=layout, bus=bus
    )
    bad = [result for result in report.results if result.status is Status.FAIL]
    return tuple(
        f"{result.subject}: {result.message}" if result.subject else result.message for result in bad
    )
