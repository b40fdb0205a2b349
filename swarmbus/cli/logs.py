"""What the library logs, on standard error."""

from __future__ import annotations

import logging
import os
import sys


def log_to_stderr(verbosity: int, *, daemon: bool = False) -> None:
    """Have the log printed.

    Args:
        verbosity: How many ``-v`` were given.
        daemon: A daemon's log is its only voice. Of a command that ends, what goes wrong is an error that
            it prints: its log is silent unless asked for.
    """
    if daemon:
        level = logging.DEBUG if verbosity else logging.INFO
    else:
        level = (logging.CRITICAL, logging.INFO, logging.DEBUG)[min(verbosity, 2)]
    # The journal has times of its own (systemd.exec(5), $JOURNAL_STREAM).
    when = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{when}%(levelname)s %(name)s: %(message)s"))
    log = logging.getLogger("swarmbus")
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(level)
    # asyncio reports what a task left behind; of a short command that is no news.
    logging.getLogger("asyncio").setLevel(logging.ERROR if daemon or verbosity else logging.CRITICAL)
