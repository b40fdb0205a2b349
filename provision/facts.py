"""Facts: what checks know. Each is looked for once, when it is first asked for, and nothing is changed."""

from __future__ import annotations

import ipaddress
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Final, Literal, ParamSpec, TypeVar

from swarmbus.config import Settings
from swarmbus.errors import StorageError, TimedOut
from swarmbus.fingerprint import installed_fingerprint
from swarmbus.provision.bus import Bus, Visit
from swarmbus.provision.canary import CanaryResult
from swarmbus.provision.layout import Layout
from swarmbus.provision.mailbox_look import MailboxSeen
from swarmbus.provision.resources.process import Process
from swarmbus.provision.resources.unit import Manager, systemctl
from swarmbus.provision.spec import InstallSpec, load_kept
from swarmbus.provision.supervisors.processes import BROKER, agent_process
from swarmbus.provision.supervisors.systemd_user import BROKER_UNIT, agent_unit
from swarmbus.provision.system import NOT_FOUND, FileStat, System
from swarmbus.version import __version__

P = ParamSpec("P")
T = TypeVar("T")

Supervision = Literal["systemd-user", "processes", "none"]
"""``none``: started by hand, or not at all."""

BrokerSupervision = Literal["mosquitto.service", "swarmbus-broker.service", "process", "none"]
"""``process``: a background process of ours. ``none``: nothing that we know of."""

_PROPERTIES: Final = (
    "Id,LoadState,ActiveState,SubState,UnitFileState,Result,NeedDaemonReload,ExecMainStatus,Environment"
)
_DIAL_TIMEOUT = 0.2
_SYSTEMCTL_TIMEOUT = 5.0


class CouldNotLook(Exception):
    """A fact that is not to be had, which is neither good nor bad; the text says why."""


@dataclass(frozen=True, slots=True)
class ListenerSeen:
    """A listener daemon that lives.

    Attributes:
        state: By proc(5): ``S (sleeping)``, ``T (stopped)``; empty if it could not be read.
        argv: Its command line.
    """

    pid: int
    state: str = ""
    argv: tuple[str, ...] = ()

    @property
    def is_stopped(self) -> bool:
        """Whether SIGSTOP or a debugger holds it."""
        return self.state.startswith(("T", "t"))


@dataclass(frozen=True, slots=True)
class _Failed:
    reason: str


_UNDER_WAY: Final = object()


def probe(look: Callable[Concatenate[Facts, P], T]) -> Callable[Concatenate[Facts, P], T]:
    """Remember what was seen, or that it could not be; arguments have to be hashable."""

    @wraps(look)
    def remembered(self: Facts, /, *args: P.args, **kwargs: P.kwargs) -> T:
        key = (look.__name__, *args)
        known = self.seen.get(key)
        if known is _UNDER_WAY:
            raise CouldNotLook("another check still waits for this")
        if isinstance(known, _Failed):
            raise CouldNotLook(known.reason)
        if key in self.seen:
            return known  # type: ignore[return-value]  # what `look` returned for this key
        self.seen[key] = _UNDER_WAY
        try:
            found = look(self, *args, **kwargs)
        except (CouldNotLook, StorageError) as error:
            self.seen[key] = _Failed(str(error))
            raise CouldNotLook(str(error)) from error
        except BaseException as error:
            self.seen[key] = _Failed(f"this could not be found out ({type(error).__name__})")
            raise
        self.seen[key] = found
        return found

    return remembered


class Facts:
    """See the module.

    Args:
        system: The door to the machine; only asked, never told to change anything.
        bus: The door to the bus.
        layout: Where this user's installation is.
        settings: Of each agent that is looked at.
        python: Version of the interpreter that runs us.
        fingerprint: Of the code that is installed now.
    """

    def __init__(
        self,
        system: System,
        bus: Bus,
        *,
        layout: Layout,
        settings: Mapping[str, Settings],
        python: tuple[int, ...] = sys.version_info[:3],
        fingerprint: Callable[[], str] = installed_fingerprint,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.system = system
        self.bus = bus
        self.layout = layout
        self.settings = settings
        self.python = python
        self.version = __version__
        self.now = clock
        self.seen: dict[tuple[object, ...], object] = {}
        self._fingerprint = fingerprint

    # agents and brokers

    @property
    def agents(self) -> list[str]:
        """The ids."""
        return list(self.settings)

    def brokers(self) -> list[str]:
        """The brokers of these agents, each once; as whom we connect counts."""
        return list(dict.fromkeys(self.broker_of(agent) for agent in self.settings))

    def broker_of(self, agent: str) -> str:
        """Name of an agent's broker: ``localhost:1883``, ``planner@hub:8883``."""
        own = self.settings[agent]
        return f"{f'{own.username}@' if own.username else ''}{own.broker}:{own.port}"

    def agents_at(self, broker: str) -> list[str]:
        """Those whose broker this is."""
        return [agent for agent in self.settings if self.broker_of(agent) == broker]

    def settings_at(self, broker: str) -> Settings:
        """Of any agent whose broker this is: how to connect is the same for them all."""
        return self.settings[self.agents_at(broker)[0]]

    def is_here(self, host: str) -> bool:
        """Whether an address is this machine, by its text alone."""
        name = host.strip("[]").lower()
        own = self.system.hostname.lower()
        if name in ("localhost", own, own.partition(".")[0]):
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

    @probe
    def spec(self) -> InstallSpec | None:
        """What `swarmbus init` was asked for; None if it never was."""
        return load_kept(self.system, self.layout.provision)

    @probe
    def fingerprint(self) -> str:
        """Of the code that is installed now."""
        return self._fingerprint()

    # files

    @probe
    def stat(self, path: Path) -> FileStat | None:
        """What lies there; None if nothing does."""
        return self.system.stat(path)

    @probe
    def may(self, what: Literal["-r", "-w", "-x"], path: Path) -> bool:
        """Whether this user may read, write or execute it: test(1) asks the kernel, and touches nothing."""
        result = self.system.run(["test", what, str(path)], timeout=5.0)
        if result.status not in (0, 1):
            raise CouldNotLook(f"test {what} {path}: {result.stderr.strip() or result.status}")
        return result.ok

    @probe
    def program(self, name: str, path: str) -> Path | None:
        """Where an executable is, along a PATH."""
        return self.system.which(name, path)

    # systemd

    @probe
    def has_systemd(self) -> bool:
        """Whether systemd is process 1 (sd_booted(3))."""
        return self.system.stat(Path("/run/systemd/system")) is not None

    @probe
    def units(self) -> Mapping[str, Mapping[str, str]]:
        """Properties of all units of ours, by one process; exit statuses of systemctl say nothing."""
        if not self.has_systemd():
            raise CouldNotLook("systemd does not run here")
        return self._show("user", *(agent_unit(agent) for agent in self.settings), BROKER_UNIT)

    @probe
    def mosquitto_unit(self) -> Mapping[str, str]:
        """Properties of the system's broker."""
        if not self.has_systemd():
            raise CouldNotLook("systemd does not run here")
        return self._show("system", "mosquitto.service")["mosquitto.service"]

    def unit(self, agent: str) -> Mapping[str, str]:
        """Properties of one agent's unit; not found is ``LoadState=not-found``."""
        return self.units()[agent_unit(agent)]

    @probe
    def unit_path(self, agent: str) -> str:
        """PATH of the programs that an agent's listener daemon starts."""
        if self.supervision(agent) == "systemd-user":
            own = _assignments(self.unit(agent).get("Environment", ""))
            if "PATH" in own:
                return own["PATH"]
            shown = systemctl(self.system, "user", "show-environment", timeout=_SYSTEMCTL_TIMEOUT)
            if (path := _assignments(shown.stdout).get("PATH")) is not None:
                return path
            raise CouldNotLook("the user's systemd does not say its PATH")
        listener = self.listener(agent)
        if listener is None:
            return self.system.environ.get("PATH", "")
        data = self.system.read(Path(f"/proc/{listener.pid}/environ")) or b""
        return _pairs(data.decode(errors="replace").split("\0")).get("PATH", "")

    @probe
    def supervision(self, agent: str) -> Supervision:
        """What keeps an agent's listener daemon running, by what `swarmbus init` left."""
        if self.has_systemd() and self.system.stat(self.layout.units / agent_unit(agent)) is not None:
            return "systemd-user"
        if self.system.stat(self.layout.processes / f"{agent_process(agent)}.json") is not None:
            return "processes"
        spec = self.spec()
        if spec is not None and agent in [one.id for one in spec.agents]:
            return "systemd-user" if spec.chosen.get("supervisor") == "systemd-user" else "processes"
        return "none"

    @probe
    def broker_supervision(self) -> BrokerSupervision:
        """What keeps the broker of this machine running, as far as we know of it."""
        if self.system.stat(self.layout.processes / f"{BROKER}.json") is not None:
            return "process"
        if self.has_systemd():
            if self.system.stat(self.layout.units / BROKER_UNIT) is not None:
                return "swarmbus-broker.service"
            if self.mosquitto_unit().get("LoadState") == "loaded":
                return "mosquitto.service"
        return "none"

    @probe
    def broker_process(self) -> int | None:
        """The pid of the broker that runs as a background process of ours; None if it does not."""
        found = Process(group="", name=BROKER, argv=(), folder=self.layout.processes).running(self.system)
        return found.pid if found else None

    # the bus

    @probe
    def visit(self, broker: str) -> Visit:
        """One connection to it."""
        return self.bus.visit(self.settings_at(broker), self.agents_at(broker))

    @probe
    def accepts(self, broker: str) -> bool:
        """Whether anything accepts connections there, be it a broker or not."""
        own = self.settings_at(broker)
        return self.system.dial(own.broker, own.port, b"", _DIAL_TIMEOUT) is not None

    @probe
    def listener(self, agent: str) -> ListenerSeen | None:
        """The listener daemon that holds the agent's lock; None if none does."""
        pid = _listener_pid(self.system, self.layout, agent)
        process = None if pid is None else self.system.process(pid)
        if pid is None or process is None:
            return None
        return ListenerSeen(pid, self._process_state(pid), process.argv)

    @probe
    def answer(self, agent: str) -> Mapping[str, Any] | None:
        """What its listener daemon says of itself; None if nobody answers on its socket."""
        try:
            return self.bus.status(agent)
        except TimedOut:
            return None

    def status(self, agent: str) -> Mapping[str, Any]:
        """The same, for checks that cannot do without."""
        if (answer := self.answer(agent)) is None:
            raise CouldNotLook("the listener does not answer on its control socket")
        return answer

    def canary(self, agent: str) -> CanaryResult:
        """What became of one; those of all agents with a listener daemon fly at once."""
        return self._canaries()[agent]

    @probe
    def _canaries(self) -> Mapping[str, CanaryResult]:
        alive = {agent: own for agent, own in self.settings.items() if self.listener(agent) is not None}
        return self.bus.canaries(alive)

    @probe
    def mailbox(self, agent: str) -> MailboxSeen:
        """What its mailbox holds that should not be there."""
        try:
            return self.bus.mailbox(self.layout.agent_dir(agent) / "mailbox.db")
        except OSError as error:
            raise CouldNotLook(str(error)) from error

    def word(self, agent: str, name: Literal["inbox", "outbox", "invoke"]) -> str | None:
        """A setting as the listener daemon has it, or as it would have it after its next start."""
        answer = self.answer(agent)
        if answer is not None and name in answer:
            value = answer[name]
            return None if value is None else str(value)
        own = self.settings[agent]
        if name == "inbox":
            return str(own.inbox_path)
        if name == "outbox":
            return str(own.outbox_path) if own.outbox_path else None
        return own.invoke

    def _show(self, manager: Manager, *names: str) -> dict[str, dict[str, str]]:
        result = systemctl(
            self.system, manager, "show", "--property", _PROPERTIES, "--", *names, timeout=_SYSTEMCTL_TIMEOUT
        )
        blocks = (_pairs(block.splitlines()) for block in result.stdout.split("\n\n"))
        shown = {block["Id"]: block for block in blocks if "Id" in block}
        if set(names) - set(shown):
            said = result.stderr.strip().splitlines() or ["no answer"]
            raise CouldNotLook(
                "there is no systemctl" if result.status == NOT_FOUND else f"systemctl: {said[-1]}"
            )
        return shown

    def _process_state(self, pid: int) -> str:
        status = (self.system.read(Path(f"/proc/{pid}/status")) or b"").decode(errors="replace")
        states = (line.partition(":")[2].strip() for line in status.splitlines() if line.startswith("State:"))
        return next(states, "")


def known_agents(system: System, layout: Layout) -> list[str]:
    """The agents that are set up on this host or run on it: by kept spec, units, records and live listeners.

    An agent that only has a mailbox has only ever sent, or read: nothing of it has to run.
    """
    spec = load_kept(system, layout.provision)
    found = [agent.id for agent in spec.agents] if spec else []
    for name in system.list(layout.units):
        if name.startswith("swarmbus-") and name.endswith(".service") and name != BROKER_UNIT:
            found.append(name.removeprefix("swarmbus-").removesuffix(".service"))
    prefix = agent_process("")
    for name in system.list(layout.processes):
        if name.startswith(prefix) and name.endswith(".json"):
            found.append(name.removeprefix(prefix).removesuffix(".json"))
    found += [name for name in system.list(layout.state) if _listener_pid(system, layout, name) is not None]
    return list(dict.fromkeys(found))


def _assignments(text: str) -> dict[str, str]:
    """``A=b "C=d e"`` as ``systemctl show`` prints Environment, or a line each as show-environment does."""
    try:
        words = shlex.split(text)
    except ValueError:
        return {}
    return _pairs(words)


def _pairs(lines: Iterable[str]) -> dict[str, str]:
    """``NAME=value`` as a mapping; lines without a sign are passed over."""
    return {name: value for name, sign, value in (line.partition("=") for line in lines) if sign}


def _listener_pid(system: System, layout: Layout, agent: str) -> int | None:
    """Of the daemon that holds an agent's lock; None if nobody or only a reader does."""
    held = system.lock_holder(layout.agent_dir(agent) / "listener.lock")
    try:
        said = json.loads(held or b"null")
        return int(said["pid"]) if said["role"] == "listener" else None
    except (ValueError, TypeError, KeyError):
        return None
