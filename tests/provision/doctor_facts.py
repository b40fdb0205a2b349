"""A healthy host for the doctor, made of canned facts, to be broken one thing at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarmbus.config import Settings
from swarmbus.errors import TimedOut
from swarmbus.presence import Presence
from swarmbus.provision.bus import Visit
from swarmbus.provision.canary import HOPS, CanaryResult
from swarmbus.provision.checks import CHECKS
from swarmbus.provision.doctor import Report, Result, run_checks
from swarmbus.provision.facts import Facts
from swarmbus.provision.layout import Layout
from swarmbus.provision.mailbox_look import MailboxSeen
from swarmbus.provision.system import ProcessSeen
from swarmbus.provision.system import Result as Ran
from tests.provision.fake_system import FakeSystem

NOW = 1_800_000_000.0
HOME = Path("/home/pi")
LAYOUT = Layout.under(HOME)
LOCK = LAYOUT.state / "coder/listener.lock"
UNIT = "swarmbus-coder.service"
PID = 4242


@dataclass
class FakeBus:
    """A `Bus` that says what it was told to.

    Attributes:
        silent: Agents whose control socket accepts and does not answer.
        unreadable: Whether mailboxes cannot be opened.
        flown: The agents whose canaries were sent, a call a list.
    """

    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    seen: Visit = field(default_factory=Visit)
    results: dict[str, CanaryResult] = field(default_factory=dict)
    mailboxes: dict[str, MailboxSeen] = field(default_factory=dict)
    unreadable: bool = False
    flown: list[list[str]] = field(default_factory=list)

    def status(self, agent_id: str) -> Mapping[str, Any] | None:
        if agent_id in self.silent:
            raise TimedOut("no answer")
        return self.statuses.get(agent_id)

    def visit(self, settings: Settings, agent_ids: Sequence[str]) -> Visit:
        return self.seen

    def canaries(self, settings: Mapping[str, Settings]) -> Mapping[str, CanaryResult]:
        self.flown.append(list(settings))
        return {agent: self.results[agent] for agent in settings}

    def mailbox(self, path: Path) -> MailboxSeen:
        if self.unreadable:
            raise PermissionError(f"cannot read {path}")
        return self.mailboxes[path.parent.name]


@dataclass
class Host:
    """A Raspberry Pi with one agent, ``coder``, set up by init under the user's systemd: all is well.

    Attributes:
        unit: What ``systemctl show`` says of its unit; of the system's mosquitto, ``mosquitto``.
        denied: What test(1) says no to: ``("-w", path)``.
        manager: False: ``systemctl --user`` cannot reach the user's systemd.
    """

    system: FakeSystem = field(default_factory=FakeSystem)
    bus: FakeBus = field(default_factory=FakeBus)
    settings: dict[str, Settings] = field(default_factory=lambda: {"coder": Settings(agent_id="coder")})
    unit: dict[str, str] = field(default_factory=dict)
    mosquitto: dict[str, str] = field(default_factory=dict)
    environment: str = "PATH=/home/pi/.local/bin:/usr/bin:/bin\nLANG=C.UTF-8\n"
    denied: set[tuple[str, str]] = field(default_factory=set)
    manager: bool = True
    python: tuple[int, ...] = (3, 11, 2)
    installed: str = "f1"

    def __post_init__(self) -> None:
        for path in ("/run/systemd/system/x", "/var/lib/systemd/linger/pi", "/run/user/1000/bus"):
            self.system.put(path)
        self.system.put(str(LAYOUT.units / UNIT), "[Unit]")
        self.system.put(str(HOME / "sync/coder-inbox.md"))
        self.system.put(f"/proc/{PID}/status", "Name:\tpython3\nState:\tS (sleeping)\n")
        self.system.held[LOCK] = json.dumps({"pid": PID, "role": "listener"}).encode()
        self.system.processes[PID] = ProcessSeen(PID, 77, ("python3", "-m", "swarmbus", "start"), 1000)
        self.system.programs = self._program
        self.system.hostname = "pi4"
        self.unit = {
            "Id": UNIT,
            "LoadState": "loaded",
            "ActiveState": "active",
            "SubState": "running",
            "UnitFileState": "enabled",
            "Result": "success",
            "NeedDaemonReload": "no",
            "ExecMainStatus": "0",
            "Environment": "PATH=/home/pi/.local/bin:/usr/bin:/bin",
        }
        self.mosquitto = {**self.unit, "Id": "mosquitto.service"}
        self.bus.statuses["coder"] = {
            "broker": "localhost",
            "port": 1883,
            "connected": True,
            "last_error": None,
            "instance": "i1",
            "version": self._version(),
            "fingerprint": "f1",
            "heard": NOW - 5,
            "inbox": str(HOME / "sync/coder-inbox.md"),
            "handlers": [{"name": "invoke", "lag": 0, "attempts": 0, "last_error": None, "dead": 0}],
        }
        self.bus.seen = Visit(protocol=5, milliseconds=3.0, presences={"coder": presence()})
        self.bus.results["coder"] = CanaryResult("coder", dict.fromkeys(HOPS, 1.0), total=4.0)
        self.bus.mailboxes["coder"] = MailboxSeen()

    @property
    def status(self) -> dict[str, Any]:
        """What the listener of ``coder`` says of itself."""
        return self.bus.statuses["coder"]

    def set(self, **settings: Any) -> None:
        """Other settings of ``coder``."""
        self.settings["coder"] = Settings(agent_id="coder", **settings)

    def without_systemd(self) -> None:
        """As in a container."""
        for path in [path for path in self.system.files if path.is_relative_to("/run/systemd")]:
            del self.system.files[path]

    def without_listener(self) -> None:
        """It has ended."""
        self.system.held.clear()
        self.system.processes.clear()
        del self.bus.statuses["coder"]

    def facts(self) -> Facts:
        return Facts(
            self.system,
            self.bus,
            layout=LAYOUT,
            settings=self.settings,
            python=self.python,
            fingerprint=lambda: self.installed,
            clock=lambda: NOW,
        )

    def doctor(self) -> Report:
        return run_checks(CHECKS, self.facts())

    def ask(self, code: str) -> Result:
        """One check alone."""
        check = next(check for check in CHECKS if check.code == code)
        (result,) = run_checks([check], self.facts()).results
        return result

    def _program(self, system: FakeSystem, argv: tuple[str, ...], root: bool) -> Ran | None:
        match argv:
            case ("test", what, path):
                return Ran(argv, int((what, path) in self.denied))
            case ("systemctl", "--user", *_) if not self.manager:
                return Ran(argv, 1, stderr="Failed to connect to bus: No medium found\n")
            case ("systemctl", "--user", "show-environment"):
                return Ran(argv, 0, self.environment)
            case ("systemctl", "--user", "show", "--property", _, "--", *names):
                blocks = [self.unit if name == UNIT else {**NOT_FOUND, "Id": name} for name in names]
                return Ran(argv, 0, _shown(blocks))
            case ("/usr/bin/systemctl", "show", "--property", _, "--", "mosquitto.service"):
                return Ran(argv, 0, _shown([self.mosquitto]))
            case _:
                return None

    @staticmethod
    def _version() -> str:
        from swarmbus.version import __version__

        return __version__


NOT_FOUND = {
    "LoadState": "not-found",
    "ActiveState": "inactive",
    "SubState": "dead",
    "UnitFileState": "",
    "Result": "success",
    "NeedDaemonReload": "no",
    "ExecMainStatus": "0",
    "Environment": "",
}


def presence(**changed: Any) -> Presence:
    """Of ``coder``, as its listener gives it."""
    return Presence(
        **{"agent": "coder", "status": "online", "wire": 1, "instance": "i1", "host": "pi4", **changed}
    )


def bad(report: Report) -> list[tuple[str, str]]:
    """Code and status of all that is amiss."""
    return [
        (result.check.code, str(result.status))
        for result in report.results
        if result.status in ("warn", "fail", "crash")
    ]


def _shown(blocks: Iterable[Mapping[str, str]]) -> str:
    return (
        "\n\n".join("\n".join(f"{name}={value}" for name, value in block.items()) for block in blocks) + "\n"
    )
