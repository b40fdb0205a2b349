"""The command line: one module a command, imported only when that command is called.

A command prints data on standard output and returns an `ExitStatus`; talk goes to standard error. What
goes wrong is a `SwarmbusError`, which becomes at most three lines and an exit status here and nowhere
else. With ``--json`` it is also an object on standard output, for programs that read nothing else::

    {"error": "broker-unreachable", "message": "cannot reach the broker at …", "hint": "is it running? …"}
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from typing import Final

import click

from swarmbus.cli import output
from swarmbus.errors import CannotRun, ExitStatus, SwarmbusError, UsageError
from swarmbus.version import __version__

# Here and not in the commands alone, so that --help imports none of them; test_cli_frame.py compares.
_SECTIONS: Final = {
    "Messages": {
        "send": "Send a message.",
        "read": "Print what was not read yet, oldest first.",
        "watch": "Wait for one message and print it.",
        "tail": "Print what is new in the inbox file.",
        "log": "Print what was sent and received, oldest first.",
        "trace": "Print the whole way of one message.",
    },
    "What went wrong": {
        "outbox": "List what was sent and is not delivered.",
        "quarantine": "List what came in and could not be read or handled.",
    },
    "Agents": {
        "list": "List the agents that are online.",
        "start": "Run the listener daemon of an agent.",
        "pause": "Have no agent woken from now on: this one, all of this host, or all.",
        "resume": "Take a pause back: of this agent, of this host, or of all.",
        "mcp-server": "Serve an agent host over the Model Context Protocol, on standard input and output.",
    },
    "This host": {
        "init": "Set up agents on this host: broker, listener daemons, all that keeps them running.",
        "plan": "Print what `swarmbus apply` would change on this host.",
        "apply": "Make this host what a spec says, without asking.",
        "adopt": "Take over the agents that swarmbus-py 0.1 or 0.2 runs on this host, with all they have.",
        "restart": "Restart the listener daemons of agents, and see that the new ones work.",
        "upgrade": "Bring another version of swarmbus to this host, and its agents with it.",
        "uninstall": "Take agents, or all of swarmbus, off this host: as it was before.",
        "show": "Say what is installed on this host, and what of it is ours.",
        "doctor": "Say what is wrong with the agents of this host, and how to mend it.",
    },
}
_COMMANDS: Final = [name for section in _SECTIONS.values() for name in section]

# A module `list` would take the place of the builtin in this one, and none can have a hyphen.
_MODULES: Final = {"list": "list_", "mcp-server": "mcp_server"}

# What a shell shows for a process that ended by SIGINT, and by SIGPIPE.
_INTERRUPTED: Final = 130
_READER_GONE: Final = 141


class LazyGroup(click.Group):
    """Commands by the names of their modules, each of which holds a ``command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the help text."""
        return _COMMANDS

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module; None if there is no such command."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"swarmbus.cli.{_MODULES.get(cmd_name, cmd_name)}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that ``args`` begins with.

        Raises:
            UsageError: If there is none of that name.
        """
        if args and not args[0].startswith("-") and args[0] not in _COMMANDS:
            close = output.near(args[0], _COMMANDS)
            raise UsageError(
                f"no such command: {args[0]!r}",
                hint=f"did you mean 'swarmbus {close}'?" if close else "swarmbus --help lists the commands",
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands in their sections."""
        for title, section in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(section.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Settings also come from the environment and config.toml: docs/configuration.md.",
)
@click.version_option(__version__, prog_name="swarmbus", message="%(prog)s %(version)s")
@click.option(
    "--user", metavar="NAME", help="As root: do it for this account, with its rights and not with root's."
)
@click.pass_context
def commands(context: click.Context, user: str | None) -> None:
    """Messages between AI agents that are not lost."""
    if user is not None:
        from swarmbus.cli.for_account import act  # noqa: PLC0415  # only root has a use for it

        context.obj = act(user, context.invoked_subcommand)


def main() -> int:
    """Run the command of this process, which is to end with the exit status returned."""
    status = run(sys.argv[1:])
    # The interpreter would look through all objects once more on its way out: a seventh of a cheap send.
    gc.freeze()
    return status


def run(given: Sequence[str]) -> int:
    """Run one command.

    Args:
        given: The words after ``swarmbus``.

    Returns:
        The exit status: an `ExitStatus`, 130 after an interrupt, or 141 when nobody reads our output.
    """
    output.prepare()
    try:
        status = commands.main(list(given) or ["--help"], "swarmbus", standalone_mode=False)
        output.flush()
    except click.Abort:
        return _INTERRUPTED
    except output.ReaderGone:
        return _READER_GONE
    except click.ClickException as error:
        return _report(_from_click(error), given)
    except SwarmbusError as error:
        return _report(error, given)
    except Exception as error:
        if _is_verbose(given):
            raise
        return _report(_unforeseen(error), given)
    return int(status or ExitStatus.DONE)


def _report(error: SwarmbusError, given: Sequence[str]) -> int:
    """Say what went wrong on standard error, and to a program that asked for JSON."""
    words = given[2:] if given[:1] == ["--user"] else given
    name = f"swarmbus {words[0]}" if words and words[0] in _COMMANDS else "swarmbus"
    output.complain(name, error)
    if _asks_for_json(given):
        try:
            facts = {"error": error.code, "message": error.message, "hint": error.hint}
            # Of `swarmbus.provision.root.RootStepsNeeded`: what an administrator can run.
            if (script := getattr(error, "script", None)) is not None:
                facts["root_script"] = script
            output.write_json(facts)
            output.flush()
        except (SwarmbusError, output.ReaderGone):
            pass  # the status and standard error say it
    return int(error.exit_status)


def _from_click(error: click.ClickException) -> SwarmbusError:
    path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "swarmbus"
    return UsageError(error.format_message().rstrip("."), hint=f"{path} --help")


def _unforeseen(error: Exception) -> SwarmbusError:
    return CannotRun(
        f"internal error: {type(error).__name__}: {error}",
        hint="this is a fault of swarmbus: please report it with what the same call with -v prints",
    )


def _asks_for_json(given: Sequence[str]) -> bool:
    pairs = pairwise(given)
    return "--json" in given or "--format=json" in given or ("--format", "json") in pairs


def _is_verbose(given: Sequence[str]) -> bool:
    return any(word == "--verbose" or (word.startswith("-v") and word.strip("-v") == "") for word in given)
