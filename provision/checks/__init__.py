"""The doctor's checks: one module a category, one record a check, one page (docs/checks/CODE.md) a record.

A check is a pure function over `Facts`: it starts no program, opens no file and writes nothing. Its module is
imported here after those whose checks it depends on.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from swarmbus.provision.checks import (  # isort: skip
    python,
    agent_files,
    systemd,
    broker,
    agent_listener,
    mqtt,
    agent_presence,
    agent_mail,
    code,
)
from swarmbus.provision.checks.record import REGISTRY, Check, Finding, Status, check

__all__ = ["CHECKS", "Check", "Finding", "Status", "check", "page"]

CHECKS: tuple[Check, ...] = REGISTRY.all()

_CATEGORIES = (python, agent_files, systemd, broker, agent_listener, mqtt, agent_presence, agent_mail, code)
"""Imported for their records."""


def page(code: str) -> str:
    """The page of a check, in Markdown; it is there without the network.

    Raises:
        KeyError: If there is no such check.
    """
    if code not in {one.code for one in CHECKS}:
        raise KeyError(code)
    packaged = files("swarmbus") / "checks_pages" / f"{code}.md"
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    # A checkout, or an editable installation of one: provision/ lies beside docs/ there.
    checkout = Path(__file__).resolve().parents[2] / "docs" / "checks" / f"{code}.md"
    return checkout.read_text(encoding="utf-8")
