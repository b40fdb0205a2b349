"""Sending without a listener daemon: over a connection of this process's own.

Apart from `swarmbus.cli.send`, because what is imported here costs several times what a send through the
daemon does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from swarmbus.bus import AgentBus
from swarmbus.cli import output
from swarmbus.cli.logs import log_to_stderr
from swarmbus.config import Settings
from swarmbus.errors import NotDelivered
from swarmbus.mailbox import Mailbox
from swarmbus.paths import mailbox_path
from swarmbus.spool import Wait


def send_without_listener(
    settings: Settings, message: Mapping[str, Any], wait: Wait, timeout: float
) -> dict[str, Any]:
    """Send one message.

    Args:
        message: Its fields, as they are in a request to the listener.

    Returns:
        What the listener's answer would hold: id, to, ts, state, reason; and ``unreachable`` with the
        reason in words where the broker could not be reached.
    """
    log_to_stderr(output.verbosity())
    bus = AgentBus.from_settings(settings)
    arguments = {("message_id" if name == "id" else name): value for name, value in message.items()}
    try:
        delivery = asyncio.run(bus.send(**arguments, wait=wait, timeout=timeout))
    except NotDelivered as error:
        return _failed(bus.agent_id, error)
    return {
        "id": delivery.id,
        "to": delivery.to,
        "ts": delivery.ts,
        "state": delivery.state,
        "reason": delivery.reason,
        "unreachable": bus.last_error if delivery.state == "queued" else None,
        "paused": delivery.paused,
    }


def _failed(agent_id: str, error: NotDelivered) -> dict[str, Any]:
    if error.message_id is None:
        raise error
    with Mailbox.open(mailbox_path(agent_id), create=False) as mailbox, mailbox.reading():
        sent = mailbox.outbound.get(error.message_id)
    if sent is None:
        raise error  # dropped by somebody else at this moment
    return {
        "id": sent.id,
        "to": sent.to,
        "ts": sent.message()["ts"],
        "state": sent.state,
        "reason": sent.reason,
        "unreachable": None,
    }
