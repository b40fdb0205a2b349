"""What systemd is told, as it hears it: datagrams on a socket whose name is in the environment."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

import pytest

from swarmbus.notify import notify, watchdog_seconds


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_manager_hears_assignments(home: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    name = str(home / "notify") if kind == "path" else f"@swarmbus-test-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0", 1))
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1", "STATUS=connected to é")
        assert manager.recv(4096).decode() == "READY=1\nSTATUS=connected to é"
        notify("WATCHDOG=1")
        assert manager.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize("name", [None, "", "relative", "/nowhere/at/all", "@nobody", "vsock:2:1"])
def test_nobody_to_tell_is_no_harm(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    if name is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", name)
    notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("30000000", None, 30.0),
        ("1500000", "our own", 1.5),
        ("30000000", "1", None),  # meant for another process of the unit
        ("", None, None),
        ("soon", None, None),
        ("0", None, None),
        (None, None, None),
    ],
)
def test_watchdog(
    monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None, seconds: float | None
) -> None:
    if usec is not None:
        monkeypatch.setenv("WATCHDOG_USEC", usec)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", pid.replace("our own", str(os.getpid())))
    assert watchdog_seconds() == seconds
