"""Tailscale, by ``tailscale status --json``, whose format may change: what is missing is unknown."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from typing import Any, Final

from swarmbus.provision.sources.memo import CouldNotLook, Source, probe

TAILNET: Final = ipaddress.ip_network("100.64.0.0/10")
"""Where every tailnet has its addresses (RFC 6598)."""

_TIMEOUT: Final = 3.0


class Tailscale(Source):
    """See the module."""

    @probe
    def status(self) -> Mapping[str, Any]:
        """What tailscaled says."""
        return self._ask("status", "--json")

    @probe
    def serve(self) -> Mapping[str, Any]:
        """What it forwards: ``{"TCP": {"1883": {"TCPForward": "127.0.0.1:1883"}}, "AllowFunnel": {…}}``."""
        return self._ask("serve", "status", "--json")

    def _ask(self, *words: str) -> Mapping[str, Any]:
        program = self.system.which("tailscale")
        if program is None:
            raise CouldNotLook("tailscale is not installed here")
        shown = self.system.run([str(program), *words], timeout=_TIMEOUT)
        try:
            said = json.loads(shown.stdout or "null")
        except ValueError:
            said = None
        if said is None and shown.ok:
            return {}
        if not isinstance(said, dict):
            words_ = (shown.stderr or shown.stdout).strip().splitlines()
            raise CouldNotLook(f"tailscale: {words_[-1] if words_ else f'exit status {shown.status}'}")
        return said
