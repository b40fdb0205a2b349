"""The MCP server before mcporter, the client that OpenClaw's skill and many scripts use."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.lab.mcp_host import server_words
from tests.lab.mosquitto import Broker
from tests.lab.npm_programs import MCPORTER, npm_program


@pytest.fixture
def config(broker: Broker, tmp_path: Path) -> Path:
    """The file in which it finds the server."""
    command, *words = server_words("coder", broker)
    path = tmp_path / "mcporter.json"
    path.write_text(json.dumps({"mcpServers": {"swarmbus": {"command": command, "args": words}}}))
    return path


def mcporter(config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [str(npm_program(MCPORTER, "mcporter")), "--config", str(config), *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def test_server_is_healthy(config: Path) -> None:
    ran = mcporter(config, "list")
    assert ran.returncode == 0, ran.stderr
    assert "swarmbus (6 tools" in ran.stdout
    assert "1 healthy" in ran.stdout


def test_message_is_sent_read_and_acknowledged(config: Path) -> None:
    def call(tool: str, *words: str) -> dict[str, object]:
        ran = mcporter(config, "call", f"swarmbus.{tool}", *words, "--output", "json")
        assert ran.returncode == 0, ran.stdout + ran.stderr
        said: dict[str, object] = json.loads(ran.stdout)
        return said

    sent = call("send_message", "to=coder", "subject=hi", "body=yo")
    assert sent["result"] in ("accepted", "stored")
    inbox = call("read_inbox", "wait_seconds=10")
    assert [message["id"] for message in inbox["result"]] == [sent["id"]]  # type: ignore[attr-defined]
    assert call("read_inbox", f'ack_ids=["{sent["id"]}"]')["acknowledged"] == [sent["id"]]
    assert call("read_inbox")["result"] == []


def test_error_of_a_tool_is_one(config: Path, broker: Broker) -> None:
    broker.kill()
    ran = mcporter(config, "call", "swarmbus.read_inbox", "--output", "json")
    assert ran.returncode == 1
    assert "broker-unreachable" in ran.stdout
