"""``swarmbus mcp-server``: an agent's tools for an agent host."""

from __future__ import annotations

import logging
import os
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final, NoReturn

import click

from swarmbus.cli import options, output
from swarmbus.cli.logs import log_to_stderr
from swarmbus.config import Settings
from swarmbus.errors import CannotRun

_EXTRA: Final = "mcp"


@click.command("mcp-server")
@options.with_settings
@options.agent_id
@options.persistent
@click.option(
    "--presence/--no-presence",
    default=False,
    help="Whether the agent is shown as online while no listener daemon runs. [default: no]",
)
@click.option(
    "--state-dir",
    metavar="FOLDER",
    help="Where mailboxes are, as for its listener daemon. [env: SWARMBUS_STATE_DIR]",
)
@options.connection
@options.verbose
def command(settings: Settings, presence: bool, state_dir: str | None) -> NoReturn:
    """Serve an agent host over the Model Context Protocol, on standard input and output.

    Hosts start it themselves: docs/mcp.md has the command for each. Reads from the mailbox of the agent's
    listener daemon where one runs, and receives by itself where none does. Several may run at once.
    """
    settings.require_agent_id()
    if state_dir is not None:
        os.environ["SWARMBUS_STATE_DIR"] = str(Path(state_dir).expanduser().absolute())
    _log_to_stderr()
    try:
        from swarmbus.mcp.server import serve  # noqa: PLC0415  # takes a second
    except ImportError as error:
        if (error.name or "").split(".")[0] not in ("mcp", "mcp_types"):
            raise
        raise _no_mcp() from error
    serve(settings, presence=presence)


def _log_to_stderr() -> None:
    """Standard output is the protocol's; a host shows standard error where it shows logs, or nowhere."""
    log_to_stderr(output.verbosity(), daemon=True)
    logging.getLogger("swarmbus").setLevel(logging.DEBUG if output.verbosity() else logging.WARNING)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


def _no_mcp() -> CannotRun:
    from swarmbus.provision.installation import Interpreter, detect  # noqa: PLC0415  # only on this way out
    from swarmbus.provision.local_system import LocalSystem  # noqa: PLC0415

    here = detect(LocalSystem(), Interpreter.this())
    try:
        what = f"mcp {version('mcp')} is not the one that the MCP server needs"
    except PackageNotFoundError:
        what = "the MCP server needs the package mcp, which is not installed here"
    return CannotRun(what, hint=f"install it: {here.command_for_extra(_EXTRA, _requirements())}")


def _requirements() -> list[str]:
    """Of the extra, as our own metadata has them."""
    ours = [requirement.partition(";") for requirement in requires("swarmbus") or ()]
    return [name.strip() for name, _, marker in ours if f"'{_EXTRA}'" in marker.replace('"', "'")]
