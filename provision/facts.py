"""Facts: what checks know. Each is looked for once, when it is first asked for, and nothing is changed."""

from __future__ import annotations

import ipaddress
import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from swarmbus.config import Settings
from swarmbus.errors import ConfigError, TimedOut
from swarmbus.fingerprint import installed_fingerprint
from swarmbus.provision.bus import Bus, Visit
from swarmbus.provision.canary import CanaryResult
from swarmbus.provision.health_state import TIMER, HealthSeen, load_health
from swarmbus.provision.layout import Layout
from swarmbus.provision.listener_lock import listener_pid
from swarmbus.provision.mailbox_look import MailboxSeen
from swarmbus.provision.manifest import Entry, Manifest
from swarmbus.provision.old_tool import OldInstallation, recognise
from swarmbus.provision.resources.package import dpkg_status, dpkg_version
from swarmbus.provision.resources.process import Process
from swarmbus.provision.resources.unit import systemctl
from swarmbus.provision.sources.files import Files
from swarmbus.provision.sources.journal import Journal
from swarmbus.provision.sources.local_broker import LocalBroker
from swarmbus.provision.sources.memo import CouldNotLook, probe
from swarmbus.provision.sources.processes import Processes
from swarmbus.provision.sources.pythons import Pythons
from swarmbus.provision.sources.sockets import Sockets, address
from swarmbus.provision.sources.sys_topics import SysTopics
from swarmbus.provision.sources.tailscale import Tailscale
from swarmbus.provision.sources.units import TIMEOUT, assignments, show
from swarmbus.provision.spec import InstallSpec, load_kept
from swarmbus.provision.supervisors.launchd import agent_label
from swarmbus.provision.supervisors.processes import BROKER, agent_process
from swarmbus.provision.supervisors.units import (
    BROKER_UNIT,
    AgentUnit,
    agent_unit,
    find_unit,
)
from swarmbus.provision.system import FileStat, System
from swarmbus.provision.tls_look import CertificateSeen
from swarmbus.version import __version__

__all__ = ["CouldNotLook", "Facts", "ListenerSeen"]

Supervision = Literal["systemd-user", "systemd-system", "launchd", "processes", "none"]
"""``none``: started by hand, or not at all."""

BrokerSupervision = Literal["mosquitto.service", "swarmbus-broker.service", "process", "none"]
"""``process``: a background process of ours. ``none``: nothing that we know of."""

_DIAL_TIMEOUT = 0.2


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


class Facts:
    """See the module.

    Args:
        system: The door to the machine; only asked, never told to change anything.
        bus: The door to the bus.
        layout: Where this user's installation is.
        settings: Of each agent that is looked at.
        python: Version of the interpreter that runs us.
        fingerprint: Of the code that is installed now.
        interpreter: Path of the interpreter that runs us; in an environment the link is what makes it one.
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
        interpreter: str = sys.executable,
    ) -> None:
        self.system = system
        self.files = Files(system)
        self.processes = Processes(system)
        self.sockets = Sockets(system)
        self.journal = Journal(system)
        self.pythons = Pythons(system, self.files)
        self.tailscale = Tailscale(system)
        self.interpreter = Path(interpreter)
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

    @probe
    def manifest(self) -> Manifest:
        """What is ours on this host, and how we left it."""
        return Manifest.load(self.system, self.layout.provision)

    def changed_since(self, entry: Entry) -> bool:
        """Whether a file of ours has another content than we left it with; one that is gone has none."""
        seen = entry.resource().read(self.system)
        return bool(seen.get("present")) and seen.get("sha256") != entry.state.get("sha256")

    @probe
    def old_tool(self) -> OldInstallation:
        """What swarmbus-py has left on this host."""
        return recognise(self.system, self.layout)

    # files

    def stat(self, path: Path) -> FileStat | None:
        """What lies there; None if nothing does."""
        return self.files.stat(path)

    def may(self, what: Literal["-r", "-w", "-x"], path: Path) -> bool:
        """Whether this user may read, write or execute it."""
        return self.files.may(what, path)

    @probe
    def program(self, name: str, path: str) -> Path | None:
        """Where an executable is, along a PATH."""
        return self.system.which(name, path)

    @probe
    def health(self) -> HealthSeen | None:
        """What the last look at health has left; None if there was none."""
        return load_health(self.system, self.layout)

    @probe
    def uptime(self) -> float:
        """Seconds since this host was started, asleep or not (proc_uptime(5)); where unknown, for ever."""
        words = (self.system.read(Path("/proc/uptime")) or b"").split()
        return float(words[0]) if words else float("inf")

    # systemd

    @probe
    def has_systemd(self) -> bool:
        """Whether systemd is process 1 (sd_booted(3))."""
        return self.system.stat(Path("/run/systemd/system")) is not None

    @probe
    def units(self) -> Mapping[str, Mapping[str, str]]:
        """Properties of all units of ours, by one process."""
        if not self.has_systemd():
            raise CouldNotLook("systemd does not run here")
        units = [self.unit_of(agent) for agent in self.settings]
        of_user = [unit.name for unit in units if unit.manager == "user"]
        of_system = [unit.name for unit in units if unit.manager == "system"]
        shown = show(self.system, "system", *of_system) if of_system else {}
        return {**shown, **(show(self.system, "user", *of_user, BROKER_UNIT, TIMER) if of_user else {})}

    @probe
    def mosquitto_unit(self) -> Mapping[str, str]:
        """Properties of the system's broker."""
        if not self.has_systemd():
            raise CouldNotLook("systemd does not run here")
        return show(self.system, "system", "mosquitto.service")["mosquitto.service"]

    @probe
    def unit_of(self, agent: str) -> AgentUnit:
        """Name of an agent's unit, and whose systemd has it, or would have it if there were one."""
        of_system = self.supervision(agent) == "systemd-system"
        return AgentUnit(agent_unit(agent), "system" if of_system else "user")

    def unit(self, agent: str) -> Mapping[str, str]:
        """Properties of one agent's unit; not found is ``LoadState=not-found``."""
        return self.units()[agent_unit(agent)]

    @probe
    def unit_path(self, agent: str) -> str:
        """PATH of the programs that an agent's listener daemon starts."""
        if self.supervision(agent) in ("systemd-user", "systemd-system"):
            own = assignments(self.unit(agent).get("Environment", ""))
            if "PATH" in own:
                return own["PATH"]
            manager = self.unit_of(agent).manager
            shown = systemctl(self.system, manager, "show-environment", timeout=TIMEOUT)
            if (path := assignments(shown.stdout).get("PATH")) is not None:
                return path
            raise CouldNotLook("systemd does not say its PATH")
        listener = self.listener(agent)
        if listener is None:
            return self.system.environ.get("PATH", "")
        return self.processes.environment(listener.pid).get("PATH", "")

    def program_of(self, agent: str) -> Path | None:
        """The program that an agent's listener daemon is, as it is started; None if nothing starts it."""
        match self.supervision(agent):
            case way if way.startswith("systemd"):
                # { path=/home/pi/venv/bin/python ; argv[]=… ; ignore_errors=no ; … }
                found = re.match(r"\{ path=(.*?) ; argv", self.unit(agent).get("ExecStart", ""))
                return Path(found[1]) if found else None
            case "processes":
                record = self.files.text(self.layout.processes / f"{agent_process(agent)}.json")
                argv = json.loads(record or "{}").get("argv")
                return Path(argv[0]) if argv else None
            case _:
                listener = self.listener(agent)
                absolute = listener is not None and listener.argv[:1] and listener.argv[0].startswith("/")
                return Path(listener.argv[0]) if listener is not None and absolute else None

    @probe
    def supervision(self, agent: str) -> Supervision:
        """What keeps an agent's listener daemon running, by what `swarmbus init` left."""
        if self.has_systemd() and (unit := find_unit(self.system, self.layout, agent)) is not None:
            return "systemd-user" if unit.manager == "user" else "systemd-system"
        if self.system.stat(self.layout.launch_agents / f"{agent_label(agent)}.plist") is not None:
            return "launchd"
        if self.system.stat(self.layout.processes / f"{agent_process(agent)}.json") is not None:
            return "processes"
        spec = self.spec()
        if spec is not None and agent in [one.id for one in spec.agents]:
            chosen = spec.chosen.get("supervisor")
            return chosen if chosen in ("systemd-user", "systemd-system", "launchd") else "processes"  # type: ignore[return-value]
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

    # the broker of this machine

    @probe
    def local_broker(self) -> LocalBroker:
        """The broker that these agents use, where it is a mosquitto of this machine that we know of."""
        if not any(self.serves_here(broker) for broker in self.brokers()):
            raise CouldNotLook("the broker is another machine's")
        kept = self.broker_supervision()
        if kept == "none":
            raise CouldNotLook("no mosquitto that we know of is set up here")
        return LocalBroker(self.system, self.files, self.journal, self.layout, kept)

    @probe
    def dpkg(self, package: str) -> str | None:
        """Version of an installed package of the distribution; None if it is not installed."""
        installed = dpkg_status(self.system, package) == "installed"
        return dpkg_version(self.system, package) if installed else None

    def serves_here(self, broker: str) -> bool:
        """Whether the address of a broker is one of this machine's."""
        host = self.settings_at(broker).broker
        if self.is_here(host):
            return True
        return (literal := address(host)) is not None and literal in self.sockets.addresses()

    @probe
    def broker_pid(self) -> int | None:
        """The process of the broker of this machine; None if it does not run."""
        broker = self.local_broker()
        if broker.kept == "process":
            return self.broker_process()
        unit = self.broker_unit()
        pid = int(unit.get("MainPID") or 0)
        return pid or None

    def broker_unit(self) -> Mapping[str, str]:
        """Properties of the unit of the broker of this machine."""
        match self.local_broker().kept:
            case "process":
                raise CouldNotLook("the broker is a background process, and has no unit")
            case "mosquitto.service":
                return self.mosquitto_unit()
            case name:
                if (unit := self.units().get(name)) is None:
                    raise CouldNotLook("the user's systemd was not asked")
                return unit

    def sys_topics(self, broker: str) -> SysTopics:
        """What a broker tells of itself."""
        visit = self.visit(broker)
        if visit.error is not None:
            raise CouldNotLook("there is no connection to it")
        return SysTopics(visit.sys)

    @probe
    def certificate(self, broker: str) -> CertificateSeen | None:
        """The certificate of a broker; None if none can be seen."""
        try:
            return self.bus.certificate(self.settings_at(broker))
        except ConfigError as error:
            raise CouldNotLook(error.message) from error

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
        pid = listener_pid(self.system, self.layout, agent)
        process = None if pid is None else self.system.process(pid)
        if pid is None or process is None:
            return None
        return ListenerSeen(pid, self.processes.state(pid), process.argv)

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
    def rehearsal(self, agent: str) -> Mapping[str, Any]:
        """How a wake that its listener daemon rehearsed went.

        Raises:
            TimedOut: If it did not end.
            UsageError: If the daemon cannot do that.
        """
        came = self.bus.rehearse(agent)
        if came is None:
            raise CouldNotLook("the listener does not answer on its control socket")
        return came

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
