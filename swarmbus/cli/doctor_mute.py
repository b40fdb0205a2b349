"""``swarmbus doctor --mute`` and ``--unmute``: what does not count for a while."""

from __future__ import annotations

import time
from datetime import datetime

from swarmbus.cli import moments, output
from swarmbus.cli.doctor_look import Asked, examine
from swarmbus.errors import ExitStatus, UsageError
from swarmbus.inbox_file import one_line
from swarmbus.provision.layout import Layout
from swarmbus.provision.local_system import LocalSystem
from swarmbus.provision.mutes import add_mutes, mute, remove_mutes


def mute_it(asked: Asked, what: str, lasting: str) -> ExitStatus:
    """Look at this host, and mute what ``CODE[:SUBJECT]`` finds there now.

    Raises:
        UsageError: If it finds nothing.
    """
    until = time.time() + moments.span(lasting, "--for")
    new = mute(examine(asked), what, until)
    add_mutes(LocalSystem(), Layout.of_this_user(), new)
    shown = datetime.fromtimestamp(until).astimezone().strftime("%Y-%m-%d %H:%M")
    for one in new:
        output.write_lines(
            [one_line(f"{one.code} {one.subject}".rstrip()) + f": muted until {shown}, or it gets worse"]
        )
    return ExitStatus.DONE


def unmute(what: str) -> ExitStatus:
    """Have it count again.

    Raises:
        UsageError: If it is not muted.
    """
    gone = remove_mutes(LocalSystem(), Layout.of_this_user(), what)
    if not gone:
        raise UsageError(f"{what} is not muted", hint="swarmbus doctor shows what is")
    output.write_lines(one_line(f"{one.code} {one.subject}".rstrip()) + ": counts again" for one in gone)
    return ExitStatus.DONE
