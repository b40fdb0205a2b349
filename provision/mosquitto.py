"""mosquitto: what its configuration on this host says, and what ours has to add to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from swarmbus.errors import CannotRun
from swarmbus.provision.system import System

MAIN_CONFIG = Path("/etc/mosquitto/mosquitto.conf")
CONF_D = Path("/etc/mosquitto/conf.d")
OUR_FILE = CONF_D / "50-swarmbus.conf"
PACKAGE = "mosquitto"
UNIT = "mosquitto.service"
PROGRAM = Path("/usr/sbin/mosquitto")

SETTINGS = {
    "autosave_on_changes": "true",
    "autosave_interval": "100",
    "max_queued_messages": "100000",
    "persistent_client_expiration": "2m",
}
"""What ours says where nobody else does.

A message is kept by its sender until the receiver's receipt, so none of this is what delivery rests on;
it is for older peers, and for presence. Saving on every hundredth change bounds what a killed broker
forgets, without the time-based autosave's writes on an idle SD card; an interval of 1 would bound it at
one message and fall to 69 messages a second at a backlog of 10,000. ``2m`` is two months.
"""

_AUTOSAVE = frozenset({"autosave_on_changes", "autosave_interval"})
_LOOPBACK = frozenset({"localhost", "::1"})


@dataclass(frozen=True, slots=True)
class Line:
    """One option, and where it stands."""

    path: Path
    number: int
    option: str
    value: str


@dataclass(frozen=True, slots=True)
class Listener:
    """Where the broker listens.

    Attributes:
        port: 0 for a Unix socket, whose path is then ``address``.
        address: None means every address.
        interface: Name of the network interface it is bound to; None if to none.
    """

    port: int
    address: str | None
    interface: str | None = None

    @property
    def loopback(self) -> bool:
        """Whether no other machine can reach it."""
        if self.port == 0 or self.interface == "lo":
            return True
        address = self.address or ""
        return address in _LOOPBACK or address.startswith("127.")

    @property
    def covers_loopback(self) -> bool:
        """Whether ``127.0.0.1`` reaches it; another listener there would find the port taken."""
        if self.interface is not None:
            return self.interface == "lo"
        return self.address in (None, "0.0.0.0", "::") or self.loopback  # noqa: S104  # read, not bound


@dataclass(frozen=True)
class Configuration:
    """Every option in the order in which mosquitto reads them.

    Attributes:
        unreadable: Files that we may not read; what they say is unknown.
        folders: What ``include_dir`` names.
    """

    lines: tuple[Line, ...] = ()
    unreadable: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()

    def value(self, option: str) -> str | None:
        """The value in force: the last; None if it is not there."""
        return next((line.value for line in reversed(self.lines) if line.option == option), None)

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """Those that are written out; none means the default ones, port 1883 on loopback."""
        found: list[Listener] = []
        for line in self.lines:
            words = line.value.split(None, 1)
            if line.option == "listener" and words and words[0].isdigit():
                found.append(Listener(int(words[0]), words[1] if len(words) > 1 else None))
            elif line.option == "port" and line.value.isdigit():
                # of 1.x: it configures the default listener, which then listens on every address
                found.append(Listener(int(line.value), self.value("bind_address")))
            elif line.option == "bind_interface" and found:
                found[-1] = Listener(found[-1].port, found[-1].address, line.value)
        return tuple(found)

    def serves_loopback(self, port: int) -> bool:
        """Whether a client on this machine can reach a listener on that port by ``localhost``."""
        return any(listener.port == port and listener.covers_loopback for listener in self.listeners)

    def without(self, path: Path) -> Configuration:
        """As if that file were not there."""
        rest = tuple(line for line in self.lines if line.path != path)
        return Configuration(rest, self.unreadable, self.folders)


def load(system: System, main: Path = MAIN_CONFIG) -> Configuration:
    """Read the configuration with what it includes, as mosquitto's own reader does (src/conf.c)."""
    lines: list[Line] = []
    unreadable: list[Path] = []
    folders: list[Path] = []

    def read(path: Path, *, top: bool) -> None:
        try:
            data = system.read(path)
        except CannotRun:
            unreadable.append(path)
            return
        for line in parse(path, (data or b"").decode(errors="replace")):
            if line.option != "include_dir":
                lines.append(line)
            elif top:  # "This option will only be processed from the main configuration file."
                folder = Path(line.value)
                folders.append(folder)
                for name in sorted(system.list(folder), key=load_order):
                    if name.endswith(".conf"):
                        read(folder / name, top=False)

    read(main, top=True)
    return Configuration(tuple(lines), tuple(unreadable), tuple(folders))


def parse(path: Path, text: str) -> Iterator[Line]:
    """The options of one file. A ``#`` that is not the first character of its line belongs to a value."""
    for number, raw in enumerate(text.splitlines(), 1):
        if raw.startswith("#"):
            continue
        option, _, value = raw.strip(" \t\r").partition(" ")
        if option:
            yield Line(path, number, option, value.strip(" \t"))


def load_order(name: str) -> list[tuple[str, str]]:
    """Sort key: "the upper case of each letter ordered before the lower case" (mosquitto.conf(5))."""
    return [(character.upper(), character) for character in name]


@dataclass(frozen=True)
class Additions:
    """What our file says.

    Attributes:
        ports: On which a loopback listener is written out.
        allow_anonymous: Whether that line is needed.
        settings: Of `SETTINGS`, those that nobody else has an opinion on.
    """

    ports: tuple[int, ...]
    allow_anonymous: bool
    settings: tuple[tuple[str, str], ...]


def additions(others: Configuration, port: int) -> Additions:
    """What is missing for the bus, given everything that is not ours.

    With no listener at all, mosquitto listens on loopback, port 1883, without passwords. The first line
    ``listener`` switches that off, so when ours is the first, it writes the default out as well.
    """
    listeners = others.listeners
    ports: tuple[int, ...] = ()
    if not listeners:
        ports = tuple(dict.fromkeys((1883, port)))
    elif not others.serves_loopback(port):
        ports = (port,)
    closed = all(listener.loopback for listener in listeners)
    said = {line.option for line in others.lines}
    anonymous = bool(ports) and closed and "allow_anonymous" not in said
    if said & _AUTOSAVE:
        said |= _AUTOSAVE
    settings = tuple((option, value) for option, value in SETTINGS.items() if option not in said)
    return Additions(ports, anonymous, settings)


def with_ours(others: Configuration, ours: tuple[Line, ...]) -> Configuration:
    """As mosquitto will read it once our file is there."""
    rank = load_order(OUR_FILE.name)
    index = len(others.lines)
    for position, line in enumerate(others.lines):
        if line.path.parent == CONF_D:
            if load_order(line.path.name) > rank:
                index = position
                break
            index = position + 1
    return Configuration((*others.lines[:index], *ours, *others.lines[index:]), (), others.folders)
