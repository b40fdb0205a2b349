"""A real mosquitto of a test's own, and where its program comes from.

with Broker(tmp_path, ["max_queued_messages 10"]) as broker:
    ...connect to 127.0.0.1, broker.port...
    broker.kill()
    broker.start()  # same port, same folder
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tests.lab.mosquitto_program import Program, program

_PORTS_TO_TRY = 10
_END_TIMEOUT = 10.0  # seconds
_READY = re.compile(r"mosquitto version \S+ running")
_TAKEN = "Address already in use"


class BrokerFailed(Exception):
    """mosquitto ended, or did not say what was waited for; the message has its log."""


class Broker:
    """One mosquitto process, on a free port of 127.0.0.1.

    Args:
        folder: Where its configuration and, if the test switches persistence on, its database are.
        config: Lines of mosquitto.conf. ``{port}`` and ``{folder}`` are filled in. Lines that begin with
            ``listener``, ``allow_anonymous``, ``persistence`` or ``user`` replace the default ones
            (a listener on loopback, anonymous clients, no persistence).
        program: Which mosquitto; None is the installed one, or the one `make test` has unpacked.
        free_port: Finds a port to try. mosquitto itself takes no port 0 ("Invalid port specified").

    Attributes:
        host: Always ``127.0.0.1``.
        port: Chosen by the first `start`, and kept.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        folder: Path,
        config: Iterable[str] = (),
        *,
        program: Program | None = None,
        free_port: Callable[[], int] | None = None,
    ) -> None:
        self.folder = folder
        self.port = 0
        self._config = list(config)
        self._program = program
        self._free_port = free_port or unused_port
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = True

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The process id; only while it runs."""
        assert self._process is not None, "the broker is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its process lives, also when it is paused."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """All it has written so far, over all starts."""
        with self._changed:
            return "".join(f"{line}\n" for line in self._lines)

    def start(self) -> None:
        """Start it, and return when it accepts connections.

        The first time, it takes a free port, and another one when somebody else was quicker.

        Raises:
            BrokerFailed: If it did not come up, for instance because of a wrong line in its configuration.
        """
        assert not self.running, "the broker is already running"
        for _ in range(_PORTS_TO_TRY):
            port = self.port or self._free_port()
            mark = len(self._lines)
            self._spawn(port)
            try:
                self.wait_for_log(_READY, since=mark)
            except BrokerFailed:
                self.kill()
                if self.port or _TAKEN not in self.log:
                    raise
            else:
                self.port = port
                return
        raise BrokerFailed(f"{_PORTS_TO_TRY} ports in turn were taken\n{self.log}")

    def terminate(self) -> None:
        """End it as systemd would, with SIGTERM: it saves its database first, where it has one."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL; nothing is saved. Does nothing when it has already ended."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """`terminate` and `start`."""
        self.terminate()
        self.start()

    def pause(self) -> None:
        """Stop its process (SIGSTOP): connections stay open and nothing answers, as on a host that hangs."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def reload(self) -> None:
        """Have it read its configuration, passwords and access lists again (SIGHUP)."""
        os.kill(self.pid, signal.SIGHUP)

    def mark(self) -> int:
        """The end of the log now, for ``since`` of `wait_for_log`."""
        with self._changed:
            return len(self._lines)

    def wait_for_log(self, pattern: str | re.Pattern[str], *, since: int = 0, timeout: float = 10.0) -> str:
        """Wait until the log has a line that contains ``pattern``, and return that line.

        Args:
            pattern: A regular expression.
            since: Where to begin, from `mark`; 0 is the beginning.
            timeout: In seconds.

        Raises:
            BrokerFailed: If the time is over, or the broker ends without having written it.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for line in self._lines[since:]:
                    if re.search(pattern, line):
                        return line
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    break
                self._changed.wait(left)
        what = f"no line with {pattern!r} from mosquitto in {timeout:.0f} s"
        raise BrokerFailed(f"{'mosquitto has ended' if self._ended else what}\n{self.log}")

    def _spawn(self, port: int) -> None:
        chosen = self._program or program()
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "mosquitto.conf"
        config.write_text("".join(f"{line}\n" for line in self._config_lines(port)))
        self._process = subprocess.Popen(
            [*chosen.argv, "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=os.environ | chosen.environment,
        )
        assert self._process.stderr is not None
        self._ended = False
        self._reader = threading.Thread(target=self._read, args=[self._process.stderr], daemon=True)
        self._reader.start()

    def _config_lines(self, port: int) -> list[str]:
        given = [
            line.replace("{port}", str(port)).replace("{folder}", str(self.folder)) for line in self._config
        ]
        defaults = {
            "listener": f"listener {port} 127.0.0.1",
            "allow_anonymous": "allow_anonymous true",
            "persistence": "persistence false",
            "log_dest": "log_dest stderr",
        }
        if os.geteuid() == 0:
            defaults["user"] = "user root"  # else it changes to `mosquitto`, who cannot read a test's files
        keys = {line.split(" ")[0] for line in given if line}
        # Global settings first: what follows a listener line may belong to that listener.
        before = [line for key, line in defaults.items() if key not in keys and key != "listener"]
        return [*before, *([] if "listener" in keys else [defaults["listener"]]), *given]

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)  # a stopped process takes no SIGTERM
        deadline = time.monotonic() + _END_TIMEOUT
        while self._process.returncode is None:
            # Again and again: mosquitto (2.0.11) forgets a SIGTERM that comes just as it says "running".
            self._process.send_signal(number if time.monotonic() < deadline else signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.2)
        assert self._reader is not None
        self._reader.join()
        self._process = None


def unused_port() -> int:
    """A port of 127.0.0.1 on which nothing listened a moment ago; somebody else may still be quicker."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
