"""Restart: a listener daemon ends, drained, and the one after it is proven to be another and to work.

::

    restarting = Restarting(system, layout, LocalBus(), code_of_this_process())
    again = restarting.restart("planner")
    again.ok, again.reason, again.instance

An answer on the socket is not enough: it may be the old one's. What counts is another instance id, the
fingerprint of the code that is expected, the same instance in presence, and a canary that comes through it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swarmbus.config import Settings, load_settings
from swarmbus.errors import CannotRun, SwarmbusError, TimedOut
from swarmbus.fingerprint import installed_fingerprint
from swarmbus.provision.bus import Bus
from swarmbus.provision.layout import Layout
from swarmbus.provision.resources.launchd_agent import LaunchdAgent
from swarmbus.provision.resources.process import Process, start_again
from swarmbus.provision.resources.unit import UnitSeen, show_units
from swarmbus.provision.supervisors.launchd import agent_label
from swarmbus.provision.supervisors.processes import agent_process
from swarmbus.provision.supervisors.units import AgentUnit, find_unit
from swarmbus.provision.system import System
from swarmbus.version import __version__

_ANOTHER = 75.0
"""Seconds until the new one answers: the old one drains for up to 30, then it starts and connects."""

_CANARY = 20.0
_PRESENCE = 10.0
_PAUSE = 0.1


@dataclass(frozen=True, slots=True)
class Code:
    """What a listener daemon is to run."""

    version: str
    fingerprint: str


def code_of_this_process() -> Code:
    """What is installed here now."""
    return Code(__version__, installed_fingerprint())


@dataclass(frozen=True, slots=True)
class Restarted:
    """What became of one.

    Attributes:
        reason: Why it is not well; None if it is.
        seconds: From asking it to end until its canary was back.
        total_ms: The canary's way.
        was_restarted: False where what ran was right already and was only tried.
    """

    agent_id: str
    reason: str | None = None
    hint: str | None = None
    instance: str | None = None
    version: str | None = None
    fingerprint: str | None = None
    seconds: float = 0.0
    total_ms: float | None = None
    was_restarted: bool = True

    @property
    def ok(self) -> bool:
        """Whether the new one does its work."""
        return self.reason is None

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "agent": self.agent_id,
            "ok": self.ok,
            "restarted": self.was_restarted,
            "reason": self.reason,
            "hint": self.hint,
            "instance": self.instance,
            "version": self.version,
            "fingerprint": self.fingerprint,
            "seconds": round(self.seconds, 3),
            "canary_ms": self.total_ms,
        }


class Restarting:
    """Restarts listeners, one at a time.

    Args:
        code: What they are to run afterwards.
    """

    def __init__(self, system: System, layout: Layout, bus: Bus, code: Code) -> None:
        self._system = system
        self._layout = layout
        self._bus = bus
        self._code = code

    def restart(self, agent_id: str) -> Restarted:
        """End it, start it, prove the new one. What goes wrong is in what is returned."""
        begun = self._system.monotonic()
        before = (self._status(agent_id) or {}).get("instance")
        try:
            settings = load_settings({"agent_id": agent_id})
            self._kick(agent_id)
            status = self._await_another(agent_id, before)
            return self._prove(settings, status, begun, was_restarted=True)
        except SwarmbusError as error:
            seconds = self._system.monotonic() - begun
            return Restarted(agent_id, error.message, error.hint, seconds=seconds)

    def prove(self, agent_id: str) -> Restarted:
        """Try the one that runs; `restart` it only where that is not the expected code."""
        status = self._status(agent_id)
        if status is None or self._other_code(status) is not None:
            return self.restart(agent_id)
        begun = self._system.monotonic()
        try:
            settings = load_settings({"agent_id": agent_id})
            return self._prove(settings, status, begun, was_restarted=False)
        except SwarmbusError as error:
            return Restarted(agent_id, error.message, error.hint, was_restarted=False)

    def answers(self, agent_id: str) -> bool:
        """Whether its listener says anything at all."""
        return self._status(agent_id) is not None

    def stop(self, agent_id: str) -> None:
        """Have it finish what it is doing, and end; what keeps it running does not start it again.

        Raises:
            CannotRun: If nothing of ours keeps it running.
        """
        if (unit := self._unit(agent_id)) is not None:
            unit.stop(self._system)
        elif (launched := self._launchd_agent(agent_id)) is not None:
            launched.stop(self._system)
        elif self._record(agent_id) is not None:
            name = agent_process(agent_id)
            Process(group="", name=name, argv=(), folder=self._layout.processes).stop(self._system)
        else:
            raise self._not_ours(agent_id)

    def _kick(self, agent_id: str) -> None:
        record = self._record(agent_id)
        if (unit := self._unit(agent_id)) is not None:
            unit.restart(self._system)
        elif (launched := self._launchd_agent(agent_id)) is not None:
            launched.restart(self._system)
        elif record is not None:
            start_again(self._system, self._layout.processes, agent_process(agent_id), json.loads(record))
        else:
            raise self._not_ours(agent_id)

    def _not_ours(self, agent_id: str) -> CannotRun:
        pid = (self._status(agent_id) or {}).get("pid")
        stop = f"stop it (kill {pid}), then: " if pid else ""
        return CannotRun(
            f"nothing on this host keeps the listener of {agent_id} running",
            hint=f"{stop}swarmbus init --agent-id {agent_id} --yes",
        )

    def _await_another(self, agent_id: str, before: object) -> Mapping[str, Any]:
        deadline = self._system.monotonic() + _ANOTHER
        while self._system.monotonic() < deadline:
            self._system.sleep(_PAUSE)
            status = self._status(agent_id)
            if status is not None and status.get("instance") != before:
                return status
            if (unit := self._unit(agent_id)) is not None:
                self._refuse_one_that_fell(unit, agent_id)
        message = f"no new listener of {agent_id} answered within {_ANOTHER:g} s"
        raise TimedOut(message, hint=self._log(agent_id))

    def _refuse_one_that_fell(self, unit: AgentUnit, agent_id: str) -> None:
        seen = show_units(self._system, unit.manager, [unit.name]).get(unit.name, UnitSeen())
        if seen.active == "failed" or seen.sub == "auto-restart":
            raise CannotRun(f"{unit.name} does not stay up ({seen.result})", hint=self._log(agent_id))

    def _prove(
        self, settings: Settings, status: Mapping[str, Any], begun: float, *, was_restarted: bool
    ) -> Restarted:
        agent_id = settings.require_agent_id()
        reason, total = self._other_code(status), None
        if reason is None:
            reason, total = self._fly(settings)
        if reason is None:
            reason = self._look_at_presence(settings, status)
        return Restarted(
            agent_id,
            reason,
            hint=self._log(agent_id) if reason else None,
            instance=status.get("instance"),
            version=status.get("version"),
            fingerprint=status.get("fingerprint"),
            seconds=self._system.monotonic() - begun,
            total_ms=total,
            was_restarted=was_restarted,
        )

    def _other_code(self, status: Mapping[str, Any]) -> str | None:
        """Why what runs is not what should; None if it is."""
        if status.get("fingerprint") == self._code.fingerprint:
            return None
        running = f"{status.get('version')} (code {status.get('fingerprint')})"
        return f"runs swarmbus {running}, not {self._code.version} (code {self._code.fingerprint})"

    def _fly(self, settings: Settings) -> tuple[str | None, float | None]:
        """Why the canary did not come through, and else how long it took, in ms."""
        agent_id = settings.require_agent_id()
        deadline = self._system.monotonic() + _CANARY
        while True:
            result = self._bus.canaries({agent_id: settings})[agent_id]
            if result.ok:
                return None, result.total
            # One that was on its way while the session changed hands may take until the next try.
            if self._system.monotonic() > deadline:
                return result.summary, None
            self._system.sleep(_PAUSE)

    def _look_at_presence(self, settings: Settings, status: Mapping[str, Any]) -> str | None:
        """Why others do not see the new one; None if they do, or if the broker shows no presence."""
        agent_id = settings.require_agent_id()
        deadline = self._system.monotonic() + _PRESENCE
        while True:
            presences = self._bus.visit(settings, [agent_id]).presences
            if presences is None:
                return None
            seen = presences.get(agent_id)
            if seen is not None and seen.status == "online" and seen.instance == status.get("instance"):
                return None
            if self._system.monotonic() > deadline:
                return f"its presence is {seen.status + ' of another instance' if seen else 'not there'}"
            self._system.sleep(_PAUSE)

    def _unit(self, agent_id: str) -> AgentUnit | None:
        booted = self._system.stat(Path("/run/systemd/system")) is not None
        return find_unit(self._system, self._layout, agent_id) if booted else None

    def _launchd_agent(self, agent_id: str) -> LaunchdAgent | None:
        path = self._layout.launch_agents / f"{agent_label(agent_id)}.plist"
        return LaunchdAgent(group="", path=path) if self._system.stat(path) is not None else None

    def _log(self, agent_id: str) -> str:
        """Where more is said."""
        unit = self._unit(agent_id)
        more = f"; {unit.journal}" if unit is not None else ""
        return f"swarmbus doctor --agent-id {agent_id}{more}"

    def _record(self, agent_id: str) -> bytes | None:
        """How its background process was started; None if there is none of ours."""
        return self._system.read(self._layout.processes / f"{agent_process(agent_id)}.json")

    def _status(self, agent_id: str) -> Mapping[str, Any] | None:
        try:
            return self._bus.status(agent_id)
        except TimedOut:
            return None


def restart_all(restarting: Restarting, agents: Sequence[str]) -> list[Restarted]:
    """One after the other; after one that is not well, the others keep what they run."""
    results: list[Restarted] = []
    for agent_id in agents:
        results.append(restarting.restart(agent_id))
        if not results[-1].ok:
            break
    return results
