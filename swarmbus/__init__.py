"""Durable messaging between AI agents over MQTT.

::

    from swarmbus import AgentBus, FileBridgeHandler

    bus = AgentBus(agent_id="planner", broker="localhost")
    bus.register_handler(FileBridgeHandler("~/sync/planner-inbox.md"))
    bus.run()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from swarmbus.version import __version__

if TYPE_CHECKING:
    from swarmbus.bus import AgentBus, Delivery
    from swarmbus.envelope import AgentMessage
    from swarmbus.handlers import (
        BaseHandler,
        DirectInvocationHandler,
        FileBridgeHandler,
        PersistentListenerHandler,
        SQLiteArchive,
    )
    from swarmbus.presence import Presence

__all__ = [
    "AgentBus",
    "AgentMessage",
    "BaseHandler",
    "Delivery",
    "DirectInvocationHandler",
    "FileBridgeHandler",
    "PersistentListenerHandler",
    "Presence",
    "SQLiteArchive",
    "__version__",
]

# Names are imported when they are asked for: `swarmbus send` through a running listener needs none of them.
_HOME = {
    "AgentBus": "swarmbus.bus",
    "Delivery": "swarmbus.bus",
    "AgentMessage": "swarmbus.envelope",
    "Presence": "swarmbus.presence",
    "BaseHandler": "swarmbus.handlers",
    "DirectInvocationHandler": "swarmbus.handlers",
    "FileBridgeHandler": "swarmbus.handlers",
    "PersistentListenerHandler": "swarmbus.handlers",
    "SQLiteArchive": "swarmbus.handlers",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'swarmbus' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
