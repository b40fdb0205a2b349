"""The lock of an agent's session (`swarmbus.lock`), seen from outside: who holds it, and as what."""

from __future__ import annotations

import json

from swarmbus.provision.layout import Layout
from swarmbus.provision.system import System


def lock_word(system: System, layout: Layout, agent: str) -> tuple[int, str] | None:
    """Pid and role of who holds it; None if nobody does, or whoever does has not said yet."""
    held = system.lock_holder(layout.agent_dir(agent) / "listener.lock")
    try:
        said = json.loads(held or b"null")
        return int(said["pid"]), str(said["role"])
    except (ValueError, TypeError, KeyError):
        return None


def listener_pid(system: System, layout: Layout, agent: str) -> int | None:
    """Of the listener daemon that holds it; None if nobody or only a reader does."""
    word = lock_word(system, layout, agent)
    return word[0] if word is not None and word[1] == "listener" else None
