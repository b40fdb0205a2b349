"""A background process, where there is no systemd: started by us, and known by a record of ours."""
# ruff: noqa: D102 - documented once, in Resource

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from swarmbus.errors import CannotRun
from swarmbus.provision.resources.base import Comparison, Owned, Resource, State, Verb, three_way
from swarmbus.provision.system import ProcessSeen, System

_UP_WAIT = 10.0
_STOP_WAIT = 35.0  # a listener drains for up to 30 s
_SETTLE = 0.5

# The process records itself and only then becomes the program, so that there is no instant at which it
# runs and nobody knows its pid. The record is boot id and /proc/PID/stat, which holds pid and start time.
_START = (
    "cd / && read -r boot </proc/sys/kernel/random/boot_id && read -r stat </proc/$$/stat"
    ' && printf "%s\\n%s\\n" "$boot" "$stat" >"$1" && shift && exec "$@"'
)


@dataclass(frozen=True, kw_only=True)
class Process(Resource):
    """A program that is to run in the background until the next boot.

    Attributes:
        name: ``broker`` or ``agent-<id>``; its files in ``folder`` are called after it.
        env: Added to the environment.
        folder: Where ``<name>.pid``, ``<name>.json`` and ``<name>.log`` are.
        port: TCP port on loopback that it answers on once it is up; None if it has none.
    """

    kind: ClassVar[str] = "process"
    guarded: ClassVar[bool] = False

    name: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    folder: Path
    port: int | None = None

    @property
    def id(self) -> str:
        return f"process:{self.name}"

    @property
    def title(self) -> str:
        return f"start {self.name} in the background"

    def undo_title(self, before: State) -> str:
        return f"have {self.name} run as it did before" if before["running"] else f"stop {self.name}"

    def read(self, system: System) -> State:
        if self.running(system) is None:
            return {"running": False}
        record = json.loads(system.read(self._file("json")) or b"{}")
        return {"running": True, "argv": record.get("argv"), "port": record.get("port")}

    def wanted(self, system: System) -> State:
        return {"running": True, "argv": list(self.argv), "port": self.port}

    def compare(self, system: System, seen: State, owned: Owned | None, *, take: bool) -> Comparison:
        easy = three_way(seen, self.wanted(system), owned, missing=not seen["running"])
        if easy is None:
            return Comparison(Verb.UPDATE, "runs with another command line or port")
        return Comparison(easy.verb, "is not running") if easy.verb is Verb.CREATE else easy

    def realise(self, system: System) -> State:
        self.stop(system)
        if self.port is not None and system.dial("127.0.0.1", self.port, b"", 0.2) is not None:
            raise CannotRun(
                f"port {self.port} was taken by somebody else before {self.name} could start",
                hint=f"see who it is: ss -ltnp 'sport = {self.port}'",
            )
        record = {"argv": list(self.argv), "env": dict(self.env), "port": self.port}
        system.write_file(self._file("json"), json.dumps(record).encode(), mode=0o600)
        # The settings of the caller's shell would win over config.toml, and be gone at the next start.
        kept = dict(self.env)
        unset = [
            word
            for name in system.environ
            if name.startswith(("SWARMBUS_", "PYTHON")) and name not in kept
            for word in ("-u", name)
        ]
        shell = ("/bin/sh", "-c", _START, "sh", str(self._file("pid")))
        start = ["/usr/bin/env", *unset, *shell, *self.argv]
        pid = system.spawn(start, log=self._file("log"), env=kept)
        self._wait_until_up(system, pid)
        return self.read(system)

    def _wait_until_up(self, system: System, pid: int) -> None:
        begun = system.monotonic()
        while system.monotonic() < begun + _UP_WAIT:
            if system.process(pid) is None:
                break
            up = self.port is None or system.dial("127.0.0.1", self.port, b"", 0.2) is not None
            if up and system.monotonic() > begun + _SETTLE and self.running(system):
                return
            system.sleep(0.05)
        said = (system.read(self._file("log")) or b"").decode(errors="replace").strip().splitlines()
        self.stop(system)
        raise CannotRun(
            f"{self.name} does not stay up: {said[-1] if said else 'it said nothing'}",
            hint=f"its own words: {self._file('log')}",
        )

    def stop(self, system: System) -> None:
        """Have it end: SIGTERM, and SIGKILL if it has not after 35 s."""
        for number, wait in ((signal.SIGTERM, _STOP_WAIT), (signal.SIGKILL, 5.0)):
            running = self.running(system)
            if running is None:
                break
            system.signal(running, number)
            deadline = system.monotonic() + wait
            while system.process(running.pid) is not None and system.monotonic() < deadline:
                system.sleep(0.05)
        system.remove(self._file("pid"))

    def undo(self, system: System, before: State, original: bytes | None) -> None:
        self.stop(system)
        if before["running"] and original is not None:
            start_again(system, self.folder, self.name, json.loads(original))
            return
        for suffix in ("json", "log"):
            system.remove(self._file(suffix))

    def original(self, system: System) -> bytes | None:
        return system.read(self._file("json"))

    def running(self, system: System) -> ProcessSeen | None:
        """The process of our record, if it lives."""
        lines = (system.read(self._file("pid")) or b"").decode(errors="replace").splitlines()
        if len(lines) < 2 or lines[0] != system.boot_id():
            return None
        pid, ticks = lines[1].split(" ", 1)[0], lines[1].rpartition(")")[2].split()
        seen = system.process(int(pid))
        # Not the owner: mosquitto, started by root, becomes another user.
        return seen if seen is not None and seen.start_ticks == int(ticks[19]) else None

    def record(self) -> dict[str, Any]:
        return {"name": self.name, "folder": str(self.folder)}

    @classmethod
    def from_record(cls, group: str, record: Mapping[str, Any]) -> Self:
        return cls(group=group, name=record["name"], argv=(), folder=Path(record["folder"]))

    def _file(self, suffix: str) -> Path:
        return self.folder / f"{self.name}.{suffix}"


def restart(system: System, folder: Path, name: str) -> None:
    """Stop a recorded process and start it again as it was started; nothing happens without a record."""
    data = system.read(folder / f"{name}.json")
    if data is not None:
        start_again(system, folder, name, json.loads(data))


def start_again(system: System, folder: Path, name: str, record: Mapping[str, Any]) -> None:
    """Start a process from the content of its record."""
    Process(
        group="",
        name=name,
        argv=tuple(record["argv"]),
        env=tuple(record["env"].items()),
        folder=folder,
        port=record["port"],
    ).realise(system)
