"""What reading costs when much is stored: mailboxes and inbox files of 1,000 and of 1,000,000 messages."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

from swarmbus.envelope import AgentMessage, new_message
from swarmbus.inbox_file import inbox_entry
from swarmbus.mailbox import Mailbox

NEW = 10


def measure(program: Path, folder: Path, stored: int, repeats: int) -> dict[str, float]:
    """Seconds of processor time of ``read`` and ``tail`` with ten new messages behind ``stored`` old ones."""
    home = folder / str(stored)
    state = home / ".local/state/swarmbus/coder"
    inbox = home / "sync/coder-inbox.md"
    inbox.parent.mkdir(parents=True)
    costs: dict[str, list[float]] = {"read": [], "tail": []}
    with Mailbox.open(state / "mailbox.db") as mailbox, inbox.open("ab") as file:
        _fill(mailbox, file, stored)
        file.flush()
        environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
        read = ["read", "--agent-id", "coder", "--max", "100", "--port", "1", "--json"]
        tail = ["tail", "--agent-id", "coder", "--json"]
        _forward(mailbox, home, inbox)
        for _ in range(repeats):
            _fill(mailbox, file, NEW)
            file.flush()
            for name, arguments in (("read", read), ("tail", tail)):
                costs[name].append(_cost([str(program / "swarmbus"), *arguments], environment))
    return {name: statistics.median(values) for name, values in costs.items()}


def _fill(mailbox: Mailbox, file: object, count: int) -> None:
    body = "x" * 100
    for start in range(0, count, 10_000):
        messages = [_message(body) for _ in range(min(10_000, count - start))]
        with mailbox.transaction():
            mailbox.inbound.store(messages, time.time())
        file.write(b"".join(map(inbox_entry, messages)))  # type: ignore[attr-defined]


def _message(body: str) -> AgentMessage:
    return new_message(sender="planner", to="coder", subject="stored", body=body)


def _forward(mailbox: Mailbox, home: Path, inbox: Path) -> None:
    """Put both cursors behind what is stored."""
    with mailbox.transaction():
        while mailbox.inbound.take("default", 100_000):
            pass
    cursor = home / ".swarmbus/cursors/coder--default.cursor"
    cursor.parent.mkdir(parents=True)
    status = inbox.stat()
    cursor.write_text(f"{status.st_size} {status.st_ino}")


def _cost(command: list[str], environment: dict[str, str]) -> float:
    began = os.times()
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    ended = os.times()
    # `read` prints an array, `tail` an object a line.
    printed = json.loads(done.stdout) if done.stdout.startswith("[") else done.stdout.splitlines()
    if len(printed) != NEW:
        raise AssertionError(f"{command} gave {done.stdout[:200]} at {datetime.now(UTC)}")
    return ended.children_user + ended.children_system - began.children_user - began.children_system
