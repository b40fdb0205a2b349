"""Where things are on a host: configuration, state, sockets, inboxes. Nothing here touches the disk."""

from __future__ import annotations

import os
from pathlib import Path

from swarmbus.agent_id import check_agent_id


def config_path() -> Path:
    """``$SWARMBUS_CONFIG``, else ``config.toml`` in the user's configuration folder (XDG)."""
    if override := os.environ.get("SWARMBUS_CONFIG"):
        return Path(override).expanduser()
    return _xdg("XDG_CONFIG_HOME", ".config") / "swarmbus" / "config.toml"


def state_dir() -> Path:
    """``$SWARMBUS_STATE_DIR``, else ``swarmbus`` in the user's state folder (XDG)."""
    if override := os.environ.get("SWARMBUS_STATE_DIR"):
        return Path(override).expanduser()
    return _xdg("XDG_STATE_HOME", ".local/state") / "swarmbus"


def agent_dir(agent_id: str) -> Path:
    """The folder (0700) of one agent's mailbox, lock and control socket."""
    return state_dir() / check_agent_id(agent_id)


def mailbox_path(agent_id: str) -> Path:
    """The agent's mailbox, a SQLite file."""
    return agent_dir(agent_id) / "mailbox.db"


def socket_path(agent_id: str) -> Path:
    """The listener daemon's control socket.

    In the state folder, not the run-time folder: cron jobs and sudo have no ``$XDG_RUNTIME_DIR``, and
    must find the same socket.
    """
    return agent_dir(agent_id) / "control.sock"


def lock_path(agent_id: str) -> Path:
    """The file whose lock says that a listener daemon runs; it holds its process id."""
    return agent_dir(agent_id) / "listener.lock"


def wake_dir(agent_id: str) -> Path:
    """The folder (0700) through which the listener daemon and a wake in a unit of its own talk."""
    return agent_dir(agent_id) / "wake"


def default_inbox(agent_id: str) -> Path:
    """The inbox file where none is set."""
    return Path.home() / "sync" / f"{agent_id}-inbox.md"


def cursor_dir() -> Path:
    """The folder of the cursors of ``swarmbus tail``, the same as the existing tool's."""
    return Path.home() / ".swarmbus" / "cursors"


def _xdg(variable: str, default: str) -> Path:
    # The specification has relative paths ignored.
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path.home() / default
