"""docs/configuration.md says of every setting what config.py says, and of nothing else."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from swarmbus.config import Settings, load_settings

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (?:`([^`]+)`)? ?\|", PAGE, re.MULTILINE)
SETTINGS = {spec.name: spec.default for spec in fields(Settings) if spec.name != "sources"}
SAMPLES = {
    "agent_id": "planner",
    "port": "1884",
    "tls": "true",
    "persistent": "false",
    "inbox_max_bytes": "1",
    "inbox_keep": "1",
    "invoke_timeout": "1.5",
    "invoke_attempts": "1",
    "invoke_memory": "1",
    "invoke_tasks": "1",
    "wake": "priority-high",
    "wake_cooldown": "0",
    "wake_daily": "1",
    "wake_hops": "1",
    "wake_pair_hourly": "1",
    "presence_interval": "1.5",
    "spool_days": "1.5",
}


def test_every_setting_has_its_row_in_the_order_of_the_code() -> None:
    assert [name for name, _, _ in ROWS] == list(SETTINGS)


@pytest.mark.parametrize(("name", "variable", "default"), ROWS)
@pytest.mark.usefixtures("home")
def test_row_has_the_variable_and_the_default(
    name: str, variable: str, default: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = SETTINGS[name]
    wanted = "" if shown is None else str(shown).lower() if isinstance(shown, bool) else f"{shown}"
    assert default == wanted.removesuffix(".0")
    monkeypatch.setenv(variable, SAMPLES.get(name, "text"))
    assert load_settings().sources == {name: "environment"}
