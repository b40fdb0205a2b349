"""Bridges, addresses and firewall rules of this machine, by ``ip`` and ``nft``."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import random
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.lab import outside


def free_network() -> ipaddress.IPv4Network:
    """A random 10.x.y.0/24 that no route, address or name server of this machine is in."""
    taken = [ipaddress.ip_network("10.0.0.0/24")]  # what many containers and clouds use
    for route in json.loads(ip("-json", "-4", "route", "show", "table", "all")):
        for word in (route.get("dst", ""), route.get("gateway", "")):
            with contextlib.suppress(ValueError):
                network = ipaddress.ip_network(word)
                if network.prefixlen > 8:  # a whole 10/8 is routed somewhere: ours is more specific and wins
                    taken.append(network)
    for address in re.findall(r"\d+\.\d+\.\d+\.\d+", outside.resolv_conf()):
        taken.append(ipaddress.ip_network(address))
    while True:
        network = ipaddress.IPv4Network(f"10.{random.randrange(1, 255)}.{random.randrange(256)}.0/24")
        if not any(network.overlaps(other) for other in taken):
            return network


def ip(*argv: str, check: bool = True) -> str:
    """Run ``ip`` and return what it printed."""
    result = subprocess.run(["ip", *argv], capture_output=True, text=True)
    if check and result.returncode != 0:
        raise RuntimeError(f"ip {' '.join(argv)}: {result.stderr.strip()}")
    return result.stdout


def remove_link(name: str) -> None:
    """Remove a network interface, if it is there.

    The kernel removes a veth with the network namespace of its other end, but later, in the background: a
    machine started again by then would fail with "Failed to add new veth interfaces: File exists".
    """
    if Path("/sys/class/net", name).exists():
        ip("link", "delete", name, check=False)


def nft(rules: str) -> None:
    """Load rules into nftables."""
    result = subprocess.run(["nft", "--file", "-"], input=f"{rules}\n", capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"nft refused {rules!r}: {result.stderr.strip()}")


def chains_that_drop_forwarded() -> list[tuple[str, str, str]]:
    """Family, table and name of each chain that drops forwarded packets unless a rule accepts them."""
    return [
        (chain["family"], chain["table"], chain["name"])
        for chain in (entry["chain"] for entry in _ruleset() if "chain" in entry)
        if chain.get("hook") == "forward" and chain.get("policy") == "drop" and chain["family"] != "ip6"
    ]


def delete_rules_naming(interface: str) -> None:
    for entry in _ruleset():
        rule = entry.get("rule")
        if rule and f'"right": "{interface}"' in json.dumps(rule["expr"]):
            place = [rule["family"], rule["table"], rule["chain"], "handle", str(rule["handle"])]
            subprocess.run(["nft", "delete", "rule", *place], capture_output=True)


def _ruleset() -> list[dict[str, dict[str, Any]]]:
    listed = subprocess.run(["nft", "--json", "list", "ruleset"], capture_output=True, text=True)
    objects: list[dict[str, dict[str, Any]]] = json.loads(listed.stdout or "{}").get("nftables", [])
    return objects
