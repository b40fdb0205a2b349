"""Host: what is the case on this machine, gathered once and changing nothing."""

from __future__ import annotations

import contextlib
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import distro
import psutil

from swarmbus import control
from swarmbus.errors import SwarmbusError
from swarmbus.fingerprint import installed_fingerprint
from swarmbus.provision import mosquitto
from swarmbus.provision.resources.launchd_agent import LAUNCHCTL
from swarmbus.provision.resources.package import dpkg_status, dpkg_version, has_apt_lists
from swarmbus.provision.resources.unit import SYSTEM_UNITS, UnitSeen, show_units
from swarmbus.provision.supervisors.units import agents_of_others
from swarmbus.provision.system import RootAccess, System, User

# MQTT 3.1.1 CONNECT, clean session, keep alive 10 s, client id of zero length (3.1.3.1: allowed with a
# clean session); every broker that we know answers it, those that want a password with a refusal.
_CONNECT = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x0a\x00\x00"
_DISCONNECT = b"\xe0\x00"

Init = Literal["systemd", "launchd", "none"]
Answer = Literal["mqtt", "mqtt-refuses", "other", "nothing"]


@dataclass(frozen=True)
class Distribution:
    """Of Linux.

    Attributes:
        id: ``debian``, ``ubuntu``, ``raspbian``; empty if unknown.
        version: ``12``.
        like: Ids of those that it derives from.
    """

    id: str = ""
    version: str = ""
    codename: str = ""
    like: tuple[str, ...] = ()


@dataclass(frozen=True)
class PortFacts:
    """What is on the broker's port of this machine.

    Attributes:
        answers: ``mqtt``; ``mqtt-refuses``: without credentials; ``other``: no MQTT; ``nothing``.
        program: With ``other``, the program that listens there; None if it is hidden from us.
    """

    port: int
    answers: Answer = "nothing"
    program: str | None = None


@dataclass(frozen=True)
class MosquittoFacts:
    """Debian's mosquitto on this machine.

    Attributes:
        version: Of the package; None if it is not installed.
        program: The executable; None if there is none.
        unit: Its system service.
        configuration: Everything that it reads, what we wrote included.
    """

    version: str | None = None
    program: Path | None = None
    unit: UnitSeen = field(default_factory=UnitSeen)
    configuration: mosquitto.Configuration = field(default_factory=mosquitto.Configuration)

    @property
    def loaded(self) -> bool:
        """Whether systemd knows its service."""
        return self.unit.load == "loaded"

    def serves(self, port: int) -> bool:
        """Whether the running service has a TCP listener on that port, by its configuration."""
        listeners = self.configuration.listeners
        ports = {listener.port for listener in listeners} or {1883}
        return self.unit.running and port in ports

    @property
    def reads_conf_d(self) -> bool:
        """Whether a file of ours in conf.d would be read."""
        return mosquitto.CONF_D in self.configuration.folders and not self.configuration.unreadable


@dataclass(frozen=True)
class Host:
    """The facts.

    Attributes:
        architecture: As dpkg calls it: ``amd64``, ``arm64``.
        multiarch: Folder of libraries, such as ``x86_64-linux-gnu``; None if not found.
        init: ``systemd`` if it is process 1, however many systemctls are installed; ``launchd`` on macOS.
        systemd: Its major version; None if it is not there, or does not say.
        user_manager: Whether ``systemctl --user`` would be answered now.
        root: How to become root; ``unasked`` where nothing on this host could need it.
        apt: Whether there is apt-get, and ``apt_lists`` whether it knows packages to install.
        container: What kind, if it is one; None if not.
        python: The interpreter that runs us, for units.
        taken: Agent ids that other users of this host have among the units of the system.
    """

    hostname: str
    user: User
    distribution: Distribution = field(default_factory=Distribution)
    architecture: str = "amd64"
    multiarch: str | None = "x86_64-linux-gnu"
    init: Init = "systemd"
    systemd: int | None = None
    user_manager: bool = True
    linger: bool = False
    root: RootAccess | Literal["unasked"] = "sudo"
    apt: bool = True
    apt_lists: bool = True
    container: str | None = None
    python: str = "/usr/bin/python3"
    mosquitto: MosquittoFacts = field(default_factory=MosquittoFacts)
    port: PortFacts = field(default_factory=lambda: PortFacts(1883))
    taken: frozenset[str] = frozenset()

    @property
    def can_become_root(self) -> bool:
        """Whether a step that needs root has a chance."""
        return self.root != "none"


class Inspector(Protocol):
    """The facts that come through psutil and distro and not through `System`."""

    def distribution(self) -> Distribution:
        """Which Linux this is."""
        ...

    def program_on_port(self, port: int) -> str | None:
        """Name of the program that listens on a TCP port; None if nobody does or it is hidden from us."""
        ...

    @property
    def python(self) -> str:
        """Absolute path of the interpreter that runs us."""
        ...

    @property
    def machine(self) -> str:
        """What ``uname -m`` says."""
        ...

    def runs_old_code(self, agent_id: str) -> bool:
        """Whether the agent's listener daemon runs, with other code than is installed."""
        ...


class LocalInspector:
    """`Inspector` for this machine."""

    def distribution(self) -> Distribution:
        """From os-release alone: asking lsb_release would start a process."""
        found = distro.LinuxDistribution(include_lsb=False, include_uname=False)
        return Distribution(found.id(), found.version(), found.codename(), tuple(found.like().split()))

    def program_on_port(self, port: int) -> str | None:
        """By the kernel's table of sockets; root sees all, a user only his own."""
        with contextlib.suppress(psutil.Error, OSError):
            for connection in psutil.net_connections("tcp"):
                listening = connection.status == psutil.CONN_LISTEN
                if listening and connection.laddr[1:2] == (port,) and connection.pid:
                    return str(psutil.Process(connection.pid).name())
        return None

    @property
    def python(self) -> str:
        """Not resolved: in a venv the link is what makes it one."""
        return sys.executable

    @property
    def machine(self) -> str:
        """For the architecture."""
        return platform.machine()

    def runs_old_code(self, agent_id: str) -> bool:
        """By what it says on its control socket; one that does not answer is the doctor's to find."""
        try:
            status = control.request(agent_id, {"op": "status"}, timeout=2.0)
        except (control.NoListener, SwarmbusError):
            return False
        return bool(status["fingerprint"] != installed_fingerprint())


def gather(
    system: System, *, port: int, broker_settled: bool = False, inspector: Inspector | None = None
) -> Host:
    """Look at the machine.

    Args:
        port: Of the broker, should that be this machine.
        broker_settled: Whether the broker is one that is the user's own, or another machine's.
    """
    look = inspector or LocalInspector()
    init = _init(system)
    linger = system.stat(Path("/var/lib/systemd/linger") / system.user.name) is not None
    facts = _mosquitto(system, init)
    # Asking sudo leaves a line in the log of the system, so it is done only where root may be needed.
    broker_settled = broker_settled or system.stat(mosquitto.OUR_FILE) is not None
    settled = broker_settled and (linger or init != "systemd" or _has_system_units(system))
    return Host(
        hostname=system.hostname,
        user=system.user,
        distribution=look.distribution(),
        architecture=_ARCHITECTURES.get(look.machine, look.machine),
        multiarch=_multiarch(system),
        init=init,
        systemd=_systemd_version(system) if init == "systemd" else None,
        user_manager=init == "systemd" and _user_manager(system),
        linger=linger,
        root="unasked" if settled else system.root_access(),
        apt=system.which("apt-get") is not None,
        apt_lists=has_apt_lists(system),
        container=_container(system),
        python=look.python,
        mosquitto=facts,
        port=_port(system, look, port),
        taken=agents_of_others(system),
    )


_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "armhf", "armv6l": "armhf", "i686": "i386"}


def _init(system: System) -> Init:
    if system.stat(Path("/run/systemd/system")) is not None:  # sd_booted(3)
        return "systemd"
    return "launchd" if system.stat(LAUNCHCTL) is not None else "none"


def _systemd_version(system: System) -> int | None:
    """By dpkg's record, which is read anyway; elsewhere systemctl has to be asked."""
    told = dpkg_version(system, "systemd") or system.run(["systemctl", "--version"], timeout=5.0).stdout
    found = re.match(r"(?:systemd )?(\d+)", told)
    return int(found[1]) if found else None


def _has_system_units(system: System) -> bool:
    """Whether our units are the system's, and no linger is needed."""
    return f"swarmbus-failed-{system.user.uid}@.service" in system.list(SYSTEM_UNITS)


def _mosquitto(system: System, init: str) -> MosquittoFacts:
    program = mosquitto.PROGRAM if system.stat(mosquitto.PROGRAM) else system.which("mosquitto")
    if dpkg_status(system, mosquitto.PACKAGE) != "installed":
        return MosquittoFacts(program=program)
    unit = UnitSeen()
    if init == "systemd":
        unit = show_units(system, "system", [mosquitto.UNIT]).get(mosquitto.UNIT, unit)
    version = dpkg_version(system, mosquitto.PACKAGE)
    return MosquittoFacts(version, program, unit, mosquitto.load(system))


def _port(system: System, look: Inspector, port: int) -> PortFacts:
    answer = system.dial("127.0.0.1", port, _CONNECT + _DISCONNECT)
    if answer is None:
        return PortFacts(port)
    # CONNACK: type 2, length 2, session present, return code (MQTT 3.1.1, 3.2)
    if re.match(rb"\x20\x02\x00\x00", answer):
        return PortFacts(port, "mqtt")
    if answer[:1] == b"\x20":
        return PortFacts(port, "mqtt-refuses")
    return PortFacts(port, "other", look.program_on_port(port))


def _user_manager(system: System) -> bool:
    runtime = system.environ.get("XDG_RUNTIME_DIR")
    if not runtime:
        return False
    sockets: Sequence[Path] = (Path(runtime) / "systemd/private", Path(runtime) / "bus")
    return any(system.stat(socket) is not None for socket in sockets)


def _container(system: System) -> str | None:
    if system.stat(Path("/run/.containerenv")) is not None:
        return "podman"
    if system.stat(Path("/.dockerenv")) is not None:
        return "docker"
    named = system.read(Path("/run/systemd/container"))  # systemd.io/CONTAINER_INTERFACE
    return named.decode(errors="replace").strip() if named else None


def _multiarch(system: System) -> str | None:
    library = Path("/usr/lib")
    return next(
        (
            name
            for name in system.list(library)
            if "-linux-gnu" in name and system.stat(library / name / "libc.so.6") is not None
        ),
        None,
    )
