"""Staying connected: connect, serve, and after a loss connect again with growing pauses."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from swarmbus.broker import Broker
from swarmbus.connection import Arrival, Connection, Will
from swarmbus.ending import end
from swarmbus.errors import BrokerRefused, BrokerUnreachable, Conflict, SwarmbusError

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 30.0
"""Seconds between attempts to connect; a tenth more or less by chance, so that thirty hosts do not come
back in one instant."""

_STEADY = 10.0
"""Seconds a connection has to last before the pauses begin anew: a takeover loop must not spin."""


class Link:
    """A connection that is made again whenever it is lost.

    Args:
        will: Makes the will of each connection.
        serve: Called with each new connection; what it awaits runs until the connection is lost.
        on_lost: Called after each loss.

    Attributes:
        connected_since: Unix time of the present connection, None while there is none.
        disconnected_since: Unix time of the last loss (or of the start), None while connected.
        last_error: Why the last attempt failed or the last connection was lost; None after a success.
        connection: The present one.
        connections: How many there have been.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        client_id: str,
        persistent: bool,
        will: Callable[[], Will] | None,
        on_arrival: Callable[[Arrival], None],
        serve: Callable[[Connection], Coroutine[Any, Any, None]],
        on_lost: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._client_id = client_id
        self._persistent = persistent
        self._will = will
        self._on_arrival = on_arrival
        self._serve = serve
        self._on_lost = on_lost
        self.connection: Connection | None = None
        self.connected_since: float | None = None
        self.disconnected_since: float | None = time.time()
        self.last_error: str | None = None
        self.connections = 0
        self.tried = asyncio.Event()
        """Set when the first attempt has come to its end, well or badly."""

    async def run(self) -> None:
        """Stay connected until cancelled; then disconnect properly.

        Raises:
            ConfigError: If a TLS or password file is unusable: trying again would not help.
            Conflict: If ``serve`` raises one.
        """
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                connection = await Connection.open(
                    self._broker,
                    client_id=self._client_id,
                    persistent=self._persistent,
                    will=self._will() if self._will else None,
                    on_arrival=self._on_arrival,
                )
            except (BrokerUnreachable, BrokerRefused) as error:
                self._note(error.message)
            else:
                await self._hold(connection)
            self.tried.set()
            pause = FIRST_PAUSE if time.monotonic() - began > _STEADY else min(pause * 2, LONGEST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.9, 1.1))  # noqa: S311  # not a secret

    async def _hold(self, connection: Connection) -> None:
        self.connection = connection
        self.connections += 1
        self.connected_since, self.disconnected_since = time.time(), None
        serving = asyncio.create_task(self._serve(connection))
        try:
            waiting: list[asyncio.Future[Any]] = [serving, connection.lost]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if serving.done() and (error := serving.exception()) is not None:
                if not isinstance(error, SwarmbusError) or isinstance(error, Conflict):
                    raise error
                self._note(error.message)
            elif connection.lost.done():
                self._note(f"lost the broker at {self._broker}: {connection.lost.result()}")
        finally:
            await end(serving)
            await connection.close()
            self.connection = None
            self.connected_since, self.disconnected_since = None, time.time()
            self._on_lost()

    def _note(self, message: str) -> None:
        if message != self.last_error:
            log.warning("%s", message)
        self.last_error = message

    def settled(self) -> None:
        """For ``serve`` to say that the connection is in order."""
        self.last_error = None
        self.tried.set()
