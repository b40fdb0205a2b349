"""What is done with each message that comes in; see `BaseHandler` for writing another."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarmbus.handlers.base import BaseHandler
    from swarmbus.handlers.direct_invocation import DirectInvocationHandler, InvocationFailed
    from swarmbus.handlers.file_bridge import FileBridgeHandler
    from swarmbus.handlers.persistent_listener import PersistentListenerHandler
    from swarmbus.handlers.sqlite_archive import SQLiteArchive

__all__ = [
    "BaseHandler",
    "DirectInvocationHandler",
    "FileBridgeHandler",
    "InvocationFailed",
    "PersistentListenerHandler",
    "SQLiteArchive",
]

# Imported when asked for: not every listener archives, and sqlite3 or subprocess cost start time.
_HOME = {
    "BaseHandler": "swarmbus.handlers.base",
    "DirectInvocationHandler": "swarmbus.handlers.direct_invocation",
    "FileBridgeHandler": "swarmbus.handlers.file_bridge",
    "InvocationFailed": "swarmbus.handlers.direct_invocation",
    "PersistentListenerHandler": "swarmbus.handlers.persistent_listener",
    "SQLiteArchive": "swarmbus.handlers.sqlite_archive",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
