"""Unit judge: has systemd-analyze say what systemd would not accept in a unit, before it is written."""

from __future__ import annotations

import re
from pathlib import Path

from swarmbus.errors import CannotRun
from swarmbus.provision.render import systemd_word
from swarmbus.provision.resources.unit import Manager
from swarmbus.provision.system import System


class judge_unit:  # noqa: N801  # a function with one thing remembered
    """Has systemd-analyze judge a unit, where it is installed.

    Args:
        unit: Its name; of a template, any instance of it is judged.
        manager: Whose unit it is going to be.
        comes_later: A program that the unit starts and that need not be there before it is written.
    """

    def __init__(self, unit: str, manager: Manager = "user", comes_later: str | None = None) -> None:
        self._unit = unit.replace("@.", "@any.")
        self._manager = manager
        self._comes_later = comes_later

    def __call__(self, system: System, content: str) -> None:
        """Raise `CannotRun` for the first thing that systemd would complain about."""
        analyze = system.which("systemd-analyze")
        if analyze is None:
            return
        with system.scratch() as scratch:
            if self._comes_later is not None and system.stat(Path(self._comes_later)) is None:
                content = content.replace(
                    f"ExecStart={systemd_word(self._comes_later)}", "ExecStart=/bin/true"
                )
            path = scratch / self._unit
            system.write_file(path, content.encode(), mode=0o600)
            whose = f"--{self._manager}"
            command = [str(analyze), whose, "verify", "--man=no", "--recursive-errors=yes", str(path)]
            judged = system.run(command, env={"XDG_RUNTIME_DIR": str(scratch)})
        # An unknown key is only printed: the exit status stays 0. Version 249 does not know the option.
        said = [line for line in judged.stderr.splitlines() if self._unit in line and _is_ours(line, path)]
        if said:
            raise CannotRun(f"systemd does not accept {self._unit}: {said[0].replace(str(path), self._unit)}")


def _is_ours(line: str, path: Path) -> bool:
    # Units that ours only names (After=) are looked up on this host, where they need not exist yet.
    return re.match(rf"{re.escape(str(path))}:|{re.escape(path.name)}: ", line) is not None
