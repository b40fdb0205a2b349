"""The MCP server before MCP Inspector, the protocol's own client, in both eras of the protocol."""

from __future__ import annotations

import json
import subprocess
from typing import Any, NamedTuple

import pytest

from tests.lab.listener import Listener
from tests.lab.mcp_host import server_words
from tests.lab.mosquitto import Broker
from tests.lab.npm_programs import INSPECTOR, npm_program

IS_ERROR = 5
"""Exit status of the Inspector for a tool that answers with an error."""


class Said(NamedTuple):
    status: int
    result: Any


@pytest.fixture(params=["legacy", "modern"])
def era(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def inspect(broker: Broker, era: str, method: str, *words: str) -> Said:
    """One request of the Inspector to a server of its own."""
    argv = [str(npm_program(INSPECTOR, "mcp-inspector")), "--cli", "-q", "--format", "json"]
    argv += ["--protocol-era", era]
    argv += [*server_words("coder", broker), "--method", method, *words]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert ran.stdout, ran.stderr
    return Said(ran.returncode, json.loads(ran.stdout)["result"])


def call(broker: Broker, era: str, tool: str, **arguments: str) -> Said:
    given = [word for name, value in arguments.items() for word in ("--tool-arg", f"{name}={value}")]
    return inspect(broker, era, "tools/call", "--tool-name", tool, *given)


def test_tools_pass_its_strict_reading(broker: Broker, era: str) -> None:
    said = inspect(broker, era, "tools/list", "--strict")
    assert said.status == 0
    tools = {tool["name"]: tool for tool in said.result["tools"]}
    assert len(tools) == 6
    assert all(tool["outputSchema"]["type"] == "object" for tool in tools.values())
    assert tools["list_agents"]["annotations"]["readOnlyHint"] is True


def test_message_goes_out_and_comes_in_and_is_acknowledged(broker: Broker, era: str) -> None:
    with Listener("coder", broker):
        sent = call(broker, era, "send_message", to="coder", subject="hi", body="yo", wait="stored")
        assert (sent.status, sent.result["structuredContent"]["result"]) == (0, "stored")
        (message,) = call(broker, era, "read_inbox").result["structuredContent"]["result"]
        assert (message["id"], message["body"]) == (sent.result["structuredContent"]["id"], "yo")
        acknowledged = call(broker, era, "read_inbox", ack_ids=json.dumps([message["id"]]))
        assert acknowledged.result["structuredContent"]["acknowledged"] == [message["id"]]
        status = call(broker, era, "delivery_status", id=message["id"])
        assert status.result["structuredContent"]["result"] == "seen"


def test_error_of_a_tool_is_one(broker: Broker, era: str) -> None:
    said = call(broker, era, "send_message", to="Nobody!", subject="hi", body="yo")
    assert (said.status, said.result["isError"]) == (IS_ERROR, True)
    broker.kill()
    said = call(broker, era, "read_inbox")
    assert (said.status, said.result["isError"]) == (IS_ERROR, True)


def test_inbox_is_a_resource(broker: Broker, era: str) -> None:
    (contents,) = inspect(broker, era, "resources/read", "--uri", "swarmbus://inbox").result["contents"]
    assert (contents["mimeType"], contents["text"]) == ("text/plain", "No message.")
