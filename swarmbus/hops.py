"""How far a conversation has gone without a human: a count and a name that travel through the replies.

A message of its own starts at hop 0 and gives the thread its name. A wake command finds both in its
environment; what is sent from there is one hop further in the same thread, whoever sends it: the command
line, the library, a script in between. Small, for a cheap ``swarmbus send`` imports it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from swarmbus.envelope import AgentMessage

HOPS: Final = "SWARMBUS_HOPS"
THREAD: Final = "SWARMBUS_THREAD"

_MOST: Final = 1_000_000
_LONGEST_THREAD: Final = 200


def hops_of(msg: AgentMessage) -> int:
    """The hop of a message; 0 where it says nothing that could be one."""
    hops = msg.extra.get("hops")
    return hops if type(hops) is int and 0 <= hops <= _MOST else 0


def thread_of(msg: AgentMessage) -> str:
    """The name of its thread: its own id where it names none."""
    thread = msg.extra.get("thread")
    return thread if isinstance(thread, str) and 0 < len(thread) <= _LONGEST_THREAD else msg.id


def told(msg: AgentMessage) -> dict[str, str]:
    """What the command that a message wakes finds in its environment."""
    return {HOPS: str(hops_of(msg)), THREAD: thread_of(msg)}


def inherited(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The keys of a message that is sent out of a wake; none outside of one."""
    hops, thread = environment.get(HOPS, ""), environment.get(THREAD, "")
    if not (hops.isascii() and hops.isdigit() and len(hops) < len(str(_MOST))):
        return {}
    keys: dict[str, Any] = {"hops": int(hops) + 1}
    return keys | ({"thread": thread} if 0 < len(thread) <= _LONGEST_THREAD else {})
