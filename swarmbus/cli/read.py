"""``swarmbus read``: what was not read yet."""

from __future__ import annotations

from collections.abc import Sequence

import click

from swarmbus.cli import options, output
from swarmbus.cli.entries import received_text
from swarmbus.cli.reading import read_unread
from swarmbus.config import Settings
from swarmbus.errors import ExitStatus
from swarmbus.mailbox import StoredMessage


@click.command("read")
@options.with_settings
@options.agent_id
@click.option(
    "--max", "limit", type=click.IntRange(1), default=10, metavar="N", help="How many at most. [default: 10]"
)
@click.option("--peek", is_flag=True, help="Leave them unread.")
@options.consumer
@options.connection
@options.as_json
def command(settings: Settings, limit: int, peek: bool, consumer: str, as_json: bool) -> ExitStatus:
    """Print what was not read yet, oldest first.

    Works beside a listener daemon and without one. Exit status 0 if there is nothing; 2 if there is nothing
    and the broker could not be asked.
    """

    def show(messages: Sequence[StoredMessage]) -> None:
        if as_json:
            output.write_json([message.as_dict() for message in messages])
            return
        for number, message in enumerate(messages):
            text = received_text(message)
            output.write(text if number else text[1:])

    if not read_unread(settings, consumer, limit, show, peek=peek):
        output.say(f"{settings.agent_id}: nothing unread")
    return ExitStatus.DONE
