"""A systemd unit: enabled, and running."""
# ruff: noqa: D102 - documented once, in Resource

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from swarmbus.errors import CannotRun
from swarmbus.provision.command import Command
from swarmbus.provision.resources.base import Comparison, Owned, Resource, Scope, State, Verb, three_way
from swarmbus.provision.system import Result, System

Manager = Literal["user", "system"]

SYSTEMCTL = "/usr/bin/systemctl"
SYSTEM_UNITS = Path("/etc/systemd/system")
"""Where the administrator's units are."""

_PROPERTIES = "Id,LoadState,ActiveState,SubState,UnitFileState,Result"
_START_WAIT = 6.0  # seconds until a service that has not said READY is left to the canary to judge
_STOP_WAIT = 35.0  # seconds that the one before it has besides: a listener drains for up to 30


@dataclass(frozen=True, slots=True)
class UnitSeen:
    """What ``systemctl show`` says of a unit.

    Its exit status says nothing: it is 0 for units that do not exist (``LoadState=not-found``).
    """

    load: str = "not-found"
    active: str = "inactive"
    sub: str = "dead"
    enabled: str = ""
    result: str = "success"

    @property
    def running(self) -> bool:
        """Whether it runs or is on its way up; not one that waits for its next restart."""
        return self.active in ("active", "activating", "reloading") and self.sub != "auto-restart"


@dataclass(frozen=True, kw_only=True)
class Unit(Resource):
    """A service that is to be enabled and running.

    Attributes:
        manager: ``user``: the user's own systemd; ``system``: process 1.
    """

    kind: ClassVar[str] = "unit"
    guarded: ClassVar[bool] = False

    name: str
    manager: Manager = "user"

    @property
    def id(self) -> str:
        return f"unit:{self.manager}:{self.name}"

    @property
    def title(self) -> str:
        return f"enable and start {self.name}"

    def undo_title(self, before: State) -> str:
        if before["active"] or before["enabled"]:
            return f"have {self.name} as it was: {_in_words(before)}"
        return f"stop and disable {self.name}"

    @property
    def scope(self) -> Scope:
        return "root" if self.manager == "system" else "user"

    def read(self, system: System) -> State:
        return self.read_all(system, [self])[0]

    @classmethod
    def read_all(cls, system: System, resources: Sequence[Resource]) -> list[State]:
        units = [resource for resource in resources if isinstance(resource, Unit)]
        seen: dict[Manager, dict[str, UnitSeen]] = {}
        managers: tuple[Manager, ...] = ("user", "system")
        for manager in managers:
            names = [unit.name for unit in units if unit.manager == manager]
            seen[manager] = show_units(system, manager, names)
        return [_state(seen[unit.manager].get(unit.name, UnitSeen())) for unit in units]

    def wanted(self, system: System) -> State:
        return {"enabled": True, "active": True, "masked": False}

    def compare(self, system: System, seen: State, owned: Owned | None, *, take: bool) -> Comparison:
        if seen["masked"]:
            undo = f"systemctl {'--user ' if self.manager == 'user' else ''}unmask {self.name}"
            return Comparison(Verb.CONFLICT, f"is masked; {undo}")
        missing = not seen["enabled"] and not seen["active"]
        if (easy := three_way(seen, self.wanted(system), owned, missing=missing)) is not None:
            verb = easy.verb
            return Comparison(verb, "neither enabled nor running" if verb is Verb.CREATE else easy.reason)
        return Comparison(Verb.UPDATE, "is not running" if seen["enabled"] else "is not enabled")

    def commands(self, system: System) -> list[Command]:
        seen = self.read(system)
        commands = [] if seen["enabled"] else [systemctl_command(self.manager, "enable", self.name)]
        return commands if seen["active"] else [*commands, *start_commands(self.manager, self.name)]

    def await_realised(self, system: System) -> None:
        await_unit(system, self.manager, self.name)

    def undo_commands(self, system: System, before: State, original: bytes | None) -> list[Command]:
        seen, commands = self.read(system), []
        if not before["active"] and self._is_under_way(system):
            commands.append(systemctl_command(self.manager, "stop", self.name))
        if seen["enabled"] != before["enabled"]:
            verb = "enable" if before["enabled"] else "disable"
            commands.append(systemctl_command(self.manager, verb, self.name))
        if before["active"] and not seen["active"]:
            commands += start_commands(self.manager, self.name)
        elif not before["active"]:
            commands.append(systemctl_command(self.manager, "reset-failed", self.name, may_fail=True))
        return commands

    def await_undone(self, system: System, before: State) -> None:
        if before["active"]:
            self.await_realised(system)

    def _is_under_way(self, system: System) -> bool:
        """Also one that waits for its next restart, and would fail again when its file is gone."""
        shown = show_units(system, self.manager, [self.name]).get(self.name, UnitSeen())
        return shown.active not in ("inactive", "failed")

    def record(self) -> dict[str, Any]:
        return {"name": self.name, "manager": self.manager}

    @classmethod
    def from_record(cls, group: str, record: Mapping[str, Any]) -> Self:
        manager = record["manager"]
        if manager not in ("user", "system"):
            raise ValueError(f"not a manager: {manager!r}")
        return cls(group=group, name=record["name"], manager=manager)


def systemctl_command(manager: Manager, *words: str, may_fail: bool = False) -> Command:
    """A call of systemctl; for the system's manager root has to make it."""
    argv = (SYSTEMCTL, *words) if manager == "system" else ("systemctl", "--user", *words)
    return Command(argv, may_fail=may_fail)


def start_commands(manager: Manager, name: str) -> list[Command]:
    """Have it started, or started anew; `await_unit` sees what becomes of it.

    By "restart" in any case: until version 253 of systemd, "start" of a unit that waits for its next restart
    does nothing before that is due.

    Not waited for by systemctl: that would wait for READY, and so for a broker that may be away.
    """
    reset = systemctl_command(manager, "reset-failed", name, may_fail=True)
    return [reset, systemctl_command(manager, "restart", "--no-block", name)]


def systemctl(system: System, manager: Manager, *words: str, timeout: float = 60.0) -> Result:
    """Run systemctl as the user; of the system's manager he can only ask."""
    return system.run(systemctl_command(manager, *words).argv, timeout=timeout)


def show_units(system: System, manager: Manager, names: Sequence[str]) -> dict[str, UnitSeen]:
    """Several units by one process; empty if the manager cannot be reached."""
    if not names:
        return {}
    shown = systemctl(system, manager, "show", "--property", _PROPERTIES, "--", *names)
    units: dict[str, UnitSeen] = {}
    for block in shown.stdout.strip().split("\n\n"):
        facts: dict[str, str] = {}
        for line in block.splitlines():
            name, _, value = line.partition("=")
            facts[name] = value
        if "Id" in facts:
            units[facts["Id"]] = UnitSeen(
                facts.get("LoadState", "not-found"),
                facts.get("ActiveState", "inactive"),
                facts.get("SubState", "dead"),
                facts.get("UnitFileState", ""),
                facts.get("Result", "success"),
            )
    return units


def await_unit(system: System, manager: Manager, name: str) -> None:
    """Wait until one that was started runs, or has failed, or is still on its way up after 6 s.

    Raises:
        CannotRun: If it failed.
    """
    begun = system.monotonic()
    deadline = begun + _START_WAIT
    while (now := system.monotonic()) < deadline:
        seen = show_units(system, manager, [name]).get(name, UnitSeen())
        if seen.active == "active" and seen.sub != "auto-restart":
            return
        if seen.active == "failed" or seen.sub == "auto-restart":
            log = "journalctl --user-unit" if manager == "user" else "sudo journalctl --unit"
            hint = f"its own words: {log} {name} -n 20"
            raise CannotRun(f"{name} does not stay up ({seen.result})", hint=hint)
        if seen.active == "deactivating" and now < begun + _STOP_WAIT:
            deadline = now + _START_WAIT
        system.sleep(0.1)


def _in_words(state: State) -> str:
    enabled = "enabled" if state["enabled"] else "not enabled"
    return f"{enabled}, {'running' if state['active'] else 'not running'}"


def _state(seen: UnitSeen) -> State:
    enabled = seen.enabled in ("enabled", "enabled-runtime", "static", "alias", "linked")
    masked = seen.load == "masked" or seen.enabled.startswith("masked")
    return {"enabled": enabled and not masked, "active": seen.running, "masked": masked}
