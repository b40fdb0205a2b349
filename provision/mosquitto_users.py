"""Who else uses mosquitto on this host: what we installed goes only where nobody else does."""

from __future__ import annotations

import hashlib
import ipaddress
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from swarmbus.errors import StorageError
from swarmbus.provision import mosquitto
from swarmbus.provision.resources.package import conffile_digests, removed_with
from swarmbus.provision.system import System

_ESTABLISHED = "01"  # include/net/tcp_states.h
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))

Endpoint = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Client:
    """Somebody who is connected and is not of this installation.

    Attributes:
        port: Of the broker.
        who: For a sentence: "a program of user anna", "192.168.7.4".
    """

    port: int
    who: str


@dataclass(frozen=True, slots=True)
class _Socket:
    local: Endpoint
    remote: Endpoint
    uid: int
    inode: str


def reasons_to_stay(system: System, clients: Sequence[Client]) -> tuple[str, ...]:
    """Why the package is not only ours any more, each the end of a sentence; empty if it is.

    What others have set up, which packages need it, and who is connected at this moment: a client that is
    away, and uses a broker that nobody has configured for it, cannot be seen.
    """
    reasons = []
    for name in system.list(mosquitto.CONF_D):
        if name.endswith(".conf") and name != mosquitto.OUR_FILE.name:
            reasons.append(f"{mosquitto.CONF_D / name} is not ours")
    shipped = conffile_digests(system, mosquitto.PACKAGE).get(mosquitto.MAIN_CONFIG)
    if shipped is not None and shipped != _digest(system, mosquitto.MAIN_CONFIG):
        reasons.append(f"{mosquitto.MAIN_CONFIG} was changed")
    for name in sorted(removed_with(system, [mosquitto.PACKAGE]) or ()):
        reasons.append(f"the package {name} needs it")
    reasons += dict.fromkeys(f"{client.who} is connected" for client in clients)
    return tuple(reasons)


def ports_of(configuration: mosquitto.Configuration) -> frozenset[int]:
    """On which mosquitto listens; with no listener written out, it is the default one."""
    return frozenset(one.port for one in configuration.listeners if one.port) or frozenset({1883})


def foreign_clients(system: System, ports: Collection[int]) -> tuple[Client, ...]:
    """Who is connected to one of these ports of this host, and is no swarmbus of this user."""
    sockets = list(_established(system))
    by_end = {one.local: one for one in sockets}
    found: dict[Client, None] = {}
    for served in sockets:
        if served.local[1] not in ports:
            continue
        client = by_end.get(served.remote)
        if client is None:
            found[Client(served.local[1], served.remote[0])] = None
        elif client.uid != system.user.uid:
            found[Client(served.local[1], f"a program of {_name(system, client.uid)}")] = None
        elif (program := _program(system, client.inode)) is not None:
            found[Client(served.local[1], program)] = None
    return tuple(found)


def _established(system: System) -> Iterator[_Socket]:
    """The kernel's tables of TCP connections, proc_net_tcp(5): everybody may read them."""
    for table in _TABLES:
        for line in (system.read(table) or b"").decode().splitlines()[1:]:
            fields = line.split()
            if len(fields) > 9 and fields[3] == _ESTABLISHED:
                yield _Socket(_endpoint(fields[1]), _endpoint(fields[2]), int(fields[7]), fields[9])


def _endpoint(text: str) -> Endpoint:
    """``0100007F:075B``: words of four bytes in the order of this machine."""
    digits, port = text.split(":")
    words = [bytes.fromhex(digits[place : place + 8]) for place in range(0, len(digits), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    address = ipaddress.ip_address(packed)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address), int(port, 16)


def _name(system: System, uid: int) -> str:
    for line in (system.read(Path("/etc/passwd")) or b"").decode(errors="replace").splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[2] == str(uid):
            return f"user {fields[0]}"
    return f"user {uid}"


def _program(system: System, inode: str) -> str | None:
    """A program of this user that is no swarmbus; None if it is one, or has gone meanwhile."""
    for name in system.list(Path("/proc")):
        if not name.isdigit():
            continue
        descriptors = Path("/proc") / name / "fd"
        for descriptor in system.list(descriptors):
            seen = system.stat(descriptors / descriptor)
            if seen is not None and seen.target == f"socket:[{inode}]":
                process = system.process(int(name))
                if process is None or _is_swarmbus(process.argv):
                    return None
                return f"{Path(process.argv[0]).name if process.argv else 'a program'} (pid {name})"
    return None


def _is_swarmbus(argv: Sequence[str]) -> bool:
    as_module = any(pair == ("-m", "swarmbus") for pair in pairwise(argv))
    return as_module or any(Path(word).name == "swarmbus" for word in argv[:2])


def _digest(system: System, path: Path) -> str | None:
    try:
        data = system.read(path)
    except StorageError:
        return None
    return None if data is None else hashlib.md5(data, usedforsecurity=False).hexdigest()
