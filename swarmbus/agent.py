"""One agent on one host: mailbox, group commit, spool, intake, put together.

The listener daemon runs it for good; a reader without one, or a sender, for as long as it needs. They
differ in what they subscribe to and under which client id they connect.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from swarmbus import topics
from swarmbus.commits import GroupCommit
from swarmbus.connection import Connection
from swarmbus.intake import Intake, publish_receipts
from swarmbus.mailbox import Mailbox
from swarmbus.message_id import new_id
from swarmbus.paths import mailbox_path
from swarmbus.spool import Spool

_DAY = 86_400.0


class Agent:
    """An agent's two halves over one mailbox.

    Args:
        agent_id: Whose.
        keep_days: Days after which an undelivered message is given up.
        on_mail: Called after a commit that brought something new.
    """

    def __init__(
        self, agent_id: str, *, keep_days: float, on_mail: Callable[[], None] = lambda: None
    ) -> None:
        self.agent_id = agent_id
        self.mailbox = Mailbox.open(mailbox_path(agent_id))
        self.commits = GroupCommit(self.mailbox)
        self.spool = Spool(agent_id, self.mailbox, self.commits, keep_days * _DAY)
        self.intake = Intake(
            agent_id,
            self.mailbox,
            self.commits,
            self.spool,
            on_mail=on_mail,
            on_marker=self._on_marker,
        )
        self._markers: dict[str, asyncio.Future[None]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Have everything on the disk, and let the mailbox go."""
        await self.commits.close()
        self.mailbox.close()

    async def subscribe(self, connection: Connection, *, receive: bool) -> None:
        """Subscribe to our receipts and the presence of those we write to; with ``receive``, to mail too.

        Raises:
            NotAuthorized: If the broker refuses.
            BrokerUnreachable: If the connection is lost.
        """
        filters = [(topics.receipts_filter(self.agent_id), 1)]
        if receive:
            filters += [(topics.inbox_filter(self.agent_id), 1), (topics.BROADCAST_FILTER, 1)]
        filters += [(topics.presence(agent), 0) for agent in self.spool.watched]
        for some in _hundreds(filters):
            await connection.subscribe(some)

    async def hear_marker(self, connection: Connection, *, qos: int, timeout: float) -> bool:
        """Send a marker to ourselves and wait for it.

        At QoS 1 it comes behind all that the broker has queued for us (MQTT 5, 4.6); at QoS 0 it shows
        that we hear at all.

        Returns:
            False if it did not come within ``timeout`` seconds.
        """
        nonce = new_id()
        heard = self._markers[nonce] = asyncio.get_running_loop().create_future()
        payload = json.dumps({"from": self.agent_id, "marker": nonce})
        connection.publish(topics.receipts(self.agent_id), payload, qos=qos).add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )
        try:
            async with asyncio.timeout(timeout):
                await heard
        except TimeoutError:
            return False
        else:
            return True
        finally:
            self._markers.pop(nonce, None)

    async def tell_seen(self, connection: Connection) -> None:
        """Tell the senders what the agent has seen since they were last told."""
        while rows := self.mailbox.inbound.seen_to_tell():
            by_sender: dict[str, list[str]] = {}
            for _, message_id, sender, takes_receipts in rows:
                if takes_receipts:
                    by_sender.setdefault(sender, []).append(message_id)
            told = [
                publish_receipts(connection, self.agent_id, sender, {"seen": ids})
                for sender, ids in by_sender.items()
            ]
            for answer in told:
                await answer
            seqs = [row[0] for row in rows]
            await self.commits.add(partial(self.mailbox.inbound.told, seqs))

    def _on_marker(self, nonce: str) -> None:
        heard = self._markers.get(nonce)
        if heard is not None and not heard.done():
            heard.set_result(None)


def _hundreds(filters: list[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    return [filters[start : start + 100] for start in range(0, len(filters), 100)]
