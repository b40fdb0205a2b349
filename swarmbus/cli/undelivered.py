"""Why a message has not come as far as was asked, in words, with the exit status that says the same."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from swarmbus.broker import Broker
from swarmbus.cli import output
from swarmbus.config import Settings
from swarmbus.errors import BrokerUnreachable, NotDelivered, SwarmbusError, TimedOut
from swarmbus.presence import ask_presence


def explain(settings: Settings, delivery: Mapping[str, Any], wait: str, timeout: float) -> SwarmbusError:
    """The error for a delivery that is short of ``wait``.

    Args:
        delivery: With ``state``, ``id``, ``to``, ``reason``, and ``unreachable``: why there is no broker,
            where there is none.
        timeout: Seconds that were waited.
    """
    state, message_id, reason = delivery["state"], delivery["id"], delivery.get("reason")
    if state == "queued" and (
        unreachable := delivery.get("unreachable") or (not reason and _no_answer(timeout))
    ):
        return BrokerUnreachable(
            f"{unreachable}; {message_id} is kept here",
            hint="do not send it again: " + _when_it_goes_out(delivery),
        )
    if state == "queued":
        return NotDelivered(
            f"{message_id} is kept here: {reason}",
            hint=f"do not send it again: it goes out when {delivery['to']} is back",
        )
    if state in ("accepted", "stored"):
        why = f": {reason}" if reason else ""
        return TimedOut(
            f"{message_id} is {state}, and not {wait} within {timeout:g} s{why}",
            hint=f"do not send it again; what becomes of it: swarmbus trace {message_id}",
        )
    hint = f"swarmbus outbox lists it; swarmbus outbox --retry {message_id} sends it again"
    if state == "no-subscriber":
        hint = _who_else(settings, delivery["to"]) or hint
    return NotDelivered(f"{message_id} was not delivered ({state}): {reason}", hint=hint)


def _no_answer(timeout: float) -> str:
    return f"no answer from the broker within {timeout:g} s"


def _when_it_goes_out(delivery: Mapping[str, Any]) -> str:
    if delivery.get("by_listener"):
        return "it goes out when the broker is back"
    return "it goes out with the next send, read or start that reaches the broker"


def _who_else(settings: Settings, to: str) -> str | None:
    """A hint at an agent whose name is like ``to``; None where there is no such, or nobody to ask."""
    known: list[str] = []
    with suppress(SwarmbusError):
        broker = Broker.from_settings(settings)
        everybody = asyncio.run(ask_presence(broker, settings.agent_id))
        known = [presence.agent for presence in everybody if presence.agent != to]
    close = output.near(to, known)
    return f"did you mean {close}? swarmbus list --all shows everybody" if close else None
