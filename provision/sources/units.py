"""What systemctl says of units."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Final

from swarmbus.provision.resources.unit import Manager, systemctl
from swarmbus.provision.sources.memo import CouldNotLook
from swarmbus.provision.system import NOT_FOUND, System

TIMEOUT: Final = 5.0

_PROPERTIES: Final = (
    "Id,LoadState,LoadError,ActiveState,SubState,UnitFileState,Result,NeedDaemonReload,ExecMainStatus,"
    "Environment,ExecStart,FragmentPath,DropInPaths,NRestarts,MainPID,ControlGroup,StandardOutput,After,"
    "MemoryCurrent,MemoryMax,TasksCurrent,TasksMax,Restart,StartLimitIntervalUSec"
)


def show(system: System, manager: Manager, *names: str) -> dict[str, dict[str, str]]:
    """Properties of these units, by one process; exit statuses of systemctl say nothing.

    Raises:
        CouldNotLook: If systemctl does not speak of each of them.
    """
    result = systemctl(system, manager, "show", "--property", _PROPERTIES, "--", *names, timeout=TIMEOUT)
    blocks = (_pairs(block.splitlines()) for block in result.stdout.split("\n\n"))
    shown = {block["Id"]: block for block in blocks if "Id" in block}
    if set(names) - set(shown):
        said = result.stderr.strip().splitlines() or ["no answer"]
        raise CouldNotLook(
            "there is no systemctl" if result.status == NOT_FOUND else f"systemctl: {said[-1]}"
        )
    return shown


def assignments(text: str) -> dict[str, str]:
    """``A=b "C=d e"`` as ``systemctl show`` prints Environment, or a line each as show-environment does."""
    try:
        words = shlex.split(text)
    except ValueError:
        return {}
    return _pairs(words)


def _pairs(lines: Iterable[str]) -> dict[str, str]:
    """``NAME=value`` as a mapping; lines without a sign are passed over."""
    return {name: value for name, sign, value in (line.partition("=") for line in lines) if sign}
