"""``swarmbus tail``: what is new in the inbox file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

import click

from swarmbus import control, paths
from swarmbus.cli import options, output
from swarmbus.config import Settings
from swarmbus.errors import ExitStatus, SwarmbusError
from swarmbus.inbox_file import TRAILER, decode_word
from swarmbus.tail import InboxTail
from swarmbus.tail_cursor import cursor_file

AGENT: Final = "default"
"""The consumer that is the agent itself (swarmbus.mailbox.inbound, which a tail need not load)."""


@click.command("tail")
@options.with_settings
@options.agent_id
@options.inbox
@options.consumer
@click.option(
    "--cursor-dir", metavar="FOLDER", help="Where the places are kept. [default: ~/.swarmbus/cursors]"
)
@click.option("-f", "--follow", is_flag=True, help="Do not end: print what comes, as it comes.")
@click.option("--reset", is_flag=True, help="Begin at the start of the file.")
@options.as_json
def command(
    settings: Settings, consumer: str, cursor_dir: str | None, follow: bool, reset: bool, as_json: bool
) -> ExitStatus:
    """Print what is new in the inbox file.

    The file is written by the listener daemon. With --json an object a line. Exit status 2: there is no file.
    """
    agent_id = settings.require_agent_id()
    folder = paths.cursor_dir() if cursor_dir is None else Path(cursor_dir).expanduser()
    tail = InboxTail(settings.inbox_path, cursor_file(agent_id, consumer, folder), notice=output.say)
    if reset:
        tail.reset()
    if as_json:
        for entry in tail.entries(follow=follow):
            output.write(output.as_json(entry.as_dict()) + "\n")
            output.flush()
            if entry.id is not None:
                _seen(agent_id, consumer, [entry.id])
    else:
        for text in tail.texts(follow=follow):
            output.write(text)
            output.flush()
            _seen(
                agent_id,
                consumer,
                [decode_word(word.decode()) for word in TRAILER.findall(f"\n{text}".encode())],
            )
    return ExitStatus.DONE


def _seen(agent_id: str, consumer: str, ids: list[str]) -> None:
    """Have the senders know that the agent itself has read these."""
    if ids and consumer == AGENT:
        # Without a listener nobody could tell them.
        with suppress(control.NoListener, SwarmbusError):
            control.request(agent_id, {"op": "poke", "seen": ids}, timeout=5.0)
