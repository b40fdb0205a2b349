"""What systemd's journal has kept of the last day, in one bounded look."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from swarmbus.provision.sources.memo import CouldNotLook, Source, probe
from swarmbus.provision.system import NOT_FOUND

_FAILED: Final = "d9b373ed55a64feb8242e02dbe79a49c"
"""SD_MESSAGE_UNIT_FAILURE_RESULT (systemd's sd-messages.h): one entry each time that a unit has failed."""

_AT_MOST: Final = "500"
_TIMEOUT: Final = 3.0


@dataclass(frozen=True, slots=True)
class UnitFailure:
    """One time that a unit has failed.

    Attributes:
        at: Unix time.
        result: As in ``systemctl show``: ``exit-code``, ``watchdog``, ``oom-kill`` …
    """

    unit: str
    at: float
    result: str


class Journal(Source):
    """See the module."""

    @probe
    def failures(self) -> tuple[UnitFailure, ...]:
        """Of all units that we may know of, in the last day, the latest 500 at most."""
        wanted = ("--since=-24h", f"--lines={_AT_MOST}", f"MESSAGE_ID={_FAILED}")
        return tuple(parse_failures(self._ask("--output=json", *wanted)))

    @probe
    def mosquitto(self) -> str:
        """The last lines of the system's broker."""
        return self._ask("--output=short-unix", "--lines=300", "--unit=mosquitto.service")

    def _ask(self, *words: str) -> str:
        shown = self.system.run(["journalctl", "--no-pager", *words], timeout=_TIMEOUT)
        if shown.status == NOT_FOUND:
            raise CouldNotLook("there is no journalctl")
        if not shown.ok or re.search("insufficient permissions|No journal files were found", shown.stderr):
            said = [line for line in shown.stderr.splitlines() if line.strip()]
            raise CouldNotLook(f"journalctl: {said[-1] if said else f'exit status {shown.status}'}")
        return shown.stdout


def parse_failures(text: str) -> Iterator[UnitFailure]:
    """``journalctl --output=json``: an object a line; times in microseconds."""
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            unit = entry.get("USER_UNIT") or entry["UNIT"]
            at = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
            yield UnitFailure(str(unit), at, str(entry["UNIT_RESULT"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
