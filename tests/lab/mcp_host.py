"""An agent host of a test's own: ``swarmbus mcp-server`` in a process, and the client of mcp before it.

async with mcp_host("coder", broker) as host:
    inbox = await host.call("read_inbox")
    inbox.facts["result"], inbox.text
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import TextContent

from tests.lab.mosquitto import Broker


@dataclass(frozen=True)
class Result:
    """What a tool answered."""

    failed: bool
    text: str
    facts: Any

    @property
    def subjects(self) -> list[str]:
        """Of the messages in it."""
        assert not self.failed, self.text
        return [message["subject"] for message in self.facts["result"]]

    @property
    def ids(self) -> list[str]:
        """Of the messages in it."""
        return [message["id"] for message in self.facts["result"]]


class Host:
    """The client's side."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, tool: str, **arguments: Any) -> Result:
        """Call a tool."""
        result = await self.client.call_tool(tool, arguments)
        text = "\n".join(part.text for part in result.content if isinstance(part, TextContent))
        return Result(bool(result.is_error), text, result.structured_content)


def server_words(agent_id: str, broker: Broker, *words: str) -> list[str]:
    """The command line that a host is told."""
    where = ["--broker", broker.host, "--port", str(broker.port)]
    return [sys.executable, "-m", "swarmbus", "mcp-server", "--agent-id", agent_id, *where, *words]


@asynccontextmanager
async def mcp_host(agent_id: str, broker: Broker, *words: str, mode: str = "auto") -> AsyncIterator[Host]:
    """A server and its client; the server ends with the block, by the end of its standard input."""
    async with host_of(server_words(agent_id, broker, *words), mode=mode) as host:
        yield host


@asynccontextmanager
async def host_of(argv: list[str], *, mode: str = "auto") -> AsyncIterator[Host]:
    """The same for any server."""
    parameters = StdioServerParameters(command=argv[0], args=argv[1:], env=dict(os.environ))
    with tempfile.TemporaryFile("w+") as errors:
        try:
            async with Client(stdio_client(parameters, errlog=errors), mode=mode) as client:
                yield Host(client)
        finally:
            errors.seek(0)
            said = errors.read()
            print(said, file=sys.stderr)
        # Its log is silent as long as nothing is amiss.
        assert "Traceback" not in said, said


def server_pids(agent_id: str) -> list[int]:
    """The servers of an agent that this test has started."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            mine = f"HOME={os.environ['HOME']}".encode() in (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if mine and b"mcp-server" in words and agent_id.encode() in words:
            found.append(int(entry.name))
    return found
