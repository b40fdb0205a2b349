"""Linger: the user's systemd, and with it our units, run from boot to shutdown, not from login to logout."""
# ruff: noqa: D102 - documented once, in Resource

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from swarmbus.errors import CannotRun
from swarmbus.provision.command import Command
from swarmbus.provision.resources.base import (
    Comparison,
    Declined,
    Owned,
    Resource,
    Scope,
    State,
    Verb,
    two_way,
)
from swarmbus.provision.system import System

_LINGER = Path("/var/lib/systemd/linger")  # logind's own record: one empty file a user
_LOGINCTL = "/usr/bin/loginctl"
_MANAGER_WAIT = 15.0


@dataclass(frozen=True, kw_only=True)
class Linger(Resource):
    """Linger for one user.

    Attributes:
        required: Whether the run fails if it is refused; False where nobody could become root, and the
            units are still worth having while the user is logged in.
    """

    kind: ClassVar[str] = "linger"
    guarded: ClassVar[bool] = False
    goes_last: ClassVar[bool] = True  # without a login, systemctl --user works for 10 s more (logind.conf(5))

    user: str
    uid: int
    required: bool = True

    @property
    def id(self) -> str:
        return f"linger:{self.user}"

    @property
    def title(self) -> str:
        return f"let the units of {self.user} run without a login (linger)"

    def undo_title(self, before: State) -> str:
        return f"let the units of {self.user} run while {self.user} is logged in only (no linger)"

    @property
    def scope(self) -> Scope:
        return "root" if self.required else "user"

    def read(self, system: System) -> State:
        return {"linger": system.stat(_LINGER / self.user) is not None}

    def wanted(self, system: System) -> State:
        return {"linger": True}

    def compare(self, system: System, seen: State, owned: Owned | None, *, take: bool) -> Comparison:
        if owned is not None and not owned.state["linger"] and not seen["linger"] and not self.required:
            reason = f"was refused; an administrator can run: sudo loginctl enable-linger {self.user}"
            return Comparison(Verb.KEEP, reason, remark=True)
        return two_way(seen, self.wanted(system), owned)

    def commands(self, system: System) -> list[Command]:
        return [Command((_LOGINCTL, "--no-ask-password", "enable-linger", self.user))]

    def undo_commands(self, system: System, before: State, original: bytes | None) -> list[Command]:
        verb = "enable-linger" if before["linger"] else "disable-linger"
        return [Command((_LOGINCTL, "--no-ask-password", verb, self.user))]

    def realise(self, system: System) -> State:
        # Where polkit lets a user decide for himself, no root is needed.
        if not system.run([_LOGINCTL, "--no-ask-password", "enable-linger", self.user]).ok:
            raise Declined(
                f"logind refused to enable-linger for {self.user}: the units stop when {self.user} logs out",
                hint=f"an administrator can run: sudo loginctl enable-linger {self.user}",
            )
        self.await_realised(system)
        return self.read(system)

    def await_realised(self, system: System) -> None:
        runtime = Path(f"/run/user/{self.uid}")
        deadline = system.monotonic() + _MANAGER_WAIT
        # logind starts user@UID.service in its own time; systemctl --user works from here on
        while system.stat(runtime / "systemd" / "private") is None and system.stat(runtime / "bus") is None:
            if system.monotonic() > deadline:
                raise CannotRun(
                    f"the systemd of user {self.user} did not start",
                    hint=f"look at it: systemctl status user@{self.uid}.service",
                )
            system.sleep(0.1)

    def await_undone(self, system: System, before: State) -> None:
        if before["linger"]:
            self.await_realised(system)

    def record(self) -> dict[str, Any]:
        return {"user": self.user, "uid": self.uid, "required": self.required}

    @classmethod
    def from_record(cls, group: str, record: Mapping[str, Any]) -> Self:
        required = bool(record.get("required", True))
        return cls(group=group, user=record["user"], uid=int(record["uid"]), required=required)
