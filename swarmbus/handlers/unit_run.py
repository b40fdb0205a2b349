"""Runs a command in a transient unit of the user's systemd: a control group and limits of its own.

The listener's sandbox does not hold there, and a restart of the listener does not end it. What is to be run
is handed over in a file, never on a command line; `unit_main` runs it inside and notes how it ended, so that
a listener that was started again in the meantime takes up the run where the one before left it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from swarmbus.handlers import unit_main
from swarmbus.handlers.runs import ChildRunner, Command, Ended, Runner
from swarmbus.inbox_file import visible

log = logging.getLogger(__name__)

_TAKEN_WITHIN: Final = 30.0
"""Seconds that the unit's main process has to take its order; it needs a twentieth of one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a wake may use, together with all that it starts; 0 means no limit."""

    memory_mb: int = 0
    tasks: int = 0


def best_runner(agent_id: str, folder: Path, limits: Limits) -> Runner:
    """Transient units where a user manager answers, else child processes.

    Args:
        folder: Ours alone: where an order and a result lie.
    """
    reason = why_no_units()
    if reason is None:
        return UnitRunner(agent_id, folder, limits)
    return ChildRunner(f"child processes without limits of memory: {reason}")


def why_no_units() -> str | None:
    """Why transient units cannot be had here; None if they can."""
    if shutil.which("systemd-run") is None:
        return "there is no systemd-run"
    private = f"{_runtime_dir()}/systemd/private"
    with socket.socket(socket.AF_UNIX) as channel:
        try:
            # Debian 13 leaves the socket of a manager that has stopped: whether it is there says nothing.
            channel.connect(private)
        except OSError as error:
            return f"no user manager answers at {private}: {error.strerror}"
    return None


def has_memory_controller() -> bool:
    """Whether MemoryMax has an effect; on a Raspberry Pi it needs ``cgroup_enable=memory`` in cmdline.txt."""
    uid = os.getuid()
    controllers = Path(f"/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers")
    try:
        return "memory" in controllers.read_text().split()
    except OSError:
        return False


class UnitRunner:
    """Runs commands in transient units, one at a time; see the module."""

    outlives_us = True

    def __init__(self, agent_id: str, folder: Path, limits: Limits) -> None:
        self._agent_id = agent_id
        self._folder = folder
        self._order = folder / "order.json"
        self._result = folder / "result.json"
        self._limits = limits
        self.about = f"units of their own, swarmbus-wake-{agent_id}-*; {_in_words(limits)}"

    async def run(self, command: Command) -> Ended:
        """See `Runner`; what cannot be started in a unit is run as a child process.

        Raises:
            OSError: If the folder cannot be written.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        alive = _Alive(self._folder / "alive")
        try:
            if alive.has_writer():
                log.info("a wake of before still runs: waiting for its end")
                await alive.end()
                alive.open()
            if (before := self._take_result()) is not None and before[0] == command.id:
                return before[1]
            self._order.unlink(missing_ok=True)
            unit = f"swarmbus-wake-{self._agent_id}-{os.urandom(5).hex()}.service"
            self._write_order(command, unit)
            trouble = await self._start(unit, command.seconds) or await self._until_taken(alive)
            if trouble is None:
                await alive.end()
                result = self._take_result()
                if result is not None:
                    return result[1]
                await _systemctl("stop", unit)  # nothing of it may run beside the next
                return Ended(None, cut_off="lost", unit=unit)
        finally:
            alive.close()
        log.warning("no unit for this wake, it is a child process: %s", trouble)
        return replace(await ChildRunner().run(command), refused=trouble)

    async def rehearse(self, command: Command) -> Ended:
        """See `Runner`; in another folder, for in ours may lie the result of a wake that nobody has taken."""
        folder = self._folder.with_name(f"{self._folder.name}-canary")
        try:
            return await UnitRunner(self._agent_id, folder, self._limits).run(command)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _write_order(self, command: Command, unit: str) -> None:
        order = {
            "id": command.id,
            "unit": unit,
            "argv": list(command.argv),
            "variables": dict(command.variables),
            "body": command.body.decode("utf-8", "surrogateescape"),
            "seconds": command.seconds,
            "folder": str(Path.cwd()),
        }
        new = self._order.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(json.dumps(order), encoding="utf-8")  # JSON in ASCII, lone surrogates and all
        new.replace(self._order)

    async def _start(self, unit: str, seconds: float) -> str | None:
        """Start the unit; what went wrong, None if nothing did or the order was taken all the same."""
        properties = {
            "KillMode": "control-group",
            "ExitType": "cgroup",  # what the command leaves in the background goes on, within the limits
            "OOMPolicy": "stop",
            "RuntimeMaxSec": f"{seconds:g}",
            "TimeoutStopSec": "5",
            "UMask": "0077",
            "TasksMax": str(self._limits.tasks or "infinity"),
        }
        if self._limits.memory_mb:
            memory = f"{self._limits.memory_mb}M"
            properties["MemoryMax"] = memory
            if not has_memory_controller():
                properties["LimitDATA"] = memory
        status, said = await _run(
            "systemd-run",
            "--user",
            "--collect",
            "--quiet",
            f"--unit={unit}",
            f"--description=swarmbus wakes {self._agent_id}",
            *(f"--property={name}={value}" for name, value in properties.items()),
            "--",
            sys.executable,
            "-I",
            "-S",
            unit_main.__file__,
            str(self._folder),
        )
        return f"systemd-run: {said}" if status != 0 and self._take_back() else None

    async def _until_taken(self, alive: _Alive) -> str | None:
        try:
            async with asyncio.timeout(_TAKEN_WITHIN):
                await alive.sign()
        except TimeoutError:
            if self._take_back():
                return f"the unit did not start within {_TAKEN_WITHIN:.0f} s"
        return None

    def _take_back(self) -> bool:
        """Whether the order was still there; nobody can take it any more."""
        try:
            self._order.unlink()
        except FileNotFoundError:
            return False
        return True

    def _take_result(self) -> tuple[str, Ended] | None:
        try:
            result: dict[str, Any] = json.loads(self._result.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        self._result.unlink()
        return result["id"], Ended(
            result["status"],
            visible(result["output"]).strip(),
            result["cut_off"],
            result["cannot_start"],
            result["unit"],
        )


def _in_words(limits: Limits) -> str:
    if not limits.memory_mb:
        return "no limit of memory"
    if has_memory_controller():
        return f"{limits.memory_mb} MiB each"
    return f"{limits.memory_mb} MiB for each of their processes (the kernel has no memory controller for us)"


class _Alive:
    """Our end of the FIFO that `unit_main` holds open as long as it lives."""

    def __init__(self, path: Path) -> None:
        with suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        self._path = path
        self._fd = -1
        self.open()

    def open(self) -> None:
        """Open it, again after an `end`: only then does it wait for the next writer."""
        self.close()
        self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def has_writer(self) -> bool:
        try:
            while os.read(self._fd, 64):
                pass
        except BlockingIOError:
            return True
        return False

    async def sign(self) -> None:
        """Until the order was taken."""
        await self._until(lambda data: True)

    async def end(self) -> None:
        """Until nobody has it open."""
        await self._until(lambda data: not data)

    async def _until(self, wanted: Callable[[bytes], bool]) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def look() -> None:
            with suppress(BlockingIOError):
                if wanted(os.read(self._fd, 64)) and not done.done():
                    done.set_result(None)

        loop.add_reader(self._fd, look)
        try:
            await done
        finally:
            loop.remove_reader(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


async def _systemctl(*words: str) -> None:
    await _run("systemctl", "--user", *words)


async def _run(*argv: str) -> tuple[int, str]:
    """Exit status, and the last line of what it said."""
    variables = os.environ | {"XDG_RUNTIME_DIR": _runtime_dir()}
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=variables,
        )
    except OSError as error:
        return 127, error.strerror or str(error)
    _, said = await process.communicate()
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return process.returncode or 0, visible(lines[-1]) if lines else f"exit status {process.returncode}"


def _runtime_dir() -> str:
    """Where the user manager's sockets are; a system unit with ``User=`` is not told."""
    return os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
