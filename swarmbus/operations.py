"""What a listener daemon answers on its control socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from swarmbus.agent import Agent
from swarmbus.control_server import Answer
from swarmbus.envelope import AgentMessage, NotAnEnvelope, new_message, read_envelope
from swarmbus.errors import InvalidMessage, UsageError
from swarmbus.link import Link

_FIRST_TRY = 4.0
"""Seconds for which a daemon that has only just started is not asked whether it has a broker."""

_WAITS = ("queued", "accepted", "stored", "seen")


class Operations:
    """The answers, over the daemon's agent and link.

    Args:
        about: What ``status`` says of the daemon itself, gathered at each question.
        on_poke: Called when somebody outside has changed the mailbox.
    """

    def __init__(
        self,
        agent: Agent,
        link: Link,
        *,
        about: Callable[[], dict[str, Any]],
        on_poke: Callable[[], None],
    ) -> None:
        self._agent = agent
        self._link = link
        self._about = about
        self._on_poke = on_poke
        self._mail = asyncio.Condition()

    def by_name(self) -> dict[str, Answer]:
        """For `ControlServer`."""
        return {
            "status": self._status,
            "send": self._send,
            "submit": self._submit,
            "wait": self._wait,
            "poke": self._poke,
        }

    async def announce_mail(self) -> None:
        """Wake those who wait for mail."""
        async with self._mail:
            self._mail.notify_all()

    async def _status(self, question: dict[str, Any]) -> dict[str, Any]:
        mailbox, link = self._agent.mailbox, self._link
        return {
            **self._about(),
            "protocol": link.connection.protocol if link.connection else None,
            "session_present": link.connection.session_present if link.connection else None,
            "connected": self._agent.spool.connected,
            "connections": link.connections,
            "connected_since": link.connected_since,
            "disconnected_since": link.disconnected_since,
            "last_error": link.last_error,
            "unread": mailbox.inbound.unread("default"),
            "outbound_pending": mailbox.outbound.count_open(),
            "quarantined": mailbox.quarantine.count(),
        }

    async def _send(self, question: dict[str, Any]) -> dict[str, Any]:
        """Write a message out of its fields, for callers that do not load what that takes."""
        message = new_message(
            sender=self._agent.agent_id,
            to=question["to"],
            subject=question["subject"],
            body=question["body"],
            content_type=question.get("content_type") or "text/plain",
            priority=question.get("priority") or "normal",
            reply_to=question.get("reply_to"),
            extra=question.get("extra"),
            message_id=question.get("id"),
        )
        return await self._deliver(message, question)

    async def _submit(self, question: dict[str, Any]) -> dict[str, Any]:
        """Send a message that the caller has written."""
        try:
            message = read_envelope(question["envelope"])
        except NotAnEnvelope as error:
            raise InvalidMessage(f"not an envelope: {error}") from error
        if message.from_agent != self._agent.agent_id:
            raise InvalidMessage(f"this is the listener of {self._agent.agent_id}, not {message.from_agent}")
        return await self._deliver(message, question)

    async def _deliver(self, message: AgentMessage, question: dict[str, Any]) -> dict[str, Any]:
        wait = question.get("wait", "accepted")
        if wait not in _WAITS:
            raise UsageError(f"cannot wait for {wait!r}", hint=f"one of {', '.join(_WAITS)}")
        delivery = await self._agent.spool.submit(message, wait, float(question.get("timeout", 10.0)))
        return {
            name: getattr(delivery, name) for name in ("id", "to", "ts", "state", "reason", "final", "paused")
        }

    async def _wait(self, question: dict[str, Any]) -> dict[str, Any]:
        consumer = str(question.get("consumer", "default"))
        inbound = self._agent.mailbox.inbound
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_TRY):
                await self._link.tried.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(float(question.get("timeout", 30.0))), self._mail:
                await self._mail.wait_for(lambda: inbound.has_unread(consumer))
        return {
            "unread": inbound.unread(consumer),
            "connected": self._agent.spool.connected,
            "last_error": self._link.last_error,
        }

    async def _poke(self, question: dict[str, Any]) -> dict[str, Any]:
        ids = [message_id for message_id in question.get("seen", ()) if isinstance(message_id, str)]
        if ids:
            await self._agent.commits.add(lambda: self._agent.mailbox.inbound.mark_seen(ids))
        self._agent.spool.reload()
        self._on_poke()
        if (connection := self._link.connection) is not None:
            await self._agent.tell_seen(connection)
        return {"connected": self._agent.spool.connected}
