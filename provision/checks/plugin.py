"""What of ours an agent host has."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts
from swarmbus.provision.old_tool import ClaudeEntry
from swarmbus.provision.sources.files import others_may


def _entry(facts: Facts) -> ClaudeEntry | None:
    if facts.stat(facts.layout.home / ".claude/settings.json") is None:
        raise CouldNotLook("Claude Code has no settings here")
    return facts.old_tool().claude


@check("plugin.cc-location", "Claude Code's entry is where it looks", scope="host")
def cc_location(facts: Facts, _: str) -> Iterator[Finding]:
    """An entry of ours in settings.json, which Claude Code reads for other things."""
    entry = _entry(facts)
    if entry is None:
        return
    if entry.problem is not None:
        raise CouldNotLook(f"{entry.path}: {entry.problem}")
    message = (
        f"{entry.path} has mcpServers.swarmbus, and Claude Code reads MCP servers in ~/.claude.json only"
    )
    words = ["claude", "mcp", "add", "--scope", "user", "swarmbus", "--", "swarmbus", "mcp-server"]
    words += ["--agent-id", entry.agent_id] if entry.agent_id else []
    yield Finding(Status.FAIL, message, {"agent_id": entry.agent_id}, (shlex.join(words),))


@check("plugin.cc-secret", "no password lies open in Claude Code's settings", scope="host")
def cc_secret(facts: Facts, _: str) -> Iterator[Finding]:
    """Whether the entry of ours has one, and others can read the file."""
    entry = _entry(facts)
    seen = facts.files.followed(entry.path) if entry is not None else None
    if entry is not None and entry.secret and seen is not None and others_may(seen, facts.system.user, 0o044):
        message = f"{entry.path} holds the broker's password, and others can read it (mode {seen.mode:04o})"
        fix = (f"chmod 600 {shlex.quote(str(entry.path))}",)
        yield Finding(Status.FAIL, message, {"mode": f"{seen.mode:04o}"}, fix)
