"""What an MCP server sends for its agent, and whom it can send to."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from swarmbus.agent_id import BROADCAST
from swarmbus.bus import AgentBus
from swarmbus.errors import NoSubscriber, NotDelivered, SwarmbusError, UsageError
from swarmbus.mailbox import Mailbox
from swarmbus.mcp.fence import line
from swarmbus.mcp.results import Agents, Answer, Sent
from swarmbus.spool import Wait
from swarmbus.standby import Standby

_TIMEOUT: Final = 10.0
_NAMED: Final = 20

_MEANING: Final = {
    "queued": "It is kept on this host and goes out by itself when the broker is back: do not send it again.",
    "accepted": "The broker has it; whether the receiver has is not known yet.",
    "stored": "It is in the receiver's mailbox.",
    "seen": "The receiver has read it.",
}


class Sending:
    """See the module.

    Args:
        bus: What is sent and listed by.
        standby: What holds the agent's session where no listener daemon runs.
        mailbox: The agent's.
        outbox: File that sent messages are appended to; None for none.
    """

    def __init__(self, bus: AgentBus, standby: Standby, mailbox: Mailbox, outbox: Path | None) -> None:
        self._bus = bus
        self._standby = standby
        self._mailbox = mailbox
        self._outbox = outbox

    async def send(
        self,
        to: str,
        subject: str,
        body: str,
        content_type: str,
        priority: str,
        reply_to: str | None,
        in_reply_to: str | None,
        wait: Wait,
    ) -> Answer:
        """Send a message.

        Raises:
            SwarmbusError: As `AgentBus.send`.
        """
        if to == BROADCAST and wait in ("stored", "seen"):
            raise UsageError(f"nobody confirms a broadcast: wait={wait!r}", hint="leave wait out")
        if reply_to is not None and self._knows(reply_to):
            raise UsageError(
                f"reply_to names the agent that is to be answered, and {reply_to} is a message",
                hint=f"to answer that message: in_reply_to={reply_to!r}, and leave reply_to out",
            )
        try:
            delivery = await self._bus.send(
                to,
                subject,
                body,
                content_type,
                priority,
                reply_to,
                self._outbox,
                in_reply_to=in_reply_to,
                wait=wait,
                timeout=_TIMEOUT,
            )
        except NoSubscriber as error:
            raise await self._who_else(to, error) from error
        finally:
            self._standby.take_up()
        why = f" ({line(delivery.reason)})" if delivery.reason else ""
        short = "" if delivery.reached(wait) else f" That is not {wait}, within {_TIMEOUT:g} s."
        text = f"{delivery.state}: message {delivery.id} for {to}{why}. {_MEANING[delivery.state]}{short}"
        facts = Sent(
            result=delivery.state, id=delivery.id, to=to, reason=delivery.reason, final=delivery.final
        )
        return Answer(text, facts)

    async def agents(self) -> Answer:
        """Who is online.

        Raises:
            BrokerUnreachable: If the broker is away.
        """
        online = await self._bus.list_agents()
        return Answer(
            "\n".join(["online:", *online]) if online else "No agent is online.", Agents(result=online)
        )

    def _knows(self, message_id: str) -> bool:
        box = self._mailbox
        return box.inbound.get(message_id) is not None or box.outbound.get(message_id) is not None

    async def _who_else(self, to: str, error: NotDelivered) -> SwarmbusError:
        others: list[str] = []
        with contextlib.suppress(SwarmbusError):
            others = await self._bus.list_agents()
        online = f"online are: {', '.join(others[:_NAMED])}" if others else "nobody is online"
        return NoSubscriber(
            f"no agent called {to} has ever listened at this broker: {error.message_id} was not delivered",
            hint=f"{online}. Send a new message to one that exists",
            message_id=error.message_id,
        )
