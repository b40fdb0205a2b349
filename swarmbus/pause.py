"""A pause: no new wakes, of one agent, of a host or of the whole bus, while messages keep arriving.

A retained message that every listener reads, so that it holds at once, for those that start later too, and
until it is taken back or its time is over. Topics: ``swarmbus/pause/agent/<id>``,
``swarmbus/pause/host/<host>``, ``swarmbus/pause/bus``. A sample; empty means resumed::

    {"by": "pi@kitchen", "reason": "in circles", "since": "2026-04-14T05:00:00+00:00", "until": null}
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from swarmbus.broker import Broker
from swarmbus.connection import Arrival, Connection, client_id
from swarmbus.errors import NotAuthorized, Rejected

_PREFIX: Final = "swarmbus/pause/"
_LONGEST: Final = 200
_NOT_IN_A_TOPIC: Final = str.maketrans("/+#", "___")


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause in force, or over.

    Attributes:
        scope: ``agent coder``, ``host kitchen`` or ``bus``.
        by: Who asked for it: user and host.
        until: When it ends by itself; None if it does not.
    """

    scope: str
    by: str
    reason: str
    since: datetime
    until: datetime | None

    def seconds_left(self) -> float:
        """How long it holds; 0 or less when it is over."""
        return math.inf if self.until is None else (self.until - datetime.now(UTC)).total_seconds()

    def __str__(self) -> str:
        end = f" until {self.until.isoformat(timespec='minutes')}" if self.until else ""
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.scope} paused by {self.by}{end}{reason}"


def agent_scope(agent_id: str) -> str:
    """The scope of one agent."""
    return f"agent {agent_id}"


def host_scope(host: str) -> str:
    """The scope of all agents of a host."""
    return f"host {host.translate(_NOT_IN_A_TOPIC)}"


BUS_SCOPE: Final = "bus"


async def publish_pause(broker: Broker, scope: str, pause: Pause | None) -> None:
    """Have everybody know of a pause, or, with None, that it is over.

    Raises:
        BrokerUnreachable: If there is no broker.
        BrokerRefused: If it refuses us.
        NotAuthorized, Rejected: If it does not take the message.
    """
    payload = "" if pause is None else _payload(pause)
    async with await Connection.open(broker, client_id=client_id(None)) as connection:
        code = await connection.publish(_topic(scope), payload, retain=True)
    if code >= 0x80:
        kind = NotAuthorized if code == 0x87 else Rejected
        raise kind(
            f"the broker at {broker} does not let us pause: reason code {code:#x}",
            hint=f"its access control has to allow us to write {_topic(scope)}",
        )


class Pauses:
    """What a listener knows of the pauses that concern it.

    Until it has asked a broker it knows nothing, and nobody should be woken.
    """

    def __init__(self) -> None:
        self._in_force: dict[str, Pause] = {}
        self._asked: dict[str, Pause] | None = None
        self._changed = asyncio.Event()
        self.known = False

    async def ask(self, connection: Connection, scopes: list[str]) -> None:
        """Subscribe; what is retained has been `heard` when something sent afterwards is acknowledged.

        A broker whose access control does not let us read them has none for us.
        """
        self._asked = {}
        with contextlib.suppress(NotAuthorized):
            await connection.subscribe([(_topic(scope), 1) for scope in scopes])

    def heard(self, arrival: Arrival) -> bool:
        """Take in what arrived; False if it is about something else."""
        if not arrival.topic.startswith(_PREFIX):
            return False
        scope = arrival.topic.removeprefix(_PREFIX).replace("/", " ", 1)
        pause = _read(scope, arrival.payload)
        known = self._in_force if self._asked is None else self._asked
        if pause is None:
            known.pop(scope, None)
        else:
            known[scope] = pause
        self._changed.set()
        return True

    def settle(self) -> None:
        """All that was retained is here; what is not, was taken back while we were away."""
        if self._asked is not None:
            self._in_force, self._asked = self._asked, None
        self.known = True
        self._changed.set()

    def in_force(self) -> Pause | None:
        """A pause that holds now."""
        return next((pause for pause in self._in_force.values() if pause.seconds_left() > 0), None)

    async def until_change(self, seconds: float) -> None:
        """Wait until something was heard, for so many seconds at the most."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()


def _topic(scope: str) -> str:
    return _PREFIX + scope.replace(" ", "/", 1)


def _payload(pause: Pause) -> str:
    return json.dumps(
        {
            "by": pause.by,
            "reason": pause.reason,
            "since": pause.since.isoformat(),
            "until": pause.until.isoformat() if pause.until else None,
        }
    )


def _read(scope: str, payload: bytes) -> Pause | None:
    """None for an empty payload; one that cannot be read is a pause too, for it was meant as one."""
    if not payload:
        return None
    said: object = None
    with contextlib.suppress(ValueError, RecursionError):
        said = json.loads(payload)
    fields = said if isinstance(said, dict) else {}
    since = _moment(fields.get("since")) or datetime.now(UTC)
    by, reason = _line(fields.get("by")) or "somebody", _line(fields.get("reason"))
    return Pause(scope, by, reason, since, _moment(fields.get("until")))


def _line(value: object) -> str:
    text = value if isinstance(value, str) else ""
    return "".join(letter for letter in text[:_LONGEST] if letter.isprintable())


def _moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo is not None else None
