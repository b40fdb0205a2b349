"""An agent of macOS's launchd: loaded, and so started at each login and again whenever it ends."""
# ruff: noqa: D102 - documented once, in Resource

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from swarmbus.errors import CannotRun
from swarmbus.provision.resources.base import Comparison, Owned, Resource, State, two_way
from swarmbus.provision.system import System

LAUNCHCTL = Path("/bin/launchctl")
_GONE_WAIT = 35.0  # a listener drains for up to 30 s, and bootout does not wait for that


@dataclass(frozen=True, kw_only=True)
class LaunchdAgent(Resource):
    """A property list that is loaded into the user's session (launchctl(1), ``gui/UID``).

    Attributes:
        path: The property list; its name is the label.
    """

    kind: ClassVar[str] = "launchd"
    guarded: ClassVar[bool] = False

    path: Path

    @property
    def id(self) -> str:
        return f"launchd:{self.label}"

    @property
    def label(self) -> str:
        """What launchd calls it."""
        return self.path.stem

    @property
    def title(self) -> str:
        return f"load and start {self.label}"

    def read(self, system: System) -> State:
        return {"active": self._is_loaded(system)}

    def wanted(self, system: System) -> State:
        return {"active": True}

    def compare(self, system: System, seen: State, owned: Owned | None, *, take: bool) -> Comparison:
        return two_way(seen, self.wanted(system), owned)

    def realise(self, system: System) -> State:
        self.restart(system)
        return self.read(system)

    def undo(self, system: System, before: State, original: bytes | None) -> None:
        self.stop(system)
        if before["active"]:
            self.restart(system)

    def restart(self, system: System) -> None:
        """Load it afresh: what is loaded already would go on with the property list of before.

        Raises:
            CannotRun: If launchd does not take it.
        """
        self.stop(system)
        load = [str(LAUNCHCTL), "bootstrap", _domain(system), str(self.path)]
        system.run(load).check(f"loading {self.label}")

    def stop(self, system: System) -> None:
        """Have it end, and not come back before the next login.

        Raises:
            CannotRun: If it is still there after 35 s.
        """
        system.run([str(LAUNCHCTL), "bootout", self._target(system)])
        deadline = system.monotonic() + _GONE_WAIT
        while self._is_loaded(system):
            if system.monotonic() > deadline:
                raise CannotRun(
                    f"{self.label} does not end", hint=f"launchctl print {self._target(system)} says more"
                )
            system.sleep(0.1)

    def record(self) -> dict[str, Any]:
        return {"path": str(self.path)}

    @classmethod
    def from_record(cls, group: str, record: Mapping[str, Any]) -> Self:
        return cls(group=group, path=Path(record["path"]))

    def _is_loaded(self, system: System) -> bool:
        return system.run([str(LAUNCHCTL), "print", self._target(system)]).ok

    def _target(self, system: System) -> str:
        return f"{_domain(system)}/{self.label}"


def _domain(system: System) -> str:
    return f"gui/{system.user.uid}"
