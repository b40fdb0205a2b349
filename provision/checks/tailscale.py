"""Tailscale, where it is: whether the way to the broker can go over it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts
from swarmbus.provision.sources.sockets import Address, address
from swarmbus.provision.sources.tailscale import TAILNET

_DAY: Final = 86_400.0
_WARN_DAYS: Final = 14


def _self(facts: Facts) -> Mapping[str, Any]:
    own = facts.tailscale.status().get("Self")
    if not isinstance(own, dict):
        raise CouldNotLook("tailscale does not tell about this machine")
    return own


def _addresses(node: Mapping[str, Any]) -> set[Address]:
    found = (address(str(text)) for text in node.get("TailscaleIPs") or ())
    return {one for one in found if one is not None}


def _listened_on(facts: Facts) -> list[Address]:
    """Addresses of the tailnet that this machine's broker is to listen on."""
    try:
        listeners = facts.local_broker().configuration().listeners
    except CouldNotLook:
        return []
    found = (address(one.address or "") for one in listeners)
    return [one for one in found if one is not None and one in TAILNET]


def _is_used(facts: Facts) -> bool:
    """Whether an agent's way to its broker, or another machine's to ours, goes over the tailnet."""
    hosts = [facts.settings_at(broker).broker for broker in facts.brokers()]
    places = [address(host) for host in hosts]
    named = any(host.endswith(".ts.net") for host in hosts)
    return named or any(one is not None and one in TAILNET for one in places) or bool(_listened_on(facts))


@check("tailscale.state", "tailscale is up", scope="host")
def state(facts: Facts, _: str) -> Iterator[Finding]:
    """BackendState."""
    word = facts.tailscale.status().get("BackendState")
    if word is None:
        raise CouldNotLook("tailscale does not tell its state")
    if word != "Running":
        status = Status.FAIL if _is_used(facts) else Status.INFO
        yield Finding(status, f"tailscale is {word}", {"BackendState": word}, ("sudo tailscale up",))


@check("tailscale.health", "tailscale has nothing to complain of", scope="host", after=("tailscale.state",))
def health(facts: Facts, _: str) -> Iterator[Finding]:
    """Its own warnings, word for word."""
    warnings = [str(one) for one in facts.tailscale.status().get("Health") or ()]
    if warnings:
        status = Status.WARN if _is_used(facts) else Status.INFO
        yield Finding(status, f"tailscale says: {'; '.join(warnings)}", {"warnings": len(warnings)})


@check("tailscale.key-expiry", "this machine's key is valid for long", scope="host")
def key_expiry(facts: Facts, _: str) -> Iterator[Finding]:
    """KeyExpiry and Expired of this node."""
    own = _self(facts)
    until = own.get("KeyExpiry")
    if own.get("Expired") is True:
        message = "the key of this machine has expired: it is not in the tailnet any more"
        yield Finding(Status.FAIL, message, {"KeyExpiry": until}, ("sudo tailscale up --force-reauth",))
    elif isinstance(until, str):
        days = (datetime.fromisoformat(until).timestamp() - facts.now()) / _DAY
        if days < _WARN_DAYS:
            message = f"the key of this machine expires in {days:.0f} days, and with it the way to the broker"
            evidence = {"KeyExpiry": until, "days": round(days, 1)}
            yield Finding(Status.WARN, message, evidence, ("sudo tailscale up --force-reauth",))


@check(
    "tailscale.ip-mismatch",
    "the broker listens on this machine's own address",
    scope="host",
    after=("tailscale.state",),
)
def ip_mismatch(facts: Facts, _: str) -> Iterator[Finding]:
    """Addresses of listeners against TailscaleIPs."""
    own = _addresses(_self(facts))
    for place in _listened_on(facts):
        if place not in own:
            message = f"mosquitto listens on {place}, this machine is {', '.join(sorted(map(str, own)))}"
            yield Finding(Status.FAIL, message, {"listener": str(place)}, (), str(place))


@check(
    "tailscale.peer-offline",
    "the broker's machine is in the tailnet",
    scope="broker",
    after=("tailscale.state",),
)
def peer_offline(facts: Facts, broker: str) -> Iterator[Finding]:
    """Online of the peer that has the broker's name or address."""
    host = facts.settings_at(broker).broker.rstrip(".").lower()
    status = facts.tailscale.status()
    for peer in (status.get("Peer") or {}).values():
        names = {str(peer.get("DNSName", "")).rstrip(".").lower(), str(peer.get("HostName", "")).lower()} - {
            ""
        }
        if host not in names and address(host) not in _addresses(peer):
            continue
        evidence = {
            "peer": peer.get("HostName"),
            "LastSeen": peer.get("LastSeen"),
            "Relay": peer.get("Relay"),
        }
        if peer.get("Online") is False:
            message = f"{peer.get('HostName')}, the broker's machine, is offline since {peer.get('LastSeen')}"
            yield Finding(Status.FAIL, message, evidence)
        elif peer.get("Relay") and not peer.get("CurAddr") and peer.get("Active"):
            message = (
                f"the way to the broker goes over the relay {peer.get('Relay')}: it is slower than need be"
            )
            yield Finding(Status.INFO, message, evidence)


@check(
    "tailscale.funnel",
    "the broker is not open to the whole internet",
    scope="host",
    after=("tailscale.state",),
)
def funnel(facts: Facts, _: str) -> Iterator[Finding]:
    """Ports that Funnel publishes, and what they are forwarded to."""
    said = facts.tailscale.serve()
    forwards = said.get("TCP") or {}
    ports = {str(facts.settings_at(broker).port) for broker in facts.brokers()}
    for place, on in (said.get("AllowFunnel") or {}).items():
        port = str(place).rpartition(":")[2]
        target = str((forwards.get(port) or {}).get("TCPForward", ""))
        if on and (port in ports or target.rpartition(":")[2] in ports):
            message = f"tailscale funnel publishes {place}, which leads to the broker, to the whole internet"
            yield Finding(
                Status.FAIL, message, {"target": target}, ("sudo tailscale funnel reset",), str(place)
            )
