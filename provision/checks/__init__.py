"""The doctor's checks: one module a category, one record a check, one page (docs/checks/CODE.md) a record.

A check is a pure function over `Facts`: it starts no program, opens no file and writes nothing.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from swarmbus.provision.checks import (  # noqa: F401  # for the checks that they register
    agent_files,
    agent_listener,
    agent_mail,
    agent_presence,
    agent_state,
    agent_wakes,
    broker,
    broker_config,
    broker_files,
    broker_listeners,
    broker_state,
    broker_sys,
    broker_tls,
    code,
    host,
    host_disk,
    mqtt,
    mqtt_bus,
    own,
    own_health,
    plugin,
    python,
    systemd,
    systemd_unit,
    tailscale,
)
from swarmbus.provision.checks.record import REGISTRY, Check, Finding, Status, check

__all__ = ["CATEGORIES", "CHECKS", "Check", "Finding", "Status", "check", "page"]

CHECKS: tuple[Check, ...] = REGISTRY.in_order()

CATEGORIES = ("host", "python", "systemd", "tailscale", "broker", "mqtt", "agent", "code", "plugin", "own")
"""In the order in which they are told."""


def page(of: str) -> str:
    """The page of a check, in Markdown; it is there without the network.

    Args:
        of: The check's code.

    Raises:
        KeyError: If there is no such check.
    """
    if of not in {one.code for one in CHECKS}:
        raise KeyError(of)
    packaged = files("swarmbus") / "check_pages" / f"{of}.md"
    # A checkout, or an editable installation of one: provision/ lies beside docs/ there.
    checkout = Path(__file__).resolve().parents[2] / "docs" / "checks" / f"{of}.md"
    text = (packaged if packaged.is_file() else checkout).read_text(encoding="utf-8")
    return re.sub(r"^<!--.*-->\n\n?", "", text, flags=re.MULTILINE)  # notes for the tests of the pages
