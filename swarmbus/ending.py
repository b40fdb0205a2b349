"""Ending a task that we started."""

from __future__ import annotations

import asyncio


async def end(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait until it has ended, however it does.

    Not ``suppress(CancelledError): await task``: that swallows our own cancellation too, when it comes while
    we wait, and whoever cancelled us waits for ever.
    """
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # heard; what matters of it was seen before
