"""What we know of the agents we write to: which wire each speaks, from its presence or a receipt."""

from __future__ import annotations

import sqlite3
import time


class Peers:
    """Methods that write are called inside `Mailbox.transaction`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def learn(self, agent: str, wire: int | None) -> None:
        """Remember the wire number of a peer's presence; None for a peer that has none."""
        self._connection.execute(
            "INSERT INTO peers (agent, wire, at) VALUES (?, ?, ?)"
            " ON CONFLICT (agent) DO UPDATE SET wire = excluded.wire, at = excluded.at",
            (agent, wire, time.time()),
        )

    def known(self) -> dict[str, int | None]:
        """Wire numbers by agent."""
        return dict(self._connection.execute("SELECT agent, wire FROM peers").fetchall())
