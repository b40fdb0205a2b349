"""Running a script of root steps: handed to a shell on its standard input, and followed while it works."""

from __future__ import annotations

import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from swarmbus.errors import CannotRun
from swarmbus.provision.acting import is_acting, starting_a_child
from swarmbus.provision.command import Command
from swarmbus.provision.foreign_hands import refuse_foreign_hands
from swarmbus.provision.root import MARK, SYSTEM_PATH, RootStep, RootStepsNeeded, shell_script

_ENVIRONMENT = {"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", "HOME": "/root"}
_LAST_LINES = 20


def run_script(shell: Sequence[str], steps: Sequence[RootStep], tell: Callable[[RootStep], None]) -> None:
    """Have ``shell`` run the steps.

    Args:
        shell: A command that reads a script from its standard input, as root.
        tell: Called with each step as it is begun.

    Raises:
        StorageError: If somebody else than root could change a program or folder of theirs; nothing was done.
        RootStepsNeeded: If the script was not begun: sudo did not let us in.
        CannotRun: If a command failed; the message has the last line that was printed.
    """
    for command in _all_commands(steps):
        _refuse_what_others_can_change(command)
    waiting = deque(steps)
    current: RootStep | None = None
    said: deque[str] = deque(maxlen=_LAST_LINES)
    ended = False
    with _start(shell) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None  # noqa: S101
        listening = threading.Thread(target=_keep, args=(process.stderr, said), daemon=True)
        listening.start()
        try:
            process.stdin.write(shell_script(steps).encode())
            process.stdin.close()
        except BrokenPipeError:
            pass  # sudo went away without reading it; its exit status says so
        lines = _lines_of(process.stdout)
        interrupt: KeyboardInterrupt | None = None
        while True:
            try:
                line = next(lines, None)
                if line is None:
                    break
                if not line.startswith(MARK):
                    said.append(line)
                elif line == f"{MARK}done":
                    ended = True
                elif waiting and line == f"{MARK}{waiting[0].title}":
                    current = waiting.popleft()
                    tell(current)
            except KeyboardInterrupt as signal:
                interrupt = signal  # what root has begun is not cut off: dpkg would be left half configured
                lines = _lines_of(process.stdout)
        listening.join()
    if interrupt is not None:
        raise interrupt
    if ended and process.returncode == 0:
        return
    if current is None:
        raise RootStepsNeeded("some steps need root, and sudo did not let us", steps=steps)
    words = [line for line in said if line.strip()]
    reason = words[-1].strip() if words else f"exit status {process.returncode}"
    raise CannotRun(f"as root: {current.title}: {reason}")


def _start(shell: Sequence[str]) -> subprocess.Popen[bytes]:
    root: int | None = 0 if is_acting() else None
    groups: list[int] | None = [] if is_acting() else None
    with starting_a_child():
        return subprocess.Popen(
            shell,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_ENVIRONMENT,
            cwd="/",
            user=root,
            group=root,
            extra_groups=groups,
        )


def _all_commands(steps: Sequence[RootStep]) -> Iterator[Command]:
    waiting = [command for step in steps for command in step.commands]
    while waiting:
        command = waiting.pop(0)
        yield command
        waiting += command.otherwise


def _refuse_what_others_can_change(command: Command) -> None:
    program = Path(command.argv[0])
    if not program.is_absolute():
        raise ValueError(f"not an absolute path: {program}")
    refuse_foreign_hands(program.resolve(), uid=0, root=True)
    if command.inside is not None:
        refuse_foreign_hands(command.inside, uid=0, root=True)


def _lines_of(stream: IO[bytes]) -> Iterator[str]:
    for line in stream:
        yield line.decode(errors="replace").rstrip("\n")


def _keep(stream: IO[bytes], said: deque[str]) -> None:
    for line in _lines_of(stream):
        said.append(line)
