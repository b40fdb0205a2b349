"""Every command line that the existing tool's description prints is one of ours too."""

from __future__ import annotations

import shlex

import click
import pytest

from swarmbus.cli import commands

#: As printed.
_PRINTED = """
swarmbus init --agent-id planner
swarmbus init --agent-id coder
swarmbus init --help
swarmbus init --agent-id planner --host-type none
swarmbus doctor
swarmbus doctor --agent-id planner
swarmbus send --agent-id planner --to coder --subject "hi" --body "got a minute?"
swarmbus list # who's online right now?
swarmbus tail --agent-id planner # new entries from the daemon's inbox file since last cursor
swarmbus tail --agent-id planner --follow # stream new content (blocks)
swarmbus tail --agent-id planner --consumer bot # separate cursor
swarmbus read --agent-id scratch # drain retained messages, exit
swarmbus watch --agent-id scratch --timeout 60 # block until one arrives
swarmbus start --agent-id me --inbox ~/sync/me-inbox.md --invoke "$(pwd)/examples/claude-code-wake.sh me"
swarmbus start --agent-id coder --inbox ~/sync/coder-inbox.md --invoke "$(pwd)/examples/openclaw-wake.sh main"
swarmbus send --agent-id planner --to coder --subject hello --body "Hi Coder"
swarmbus send --agent-id planner --to coder --subject hello --body "Hi Coder" \\
    --outbox ~/sync/planner-outbox.md
swarmbus send --agent-id planner --to coder --subject report --body-file report.md
swarmbus send --agent-id planner --to coder --subject report --body-file -
swarmbus read --agent-id planner
swarmbus read --agent-id planner --json
swarmbus watch --agent-id planner --timeout 60
swarmbus list
swarmbus list --json
swarmbus start --agent-id planner --inbox ~/sync/inbox.md
swarmbus start --agent-id laptop-cc --broker broker-host.your-tailnet.ts.net --inbox ~/sync/laptop-cc-inbox.md
swarmbus send --agent-id laptop-cc --to planner --broker broker-host.your-tailnet.ts.net \\
    --subject "hi" --body "from the laptop"
"""
LINES = _PRINTED.strip().replace("\\\n", "").splitlines()

#: Options of swarmbus-py 0.1.4 and 0.2.0, by command: all of them keep working.
OPTIONS_OF_THE_EXISTING_TOOL = {
    "send": "--agent-id --to --subject --body --body-file --content-type --priority --reply-to --outbox",
    "start": "--agent-id --inbox --invoke --persistent --no-persistent",
    "read": "--agent-id --max --json",
    "watch": "--agent-id --timeout --json --persistent --no-persistent",
    "tail": "--agent-id --inbox --consumer --cursor-dir --follow -f --reset",
    "list": "--json",
    "doctor": "--agent-id",
    "init": "--agent-id --host-type --invoke --inbox --skip-broker --skip-plugin --dry-run --yes",
}
OF_THE_CONNECTION = (
    "--broker --port --username --password --ca-cert --client-cert --client-key --tls --no-tls"
)


def _command(name: str) -> click.Command:
    found = commands.get_command(click.Context(commands), name)
    assert found is not None, f"there is no command {name}"
    return found


@pytest.mark.parametrize("line", LINES)
def test_line_is_understood(line: str) -> None:
    program, name, *words = shlex.split(line, comments=True)
    assert program == "swarmbus"
    if words != ["--help"]:
        _command(name).make_context(name, words)


@pytest.mark.parametrize("name", OPTIONS_OF_THE_EXISTING_TOOL)
def test_options_of_the_existing_tool_are_kept(name: str) -> None:
    wanted = set(OPTIONS_OF_THE_EXISTING_TOOL[name].split())
    if name != "tail":
        wanted |= set(OF_THE_CONNECTION.split())
    ours = {
        option
        for parameter in _command(name).params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    assert wanted - ours == set()


@pytest.mark.parametrize(
    ("name", "option", "default"),
    [
        ("send", "content_type", "text/plain"),
        ("send", "priority", "normal"),
        ("read", "limit", 10),
        ("watch", "timeout", 30.0),
        ("tail", "consumer", "default"),
    ],
)
def test_defaults_of_the_existing_tool_are_kept(name: str, option: str, default: object) -> None:
    words = ["--to=b", "--subject=s"] if name == "send" else []
    assert _command(name).make_context(name, words).params[option] == default
