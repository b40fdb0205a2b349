"""``swarmbus watch``: the next message, waited for."""

from __future__ import annotations

from collections.abc import Sequence

import click

from swarmbus.cli import options, output
from swarmbus.cli.entries import received_text
from swarmbus.cli.reading import read_unread
from swarmbus.config import Settings
from swarmbus.errors import ExitStatus, TimedOut
from swarmbus.mailbox import StoredMessage


@click.command("watch")
@options.with_settings
@options.agent_id
@click.option(
    "--timeout",
    type=options.Seconds(31_536_000),
    default=30.0,
    metavar="SECONDS",
    help="How long to wait. [default: 30]",
)
@options.consumer
@options.persistent
@options.connection
@options.as_json
def command(settings: Settings, timeout: float, consumer: str, as_json: bool) -> ExitStatus:
    """Wait for one message and print it.

    One that came before and was not read yet is printed at once. Exit status 1: none came in time.
    2: the broker cannot be reached.
    """

    def show(messages: Sequence[StoredMessage]) -> None:
        for message in messages:
            if as_json:
                output.write_json(message.as_dict())
            else:
                output.write(received_text(message)[1:])

    if read_unread(settings, consumer, 1, show, stay=timeout):
        return ExitStatus.DONE
    raise TimedOut(f"{settings.agent_id}: no message within {timeout:g} s")
