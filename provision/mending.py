"""Mending: what ``--fix`` does about findings. There is one writer of the host, the engine behind init.

A finding names resources of the engine, its handlers, or a listener daemon to restart (`Finding.repair`). The
engine is then run for exactly these, with the diff, the conflict rule and the rollback that it always has.
What none of this mends is left to a human, with its command.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from swarmbus.errors import StorageError, TimedOut
from swarmbus.provision.bus import Bus
from swarmbus.provision.layout import Layout
from swarmbus.provision.private_folder import make_private_folder
from swarmbus.provision.report import Report, Result
from swarmbus.provision.restart import Restarted, Restarting
from swarmbus.provision.spec import InstallSpec
from swarmbus.provision.system import System

_RESTART: Final = "restart:"
_AGENT: Final = "agent:"


@dataclass(frozen=True, slots=True)
class Repairs:
    """What would be done, and what would not.

    Attributes:
        words: Resources, groups and handlers for the engine.
        restarts: Agents whose listener daemon is restarted after that.
        by_hand: What is amiss and left.
    """

    words: frozenset[str] = frozenset()
    restarts: tuple[str, ...] = ()
    by_hand: tuple[Result, ...] = ()

    @property
    def nothing(self) -> bool:
        """Whether nothing would be done."""
        return not self.words and not self.restarts

    def without_engine(self, report: Report) -> Repairs:
        """Where the engine sees nothing to do: what it was called for is left to a human too."""
        left = [one for one in report.problems if self.words & set(one.repair)]
        return Repairs(restarts=self.restarts, by_hand=(*self.by_hand, *left))


def repairs_for(
    report: Report, spec: InstallSpec | None, in_vain: Mapping[str, Any] | None = None
) -> Repairs:
    """What to do about a report.

    Args:
        spec: What this host was set up for; None where init never ran, and the engine knows nothing.
        in_vain: Of each agent whose listener was restarted already, without the finding having gone, the
            codes: it is not restarted a second time for these.
    """
    known = {agent.id for agent in spec.agents} if spec is not None else set()
    words: set[str] = set()
    restarts: list[str] = []
    by_hand: list[Result] = []
    for result in report.problems:
        wanted = [word.removeprefix(_RESTART) for word in result.repair if word.startswith(_RESTART)]
        others = {word for word in result.repair if not word.startswith(_RESTART)}
        strangers = {word for word in others if word.startswith(_AGENT)} - {f"{_AGENT}{one}" for one in known}
        vain = any(result.check.code in (in_vain or {}).get(agent, ()) for agent in wanted)
        if not result.repair or vain or (others and spec is None) or strangers:
            by_hand.append(result)
            continue
        words |= others
        restarts += wanted
    return Repairs(frozenset(words), tuple(dict.fromkeys(restarts)), tuple(by_hand))


class Tried:
    """Which listeners were restarted for which findings: so that a second ``--fix`` changes nothing.

    What does not go away by a restart will not go away by the next one. A listener that somebody else has
    restarted since is another one, and may be restarted again.
    """

    def __init__(self, system: System, layout: Layout, bus: Bus) -> None:
        self._system = system
        self._layout = layout
        self._bus = bus
        self._path = layout.doctor / "restarted.json"

    def in_vain(self) -> dict[str, list[str]]:
        """The codes by agent, of those whose listener is still the one that came of it."""
        try:
            kept = json.loads(self._system.read(self._path) or b"{}")
            return {
                agent: list(one["codes"])
                for agent, one in kept.items()
                if one["instance"] == self._instance(agent)
            }
        except (StorageError, ValueError, TypeError, KeyError, AttributeError):
            return {}

    def keep(self, report: Report, agents: tuple[str, ...]) -> None:
        """After restarting these agents' listeners: what is still amiss for which a restart is the cure."""
        left = {
            agent: [one.check.code for one in report.problems if f"{_RESTART}{agent}" in one.repair]
            for agent in agents
        }
        told = {
            agent: {"instance": self._instance(agent), "codes": codes}
            for agent, codes in left.items()
            if codes
        }
        if told:
            make_private_folder(self._system, self._layout.doctor)
            self._system.write_file(self._path, json.dumps(told).encode(), mode=0o600)
        else:
            self._system.remove(self._path)

    def _instance(self, agent: str) -> object:
        try:
            return (self._bus.status(agent) or {}).get("instance")
        except TimedOut:
            return None


def restart_each(restarting: Restarting, agents: tuple[str, ...]) -> list[Restarted]:
    """Every one of them, for each was found to be unwell: none of them has anything to lose."""
    return [restarting.restart(agent) for agent in agents]


def must_work(report: Report) -> list[str]:
    """The agents whose canary came through before: mending may not break them, or is taken back."""
    return [
        result.subject
        for result in report.results
        if result.check.code == "mqtt.canary" and result.status == "ok"
    ]
