"""The command line as a user calls it: ``swarmbus`` in a process of its own.

ran = swarmbus("send", "--agent-id=planner", "--to=coder", "--subject=hi", "--body-file=-", stdin=b"...")
assert ran.status == 0
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple


class Ran(NamedTuple):
    """How it ended, and what it wrote."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as one JSON value."""
        return json.loads(self.out)

    @property
    def complaint(self) -> list[str]:
        """The lines of standard error."""
        return self.err.splitlines()


def swarmbus(
    *words: str | bytes,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    timeout: float = 60.0,
    wrapper: tuple[str, ...] = (),
) -> Ran:
    """Run it to its end, in the home and environment of the test.

    Args:
        env: Added to the environment.
        timeout: In seconds; then `subprocess.TimeoutExpired` is raised.
        wrapper: A command in front of it.
    """
    ran = subprocess.run(
        [*wrapper, *command(), *words],
        input=stdin,
        capture_output=True,
        timeout=timeout,
        env=os.environ | (env or {}),
    )
    return Ran(ran.returncode, ran.stdout.decode(), ran.stderr.decode())


def command() -> list[str]:
    """The words that stand for ``swarmbus``."""
    return [sys.executable, "-m", "swarmbus"]
