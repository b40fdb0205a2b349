"""The worked example of the existing tool's description, run by a shell as it is printed there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.listener import Listener
from tests.lab.mosquitto import Broker

Shell = Callable[..., str]


@pytest.fixture
def shell(home: Path, broker: Broker) -> Shell:
    """Runs a line with ``swarmbus`` on the PATH; returns standard output."""
    program = home / "bin" / "swarmbus"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m swarmbus "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "SWARMBUS_BROKER": broker.host,
        "SWARMBUS_PORT": str(broker.port),
    }

    def run(line: str, *, status: int = 0) -> str:
        ran = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ran.returncode == status, (line, ran)
        return ran.stdout

    return run


@pytest.fixture
def agents(broker: Broker) -> Iterator[None]:
    """Planner and coder, each with a listener daemon."""
    with Listener("planner", broker), Listener("coder", broker):
        yield


@pytest.mark.usefixtures("agents")
def test_two_agents_talk(shell: Shell, home: Path) -> None:
    shell('swarmbus send --agent-id planner --to coder --subject "hi" --body "got a minute?" --wait stored')
    assert shell("swarmbus list # who's online right now?") == "coder\nplanner\n"
    assert json.loads(shell("swarmbus list --json")) == ["coder", "planner"]
    shell("while ! grep -q minute ~/sync/coder-inbox.md; do sleep 0.05; done")
    assert "From: planner | hi\ngot a minute?\n" in shell("swarmbus tail --agent-id coder")
    assert shell("swarmbus tail --agent-id coder") == ""
    assert "got a minute?" in shell("swarmbus tail --agent-id coder --consumer bot # separate cursor")


@pytest.mark.usefixtures("agents")
def test_bodies_from_files_and_pipes_and_an_outbox(shell: Shell, home: Path) -> None:
    (home / "report.md").write_text("# Report\n")
    shell(
        'swarmbus send --agent-id planner --to coder --subject hello --body "Hi Coder" --outbox ~/sync/out.md'
    )
    shell("swarmbus send --agent-id planner --to coder --subject report --body-file report.md --wait stored")
    shell(
        "cat report.md |"
        " swarmbus send --agent-id planner --to coder --subject piped --body-file - --wait stored"
    )
    listed = shell("swarmbus read --agent-id coder --json | python3 -c 'import json, sys; "
                   "print([m[\"subject\"] for m in json.load(sys.stdin)])'")  # fmt: skip
    assert listed == "['hello', 'report', 'piped']\n"
    assert "To: coder | hello\nHi Coder\n" in (home / "sync/out.md").read_text()


@pytest.mark.usefixtures("agents")
def test_an_agent_without_a_daemon_reads_and_watches(shell: Shell) -> None:
    assert shell("swarmbus read --agent-id scratch # drain retained messages, exit") == ""
    shell('swarmbus send --agent-id planner --to scratch --subject "hi" --body "from planner"')
    assert "from planner" in shell("swarmbus watch --agent-id scratch --timeout 60 # block until one arrives")
    shell("swarmbus watch --agent-id scratch --timeout 0.2", status=1)


def test_one_outbox_variable_serves_every_agent_of_a_shell(shell: Shell, home: Path) -> None:
    shell(
        'export SWARMBUS_OUTBOX="$HOME/sync/{agent_id}-outbox.md"\n'
        "export SWARMBUS_OUTBOX_CODER_BETA=~/sync/beta.md\n"
        "for agent in planner coder-beta; do\n"
        '  swarmbus send --agent-id $agent --to nobody --subject "hi" --body "x"\n'
        "done; true"
    )
    assert sorted(path.name for path in (home / "sync").iterdir()) == ["beta.md", "planner-outbox.md"]
