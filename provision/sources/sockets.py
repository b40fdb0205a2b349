"""Sockets and addresses of this machine."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from swarmbus.provision.sources.memo import CouldNotLook, Source, probe

_LISTEN: Final = "0A"  # include/net/tcp_states.h

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Listening:
    """A TCP socket that accepts connections.

    Attributes:
        uid: Of whoever opened it: a daemon that starts as root and becomes somebody else shows 0.
    """

    address: Address
    port: int
    uid: int

    @property
    def reachable_from_outside(self) -> bool:
        """Whether other machines may come to it."""
        return not self.address.is_loopback


class Sockets(Source):
    """See the module."""

    @probe
    def listening(self) -> tuple[Listening, ...]:
        """By the kernel's own table, which hides nobody's."""
        tables = [self.system.read(Path("/proc/net") / name) for name in ("tcp", "tcp6")]
        if tables[0] is None:
            raise CouldNotLook("there is no /proc/net/tcp")
        return tuple(one for table in tables if table for one in parse_listening(table.decode()))

    def on_port(self, port: int) -> list[Listening]:
        """Those on one port."""
        return [one for one in self.listening() if one.port == port]

    @probe
    def addresses(self) -> frozenset[Address]:
        """All addresses that this machine has now."""
        shown = self.system.run(["ip", "-o", "addr", "show"], timeout=5.0)
        if not shown.ok:
            raise CouldNotLook(f"ip addr: {shown.stderr.strip() or shown.status}")
        return frozenset(parse_addresses(shown.stdout))

    def has_interface(self, name: str) -> bool:
        """Whether there is a network interface of that name."""
        return self.system.stat(Path("/sys/class/net") / name) is not None


def parse_listening(table: str, byte_order: str = sys.byteorder) -> Iterator[Listening]:
    """``/proc/net/tcp`` or ``tcp6``: addresses are 32-bit words in the machine's own order (proc(5))."""
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 7 and words[3] == _LISTEN:
            address, _, port = words[1].partition(":")
            raw = bytes.fromhex(address)
            if byte_order == "little":
                raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
            yield Listening(ipaddress.ip_address(raw), int(port, 16), int(words[7]))


def parse_addresses(text: str) -> Iterator[Address]:
    """``2: eth0    inet 192.168.1.5/24 brd …``, a line each."""
    for line in text.splitlines():
        words = line.split()
        if len(words) > 3 and words[2] in ("inet", "inet6"):
            yield ipaddress.ip_address(words[3].partition("/")[0])


def address(text: str) -> Address | None:
    """An address by its text; None for a name."""
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None
