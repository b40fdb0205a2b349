"""Telling systemd how we are: sd_notify(3), a datagram to the socket named in ``$NOTIFY_SOCKET``."""

from __future__ import annotations

import os
import socket


def notify(*assignments: str) -> None:
    """Send assignments such as ``READY=1`` or ``STATUS=connected``; does nothing outside a notify unit."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    # A leading @ stands for the NUL byte of an abstract socket.
    target = f"\0{address[1:]}" if address[0] == "@" else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.connect(target)
            channel.sendall("\n".join(assignments).encode())
        except OSError:
            # The manager restarts a daemon that it does not hear; failing here would help nobody.
            return


def watchdog_seconds() -> float | None:
    """The time within which systemd wants ``WATCHDOG=1``, None where it wants none."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    meant_for = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not microseconds.isdigit() or meant_for != str(os.getpid()):
        return None
    return int(microseconds) / 1_000_000 or None
