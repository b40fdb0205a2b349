"""The skill tells models only of tools, arguments and commands that there are."""

from __future__ import annotations

import importlib.resources
import inspect
import re

import click
import pytest

from swarmbus.cli import commands
from swarmbus.mcp.tools import Tools

SKILL = (
    importlib.resources.files("swarmbus") / "templates" / "skills" / "using-swarmbus" / "SKILL.md"
).read_text()
TOOLS = {name: tool for name, tool in inspect.getmembers(Tools, inspect.isfunction) if name[0] != "_"}
QUOTED = re.findall(r"`([^`]+)`", SKILL)


def test_it_begins_with_what_hosts_look_for() -> None:
    head = re.match(r"---\nname: ([a-z-]+)\ndescription: (.+)\n---\n", SKILL)
    assert head is not None
    assert head[1] == "using-swarmbus"
    assert len(head[2]) <= 1024  # the limit of the skill format


def test_it_is_short() -> None:
    assert len(SKILL) < 5_000


def test_tools_and_their_arguments_exist_and_none_is_left_out() -> None:
    calls = [re.fullmatch(r"(\w+)(?:\((.*)\))?", quoted) for quoted in QUOTED]
    named = {found[1]: found[2] for found in calls if found and (found[2] is not None or "_" in found[1])}
    arguments = {name for tool in TOOLS.values() for name in inspect.signature(tool).parameters}
    assert set(named) - set(TOOLS) - arguments == set()
    assert set(TOOLS) - set(named) == set()
    for tool, given in named.items():
        if given is not None:
            for argument in filter(None, re.split(r", (?![^\[]*\])", given)):
                assert argument.split("=")[0] in inspect.signature(TOOLS[tool]).parameters


@pytest.mark.parametrize("line", [quoted for quoted in QUOTED if quoted.startswith("swarmbus ")])
def test_commands_exist_with_their_options(line: str) -> None:
    _, name, *words = line.split()
    command = commands.get_command(click.Context(commands), name)
    assert command is not None
    options = {word for word in words if word.startswith("--")}
    assert options <= {option for parameter in command.params for option in parameter.opts}
    assert f"swarmbus {name}" in SKILL


def test_options_named_apart_are_those_of_send() -> None:
    send = commands.get_command(click.Context(commands), "send")
    assert send is not None
    apart = {quoted.split()[0] for quoted in QUOTED if quoted.startswith("--")}
    assert apart
    assert apart <= {option for parameter in send.params for option in parameter.opts}
