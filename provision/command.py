"""Command: one program to run, by the user in this process or by root in a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarmbus.provision.system import System


@dataclass(frozen=True, slots=True)
class Command:
    """One of them.

    Attributes:
        argv: For root, the first word is an absolute path below /usr or /bin.
        stdin: Content of files travels here, never on the command line.
        secret: Whether ``stdin`` is kept out of what is shown.
        may_fail: Whether the next one is run all the same.
        otherwise: Run if this one fails, and then count in its stead.
        inside: A folder that nobody but root may be able to change, or root does not run it.
    """

    argv: tuple[str, ...]
    stdin: bytes | None = None
    secret: bool = False
    may_fail: bool = False
    otherwise: tuple[Command, ...] = ()
    inside: Path | None = None


def run_commands(system: System, commands: Sequence[Command], doing: str, timeout: float = 120.0) -> None:
    """Run them in order, as the user.

    Args:
        doing: What is being done, for the message: "enabling linger".

    Raises:
        CannotRun: At the first that fails and may not.
    """
    for command in commands:
        done = system.run(command.argv, stdin=command.stdin, timeout=timeout)
        if done.ok or command.may_fail:
            continue
        if not command.otherwise:
            done.check(doing)
        run_commands(system, command.otherwise, doing, timeout)


def write_commands(
    path: Path, data: bytes, *, mode: int, owner: tuple[int, int], secret: bool = False
) -> list[Command]:
    """Write a file as `System.write_file` does, with programs of coreutils.

    ``install`` reads the content from its standard input; ``sync FILE`` is fsync (coreutils 8.24).

    Args:
        owner: User id and group id.
    """
    temporary = str(temporary_name(path))
    whose = ("-o", str(owner[0]), "-g", str(owner[1]))
    install = ("/usr/bin/install", "-T", "-m", f"{mode:04o}", *whose, "/dev/stdin", temporary)
    return [
        Command(install, data, secret=secret, inside=path.parent),
        Command(("/usr/bin/sync", temporary)),
        Command(("/usr/bin/mv", "-T", temporary, str(path))),
        Command(("/usr/bin/sync", str(path.parent))),
    ]


def remove_commands(path: Path) -> list[Command]:
    """Remove a file, if it is there."""
    return [
        Command(("/usr/bin/rm", "-f", "--", str(path)), inside=path.parent),
        Command(("/usr/bin/sync", str(path.parent)), may_fail=True),
    ]


def temporary_name(path: Path) -> Path:
    """Where the content is written before it is renamed: always the same name, so that none is left over."""
    return path.with_name(f".{path.name}.swarmbus-tmp")
