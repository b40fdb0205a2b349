"""One side of a comparison: a program called ``swarmbus`` with a home and a listener daemon of its own."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.mosquitto import Broker

ENTRY = b"\n## ["


@dataclass(frozen=True)
class Cost:
    """What a command cost: processor and elapsed time, in seconds."""

    cpu: float
    wall: float


class Side:
    """A listener daemon of ``coder`` with its inbox file, and a ``swarmbus`` to send to it with.

    Args:
        name: As it is called in the tables.
        program: The folder of its ``python`` and ``swarmbus``.
        home: A folder for its files.
        senders_listen: Whether ``planner``, who sends, has a listener daemon too.
        more: Others that have one.
    """

    def __init__(
        self, name: str, program: Path, home: Path, *, senders_listen: bool, more: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.program = program
        self.home = home
        # A broker each. Its cap is raised for both: what is measured is not what mosquitto drops.
        self._broker = Broker(home / "broker", ["max_queued_messages 100000"])
        self.inbox = home / "coder-inbox.md"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SWARMBUS", "XDG"))}
        self.environment = {**kept, "HOME": str(home)}
        self._ids = ["coder", *(["planner"] if senders_listen else []), *more]
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._broker.start()
        for agent_id in self._ids:
            log = (self.home / f"{agent_id}.log").open("wb")
            self._daemons.append(
                subprocess.Popen(
                    [
                        *(
                            self.program / "swarmbus",
                            "start",
                            "--agent-id",
                            agent_id,
                            "--port",
                            str(self.port),
                        ),
                        *("--inbox", self.home / f"{agent_id}-inbox.md"),
                    ],
                    env=self.environment,
                    stdout=log,
                    stderr=log,
                )
            )
        deadline = time.monotonic() + 20
        while not set(self._ids) <= set(self._online()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the listeners of {self.name} did not come online")
            time.sleep(0.2)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for daemon in self._daemons:
            daemon.terminate()
        for daemon in self._daemons:
            daemon.wait(20)
        self._broker.terminate()
        shutil.rmtree(self.home)

    @property
    def port(self) -> int:
        """The broker's port."""
        return self._broker.port

    @property
    def daemon(self) -> int:
        """The process id of coder's listener daemon."""
        return self._daemons[0].pid

    def entries(self, start: int = 0) -> int:
        """How many entries the inbox file has beyond byte ``start``."""
        if not self.inbox.exists():
            return 0
        with self.inbox.open("rb") as file:
            file.seek(start)
            return file.read().count(ENTRY)

    def size(self) -> int:
        """Bytes in the inbox file."""
        return self.inbox.stat().st_size if self.inbox.exists() else 0

    def wait_for_entries(self, count: int, start: int, timeout: float) -> float:
        """Wait until ``count`` entries are there; returns when, by the performance counter."""
        deadline = time.monotonic() + timeout
        while self.entries(start) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name}: {self.entries(start)} of {count} entries")
            time.sleep(0.002)
        return time.perf_counter()

    def run(self, *arguments: str, fails: bool = False) -> Cost:
        """Run ``swarmbus`` with arguments and take its cost.

        Args:
            fails: Whether it may end with another status than 0.
        """
        return self._cost([str(self.program / "swarmbus"), *arguments], fails=fails)

    def output(self, *arguments: str) -> str:
        """Run ``swarmbus`` with arguments; what it printed."""
        command = [str(self.program / "swarmbus"), *arguments]
        done = subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True)
        return done.stdout

    def send(self, body: str = "hello") -> Cost:
        """Send one message from planner to coder by the command line."""
        return self.run(
            *("send", "--agent-id", "planner", "--to", "coder", "--subject", "hi", "--body", body),
            *("--port", str(self.port)),
        )

    def python(self, script: Path, *arguments: str) -> str:
        """Run a script with this side's Python; returns what it printed."""
        done = subprocess.run(
            [self.program / "python", script, str(self.port), *arguments],
            env=self.environment,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return done.stdout

    def resident_kib(self) -> int:
        """Resident memory of coder's listener daemon (VmRSS, proc(5)), in KiB."""
        for line in Path(f"/proc/{self.daemon}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise ValueError("no VmRSS")

    def _online(self) -> list[str]:
        listed = subprocess.run(
            [self.program / "swarmbus", "list", "--port", str(self.port)],
            env=self.environment,
            check=False,
            capture_output=True,
            text=True,
        )
        return listed.stdout.split()

    def _cost(self, command: list[str], *, fails: bool) -> Cost:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        subprocess.run(command, env=self.environment, check=not fails, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return Cost(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall)
