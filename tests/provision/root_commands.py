"""What root's script does, command by command, on a machine that is no real one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from swarmbus.errors import CannotRun
from swarmbus.provision.command import Command
from swarmbus.provision.root import RootStep
from swarmbus.provision.system import Result

Programs = Callable[[tuple[str, ...]], Result]
"""Runs, as root, what is not one of the programs below."""


class Files:
    """The files of such a machine, as root sees them."""

    def write(self, path: Path, data: bytes, mode: int) -> None:
        raise NotImplementedError

    def move(self, source: Path, target: Path) -> None:
        raise NotImplementedError

    def remove(self, path: Path) -> None:
        raise NotImplementedError

    def make_dir(self, path: Path, mode: int) -> None:
        raise NotImplementedError

    def remove_dir(self, path: Path) -> bool:
        raise NotImplementedError


def run_steps(
    steps: Sequence[RootStep], tell: Callable[[RootStep], None], files: Files, programs: Programs
) -> None:
    """As `System.run_as_root`."""
    for step in steps:
        tell(step)
        for command in step.commands:
            result = _run(command, files, programs)
            if not result.ok:
                raise CannotRun(f"as root: {step.title}: {result.stderr}")


def _run(command: Command, files: Files, programs: Programs) -> Result:
    argv = command.argv
    match Path(argv[0]).name:
        case "install" if "-d" in argv:
            files.make_dir(Path(argv[-1]), int(argv[argv.index("-m") + 1], 8))
            result = Result(argv, 0)
        case "rmdir":
            result = Result(argv, 0 if files.remove_dir(Path(argv[-1])) else 1)
        case "install":
            files.write(Path(argv[-1]), command.stdin or b"", int(argv[argv.index("-m") + 1], 8))
            result = Result(argv, 0)
        case "mv":
            files.move(Path(argv[-2]), Path(argv[-1]))
            result = Result(argv, 0)
        case "rm":
            files.remove(Path(argv[-1]))
            result = Result(argv, 0)
        case "sync":
            result = Result(argv, 0)
        case _:
            result = programs(argv)
    if result.ok or command.may_fail:
        return Result(argv, 0)
    for other in command.otherwise:
        result = _run(other, files, programs)
        if not result.ok:
            break
    return result
