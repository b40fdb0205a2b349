"""A listener daemon of a test's own: ``swarmbus start`` in a process, ready when it says so.

with Listener("coder", broker, "--inbox", str(inbox)) as listener:
    ...
    listener.kill()
    listener.start()
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tests.lab.mosquitto import Broker

_STOP_TIMEOUT = 20.0  # seconds


class ListenerFailed(Exception):
    """It ended, or was not ready in time; the message has what it wrote."""


class Listener:
    """One ``swarmbus start``, run as the test's user, in the home and environment of the test.

    Args:
        agent_id: Whose listener.
        broker: Where it connects; None leaves that to its options and config.toml.
        arguments: More options of ``swarmbus start``.
        python: The interpreter that has swarmbus.
        state: Its state folder, as on another host; None for the test's.
    """

    def __init__(
        self,
        agent_id: str,
        broker: Broker | None,
        *arguments: str,
        python: str = sys.executable,
        state: Path | None = None,
    ) -> None:
        self._environment = {"SWARMBUS_STATE_DIR": str(state)} if state is not None else {}
        where = [f"--broker={broker.host}", f"--port={broker.port}"] if broker is not None else []
        self._argv = [python, "-m", "swarmbus", "start", f"--agent-id={agent_id}", *where, *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115, closed by __exit__

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._output.close()

    @property
    def pid(self) -> int:
        """The process id; only while it runs."""
        assert self._process is not None, "the listener is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def output(self) -> str:
        """All it has written so far to standard output and standard error, over all starts."""
        self._output.seek(0)
        return self._output.read().decode(errors="replace")

    def start(self, *, timeout: float = 20.0) -> None:
        """Start it, and return when it has told its service manager READY=1, so has subscribed.

        Raises:
            ListenerFailed: If it ended instead, or the time (in seconds) was over.
        """
        assert not self.running, "the listener is already running"
        with (
            tempfile.TemporaryDirectory(prefix="sb-notify-") as folder,
            _bound(Path(folder) / "s") as notices,
        ):
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                env=os.environ | self._environment | {"NOTIFY_SOCKET": notices.getsockname()},
            )
            deadline = time.monotonic() + timeout
            while self.running and time.monotonic() < deadline:
                with contextlib.suppress(TimeoutError):
                    if b"READY=1" in notices.recv(4096).splitlines():
                        return
        status = self._process.poll()
        self.kill()
        happened = f"not ready after {timeout:.0f} s" if status is None else f"ended with status {status}"
        raise ListenerFailed(f"{' '.join(self._argv)}: {happened}\n{self.output}")

    def terminate(self) -> int:
        """End it as systemd would, with SIGTERM, and return its exit status."""
        assert self._process is not None, "the listener is not running"
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ListenerFailed(f"still there {_STOP_TIMEOUT:.0f} s after SIGTERM\n{self.output}") from None

    def wait(self, timeout: float) -> int:
        """Its exit status, once it has ended by itself.

        Raises:
            subprocess.TimeoutExpired: If it had not after ``timeout`` seconds.
        """
        assert self._process is not None, "the listener is not running"
        return self._process.wait(timeout)

    def kill(self) -> None:
        """End it with SIGKILL; does nothing when it has already ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def _bound(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind(str(path))
        notices.settimeout(0.1)
        yield notices
