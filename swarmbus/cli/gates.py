"""Gates: what is tried once a host was changed, before it may stay as it is."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

from swarmbus.config import load_settings
from swarmbus.errors import SwarmbusError

if TYPE_CHECKING:
    from swarmbus.provision.canary import CanaryResult
    from swarmbus.provision.outcome import Gate, GateReport, Prepared

_CANARY_PATIENCE: Final = 15.0
"""Seconds until the listeners, all of them, that were only just started have to be there."""

_HEARD_LATELY: Final = 60.0
"""Seconds; a listener sends itself a marker every 20."""


def heard(document: dict[str, Any]) -> dict[str, Any] | None:
    """Whether each listener has lately heard itself through the broker, with the code that is installed.

    Returns:
        The gate for ``--json``; None where one has not, and the canary has to say why.
    """
    from swarmbus import control  # noqa: PLC0415  # --help has no use for it

    ago_of = {}
    for agent in document["agents"]:
        try:
            status = control.request(agent, {"op": "status"}, timeout=2.0)
        except (control.NoListener, SwarmbusError):
            return None
        ago = time.time() - (status.get("heard") or 0.0)
        if (
            status.get("fingerprint") != document["code"]
            or not status.get("connected")
            or ago > _HEARD_LATELY
        ):
            return None
        ago_of[agent] = round(ago, 1)
    told = ", ".join(f"{agent} {ago:.0f} s ago" for agent, ago in ago_of.items())
    return {"ok": True, "summary": f"heard themselves through the broker: {told}", "heard": ago_of}


def canary_gate(prepared: Prepared) -> GateReport:
    """One message for each agent, from it to itself, through broker, listener, mailbox and receipt."""
    from swarmbus.provision.outcome import GateReport  # noqa: PLC0415  # --help loads no engine

    results = _canaries([agent.id for agent in prepared.spec.agents])
    first = next((result for result in results if not result.ok), results[0])
    return GateReport(
        ok=first.ok, summary=first.summary, detail={"canaries": [result.as_dict() for result in results]}
    )


def still_working(agents: Collection[str]) -> Gate:
    """What worked before still has to: the canaries of these come through, if there are any."""
    from swarmbus.provision.outcome import GateReport  # noqa: PLC0415  # as above

    def judge(_: Prepared) -> GateReport:
        for result in _canaries(agents):
            if not result.ok:
                return GateReport(ok=False, summary=result.summary)
        return GateReport(
            ok=True, summary=f"{', '.join(agents) or 'nobody'} had a working bus, and has it still"
        )

    return judge


def _canaries(agents: Collection[str]) -> list[CanaryResult]:
    """Up to the first that does not come through: that is enough to take all of it back."""
    from swarmbus.provision.canary import canary  # noqa: PLC0415  # as above

    results: list[CanaryResult] = []
    give_up = time.monotonic() + _CANARY_PATIENCE
    for agent in agents:
        patience = max(0.0, give_up - time.monotonic())
        results.append(canary(load_settings({"agent_id": agent}), patience=patience))
        if not results[-1].ok:
            break
    return results
