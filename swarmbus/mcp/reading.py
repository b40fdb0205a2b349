"""What an MCP server hands out to its host.

Reading is acknowledged: what was handed out and not acknowledged is handed out again, to this server at every
`read`, to another one when it is nobody's any more (`holds`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Final

from swarmbus import control
from swarmbus.broker import Broker
from swarmbus.errors import SwarmbusError
from swarmbus.mailbox import Mailbox, StoredMessage
from swarmbus.mcp.fence import NOTICE, fenced, line
from swarmbus.mcp.holds import Holds
from swarmbus.mcp.results import Answer, Inbox, counted, fitting, published
from swarmbus.reader import tell_seen
from swarmbus.standby import Standby

READER: Final = "mcp"
"""The handler's name under which all MCP servers of an agent read."""

LONGEST_WAIT: Final = 3600.0
"""Seconds."""

_LOOK_EVERY: Final = 0.1
_LOOK_AGAIN: Final = 1.0
"""Seconds between two looks for what another server has let go of."""


class Reading:
    """See the module.

    Args:
        agent_id: Whose messages.
        broker: Where their senders are told, if neither a listener daemon nor we hold the session.
        standby: What receives; it runs while this is used.
        mailbox: The agent's.
        holds: What this server has handed out.
        keep_days: As for `Agent`.
    """

    def __init__(
        self,
        agent_id: str,
        broker: Broker,
        standby: Standby,
        mailbox: Mailbox,
        holds: Holds,
        *,
        keep_days: float,
    ) -> None:
        self._agent_id = agent_id
        self._broker = broker
        self._standby = standby
        self._mailbox = mailbox
        self._holds = holds
        self._keep_days = keep_days
        self._watched: list[str] = []
        self._telling: set[asyncio.Task[None]] = set()
        with mailbox.transaction():
            mailbox.acknowledgements.begin(READER)

    async def read(self, ack_ids: Sequence[str], limit: int, wait: float) -> Answer:
        """Acknowledge, and hand out what is not acknowledged, oldest first.

        Args:
            ack_ids: Messages that the agent is done with.
            limit: How many messages at most; 0 only acknowledges.
            wait: If there is none, wait for it, for so many seconds at the most.

        Raises:
            SwarmbusError: If there is nothing, and we could not ask the broker.
        """
        done = self._acknowledge(ack_ids)
        strange = [message_id for message_id in dict.fromkeys(ack_ids) if message_id not in done]
        if limit == 0:
            return self._inbox([], set(), done, strange, None)
        known = self._holds.own
        messages, trouble = await self._next(limit, wait, again=True)
        return self._inbox(messages, known, done, strange, trouble)

    async def watch(self, timeout: float) -> Answer:
        """Hand out the next message that this server has not handed out, waiting for it.

        What the watch before has handed out is acknowledged by it: whoever watches again has got it.

        Raises:
            SwarmbusError: If there is none, and we could not ask the broker.
        """
        done = self._acknowledge(self._watched)
        messages, trouble = await self._next(1, timeout, again=False)
        self._watched = [message.id for message in messages]
        return self._inbox(messages, set(), done, [], trouble)

    async def _next(
        self, limit: int, wait: float, *, again: bool
    ) -> tuple[list[StoredMessage], SwarmbusError | None]:
        trouble: SwarmbusError | None = None
        try:
            await self._standby.check()
        except SwarmbusError as error:
            trouble = error
        messages = self._hand_out(limit, again=again)
        if messages:
            return messages, trouble
        if trouble is not None:
            raise trouble
        if not wait:
            return [], None
        give_up = time.monotonic() + wait
        while not messages and time.monotonic() < give_up:
            await self._until_something_changes(give_up)
            messages = self._hand_out(limit, again=again)
        if not messages:
            await self._standby.check()
        return messages, None

    async def _until_something_changes(self, give_up: float) -> None:
        before = self._mailbox.inbound.last_seq()
        look_again = min(give_up, time.monotonic() + _LOOK_AGAIN)
        while (left := look_again - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _LOOK_EVERY))
            if self._mailbox.inbound.last_seq() != before:
                return

    def _hand_out(self, limit: int, *, again: bool) -> list[StoredMessage]:
        with self._holds.turn() as taken, self._mailbox.reading():
            without = taken if again else taken | self._holds.own
            messages = self._mailbox.acknowledgements.pending(READER, limit, without=without)
            messages = messages[: fitting([message.body for message in messages])]
            self._holds.hold(message.seq for message in messages)
        return messages

    def _acknowledge(self, ids: Sequence[str]) -> list[str]:
        if not ids:
            return []
        with self._holds.turn():
            with self._mailbox.transaction():
                done = self._mailbox.acknowledgements.acknowledge(READER, ids)
            found = [self._mailbox.inbound.get(message_id) for message_id in done]
            self._holds.release(message.seq for message in found if message is not None)
        if done:
            telling = asyncio.get_running_loop().create_task(self._tell_senders())
            self._telling.add(telling)  # a task that nobody holds may be collected before it runs
            telling.add_done_callback(self._telling.discard)
        return done

    async def _tell_senders(self) -> None:
        with contextlib.suppress(SwarmbusError):  # what fails here is told the next time
            try:
                await asyncio.to_thread(control.request, self._agent_id, {"op": "poke"}, 5.0)
            except control.NoListener:
                if not await self._standby.tell_seen():
                    await tell_seen(self._agent_id, self._broker, keep_days=self._keep_days)

    def _inbox(
        self,
        messages: Sequence[StoredMessage],
        known: set[int],
        done: list[str],
        strange: list[str],
        trouble: SwarmbusError | None,
    ) -> Answer:
        shown = [published(message.as_dict(), redelivered=message.seq in known) for message in messages]
        pending = self._mailbox.acknowledgements.count(READER)
        head = [
            f"Acknowledged: {len(done)}." if done else "",
            f"Nothing to acknowledge: {', '.join(map(line, strange))}." if strange else "",
            f"There may be more: {line(trouble.message)}." if trouble else "",
            f"{counted(len(shown))} for {self._agent_id}; {pending} not acknowledged in all."
            if shown
            else f"No message; {pending} not acknowledged."
            if pending
            else "No message.",
            "When you are done with one, pass its id in ack_ids of read_inbox: else it comes again."
            if shown
            else "",
        ]
        facts = Inbox(
            notice=NOTICE,
            result=shown,
            pending=pending,
            acknowledged=done,
            not_pending=strange,
            trouble=trouble.message if trouble else None,
        )
        return Answer(fenced(shown, " ".join(part for part in head if part)), facts)
