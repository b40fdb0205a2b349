"""Steps that need root: as commands, which can be run through sudo one by one or printed for a human."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swarmbus.errors import NeedsRoot
from swarmbus.provision.system import Owner, System

SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs that run as root come from; nothing of the caller's PATH."""

_LONGEST_HINT = 100


@dataclass(frozen=True, slots=True)
class RootCommand:
    """One program to run as root.

    Attributes:
        argv: The first word is an absolute path below /usr or /bin.
        stdin: Content of files travels here, never on the command line.
    """

    argv: tuple[str, ...]
    stdin: bytes | None = None


class RootStepsNeeded(NeedsRoot):
    """Some steps need root, and there is no way to become it.

    Args:
        script: POSIX shell text that, run by root, does exactly these steps.
    """

    def __init__(self, message: str, *, commands: Sequence[RootCommand]) -> None:
        short = [f"sudo {shlex.join(command.argv)}" for command in commands if command.stdin is None]
        told = " && ".join(short)
        if len(short) < len(commands) or len(told) > _LONGEST_HINT:
            told = "the script that --dry-run --json has as root_script"
        super().__init__(message, hint=f"an administrator can run: {told}")
        self.script = shell_script(commands)


def shell_script(commands: Sequence[RootCommand]) -> str:
    """The commands as a script for root: stops at the first that fails."""
    lines = ["set -eu"]
    for command in commands:
        text = shlex.join(command.argv)
        if command.stdin is None:
            lines.append(text)
        else:
            content = command.stdin.decode()
            mark = "END"
            while mark in content.splitlines():
                mark += "_"
            ending = "" if content.endswith("\n") or not content else "\n"
            lines += [f"{text} <<'{mark}'", f"{content}{ending}{mark}"]
    return "\n".join(lines) + "\n"


def write_commands(path: Path, data: bytes, *, mode: int, owner: Owner) -> list[RootCommand]:
    """Write a file as `System.write_file` does, with programs of coreutils.

    ``install`` reads the content from its standard input; ``sync FILE`` is fsync (coreutils 8.24).
    """
    temporary = str(temporary_name(path))
    return [
        RootCommand(
            (
                *("/usr/bin/install", "-T", "-m", f"{mode:04o}"),
                *("-o", str(owner[0]), "-g", str(owner[1]), "/dev/stdin", temporary),
            ),
            data,
        ),
        RootCommand(("/usr/bin/sync", temporary)),
        RootCommand(("/usr/bin/mv", "-T", temporary, str(path))),
        RootCommand(("/usr/bin/sync", str(path.parent))),
    ]


def temporary_name(path: Path) -> Path:
    """Where the content is written before it is renamed: always the same name, so that none is left over."""
    return path.with_name(f".{path.name}.swarmbus-tmp")


def run_as_root(system: System, commands: Sequence[RootCommand], doing: str, timeout: float = 60.0) -> None:
    """Run them in order.

    Raises:
        CannotRun: At the first that fails.
    """
    for command in commands:
        system.run(command.argv, root=True, stdin=command.stdin, timeout=timeout).check(doing)
