"""The main process of a wake's unit: runs the command, passes its output on to the journal, notes its end.

Started by `unit_run` with the path of a folder in which these lie::

    order.json    what to run; taken away at once, for it holds the message and the environment
    alive         a FIFO: whoever reads it is told that the order was taken, and, by its end, that we ended
    result.json   how it ended, written before `alive` ends

Run by path under ``python -I -S``, so that a wake costs little more than the start of an interpreter; it
imports nothing of ours. systemd sends SIGTERM to every process of the unit when its time is up, and
SIGKILL later: what is known is noted before.
"""

# ruff: noqa: PTH105, PTH108, PTH112, PTH123  # pathlib would double the start time
from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from typing import Any

KEPT_BYTES = 4096
"""Of each output."""

JOURNAL_BYTES = 256 * 1024
"""What one wake may write to the journal: journald takes long over each line of a flood."""

_STATED_BY_SYSTEMD = ("INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID")


def main(folder: str) -> int:
    """Run what is ordered; returns the command's exit status, 128 and more for a signal."""
    alive = os.open(f"{folder}/alive", os.O_RDWR | os.O_CLOEXEC)  # for reading too: nobody need read it yet
    order = _take(f"{folder}/order.json")
    if order is None:
        return 0  # taken back
    os.write(alive, b"!")
    return _Run(folder, order).until_end()


def _take(path: str) -> dict[str, Any] | None:
    try:
        with open(path, encoding="utf-8") as file:
            order: dict[str, Any] = json.load(file)
        os.unlink(path)
    except FileNotFoundError:
        return None
    return order


class _Run:
    def __init__(self, folder: str, order: dict[str, Any]) -> None:
        self._folder = folder
        self._order = order
        self._began = time.monotonic()
        self._kept = {1: b"", 2: b""}
        self._room = JOURNAL_BYTES
        self._cut_off: str | None = None
        self._cgroup = _cgroup()

    def until_end(self) -> int:
        signal.signal(signal.SIGTERM, self._note_end_of_time)
        outputs = {1: os.pipe(), 2: os.pipe()}
        try:
            child = self._start({number: far for number, (_, far) in outputs.items()})
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self._note(cannot_start=reason)
            return 127
        for _, far in outputs.values():
            os.close(far)
        self._pass_on({near: number for number, (near, _) in outputs.items()}, os.pidfd_open(child))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == -signal.SIGKILL and self._cut_off is None and self._ran_out_of_memory():
            self._cut_off = "memory"
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._note(status=status)
        while self._cut_off is not None and self._others():
            time.sleep(0.05)  # systemd kills them, and us with them
        return status if status >= 0 else 128 - status

    def _start(self, outputs: dict[int, int]) -> int:
        variables = self._order["variables"]
        stated = {name: os.environ[name] for name in _STATED_BY_SYSTEMD if name in os.environ}
        os.environ.clear()
        os.environ.update(variables | stated)  # its PATH is where posix_spawnp(3) looks
        with suppress(OSError):  # it may be gone; then it is the user's home
            os.chdir(self._order["folder"])
        body = os.memfd_create("body", os.MFD_CLOEXEC)
        with open(body, "wb", closefd=False) as file:
            file.write(self._order["body"].encode("utf-8", "surrogateescape"))
        os.lseek(body, 0, os.SEEK_SET)
        argv = self._order["argv"]
        ends = {0: body, **outputs}
        return os.posix_spawnp(
            argv[0],
            argv,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, end, number) for number, end in ends.items()],
            setsid=True,
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python and systemd ignore
        )

    def _pass_on(self, outputs: dict[int, int], child: int) -> None:
        """Copy the outputs until the child has ended; what it left in the background may hold them open."""
        poll = select.poll()
        for fd in (*outputs, child):
            poll.register(fd, select.POLLIN)
        ended = False
        while not ended:
            ready = [fd for fd, _ in poll.poll()]
            ended = child in ready
            for near, number in outputs.items():
                if near in ready and not self._copy(near, number):
                    poll.unregister(near)
        for near, number in outputs.items():
            os.set_blocking(near, False)
            for _ in range(64):  # at most 4 MiB of what it wrote just before its end
                if not self._copy(near, number):
                    break

    def _copy(self, near: int, number: int) -> bool:
        try:
            data = os.read(near, 65_536)
        except BlockingIOError:
            return False
        self._kept[number] = (self._kept[number] + data)[-KEPT_BYTES:]
        if self._room > 0:
            self._room -= len(data)
            _write(number, data)
            if self._room <= 0:
                _write(number, b"\n(swarmbus: what else it wrote is not in the journal)\n")
        return bool(data)

    def _note_end_of_time(self, number: int, frame: object) -> None:
        if self._cut_off is None:
            if self._ran_out_of_memory():
                self._cut_off = "memory"
            elif time.monotonic() - self._began > self._order["seconds"] - 1.0:
                self._cut_off = "time"
            else:
                self._cut_off = "stopped"
            self._note()

    def _note(self, *, status: int | None = None, cannot_start: str | None = None) -> None:
        result = {
            "id": self._order["id"],
            "unit": self._order["unit"],
            "status": None if self._cut_off else status,
            "cut_off": self._cut_off,
            "cannot_start": cannot_start,
            "output": (self._kept[2] or self._kept[1]).decode("utf-8", "replace"),
        }
        path = f"{self._folder}/result.json"
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            json.dump(result, file)
        os.replace(f"{path}.new", path)

    def _ran_out_of_memory(self) -> bool:
        words = _words(f"{self._cgroup}/memory.events")
        return "oom_kill" in words and words[words.index("oom_kill") + 1] != "0"

    def _others(self) -> bool:
        """Whether the unit has other processes than this one."""
        is_ours = self._cgroup.endswith(f"/{self._order['unit']}")
        return is_ours and len(_words(f"{self._cgroup}/cgroup.procs")) > 1


def _write(number: int, data: bytes) -> None:
    rest = memoryview(data)
    with suppress(OSError):  # without journald there is nobody to tell
        while rest:
            rest = rest[os.write(number, rest) :]


def _cgroup() -> str:
    """Our folder in the unified hierarchy (cgroups(7)), which in a hybrid one is mounted one level down."""
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        path = next((line.strip()[3:] for line in file if line.startswith("0::")), "/")
    hybrid = "/sys/fs/cgroup/unified"
    return f"{hybrid if os.path.isdir(hybrid) else '/sys/fs/cgroup'}{path}"


def _words(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().split()
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
