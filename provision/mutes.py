"""Mutes: findings that somebody knows of, and that do not count for a while.

A mute is for a finding as it was then. It ends when its time is over, and when the finding gets worse: a
worse status, more of it, or other words for it, which is another fault under the same code.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final

from swarmbus.errors import StorageError, UsageError
from swarmbus.provision.checks import Status
from swarmbus.provision.layout import Layout
from swarmbus.provision.private_folder import make_private_folder
from swarmbus.provision.report import AMISS, Report, Result
from swarmbus.provision.system import System

SCHEMA: Final = "swarmbus.mutes/1"


@dataclass(frozen=True, slots=True)
class Mute:
    """One finding that is muted.

    Attributes:
        status: As it was then; likewise ``count``.
        fingerprint: Of its words.
        until: Unix time.
    """

    code: str
    subject: str
    status: str
    fingerprint: str
    count: int | None
    until: float

    def is_about(self, result: Result) -> bool:
        """Whether a result is of that check and subject, be it better or worse now."""
        return (self.code, self.subject) == (result.check.code, result.subject)

    def covers(self, result: Result, now: float) -> bool:
        """Whether this is the finding, no worse than it was, and in time."""
        return (
            self.is_about(result) and now < self.until and result.status in AMISS and not self._worse(result)
        )

    def is_ended_by(self, result: Result) -> bool:
        """Whether the finding is worse than it was."""
        return self.is_about(result) and result.status in AMISS and self._worse(result)

    def _worse(self, result: Result) -> bool:
        before = Status(self.status)
        if result.status.badness != before.badness:
            return result.status.badness > before.badness
        return (result.count or 0) > (self.count or 0) or fingerprint(result) != self.fingerprint


def fingerprint(result: Result) -> str:
    """Of what a finding says, without its figures, which change from one look to the next."""
    words = re.sub(r"\d+", "#", result.message)
    if result.count is not None:
        words = re.sub(r"\bone message\b|# messages", "# messages", words)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def mute(report: Report, what: str, until: float) -> list[Mute]:
    """Mutes for the findings of ``CODE`` or ``CODE:SUBJECT``.

    Raises:
        UsageError: If there is no such finding now.
    """
    code, _, subject = what.partition(":")
    found = [
        result
        for result in report.results
        if result.check.code == code and subject in ("", result.subject) and result.status in AMISS
    ]
    if not found:
        amiss = [
            f"{one.check.code}:{one.subject}" if one.subject else one.check.code for one in report.problems
        ]
        raise UsageError(
            f"there is nothing to mute: {what} finds nothing amiss",
            hint=f"what is amiss: {', '.join(amiss) or 'nothing'}",
        )
    return [
        Mute(code, result.subject, str(result.status), fingerprint(result), result.count, until)
        for result in found
    ]


def load_mutes(system: System, layout: Layout) -> list[Mute]:
    """Those that were kept; none if they cannot be read, for then nothing may be hidden."""
    try:
        kept = json.loads(system.read(layout.doctor / "mutes.json") or b"{}")
        return [Mute(**one) for one in kept["mutes"]] if kept.get("schema") == SCHEMA else []
    except (StorageError, ValueError, TypeError, KeyError, AttributeError):
        return []


def keep_mutes(system: System, layout: Layout, mutes: Iterable[Mute]) -> None:
    """Keep exactly these."""
    make_private_folder(system, layout.doctor)
    document = {"schema": SCHEMA, "mutes": [asdict(one) for one in mutes]}
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    system.write_file(layout.doctor / "mutes.json", text.encode(), mode=0o600)


def add_mutes(system: System, layout: Layout, new: Sequence[Mute]) -> None:
    """Keep these besides those that are there, in place of older ones for the same."""
    places = {(one.code, one.subject) for one in new}
    others = [one for one in load_mutes(system, layout) if (one.code, one.subject) not in places]
    keep_mutes(system, layout, [*others, *new])


def remove_mutes(system: System, layout: Layout, what: str) -> list[Mute]:
    """Have ``CODE`` or ``CODE:SUBJECT`` count again; those that did not."""
    code, _, subject = what.partition(":")
    kept = load_mutes(system, layout)
    gone = [one for one in kept if one.code == code and subject in ("", one.subject)]
    if gone:
        keep_mutes(system, layout, [one for one in kept if one not in gone])
    return gone


def end_mutes(system: System, layout: Layout, report: Report) -> list[Mute]:
    """Forget those that are over, by their time or because it got worse; the latter."""
    kept = load_mutes(system, layout)
    worse = [one for one in kept if any(one.is_ended_by(result) for result in report.results)]
    now = report.time.timestamp()
    left = [one for one in kept if one not in worse and one.until > now]
    if left != kept:
        with suppress(StorageError):  # a full or read-only disk is for a check to tell
            keep_mutes(system, layout, left)
    return worse
