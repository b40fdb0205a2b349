"""Asynchronous tests: each runs in an event loop of its own, in which nothing goes wrong unheard.

@in_loop
async def test_something(broker: Broker) -> None: ...
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec

P = ParamSpec("P")


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a plain test of an asynchronous one; an exception that nobody awaited fails it too."""

    @wraps(test)
    def run(*arguments: P.args, **keywords: P.kwargs) -> None:
        unheard: list[str] = []

        async def watched() -> None:
            def note(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
                unheard.append(f"{context['message']}: {context.get('exception')!r}")

            asyncio.get_running_loop().set_exception_handler(note)
            await test(*arguments, **keywords)
            gc.collect()  # a future that is dropped with its exception says so when it is collected

        asyncio.run(watched())
        assert not unheard, f"went wrong in the event loop: {unheard}"

    return run


async def until(is_so: Callable[[], bool], *, timeout: float = 10.0) -> None:
    """Wait for what has no event of its own: another process's file, a mailbox that others write.

    Raises:
        AssertionError: If it is not so after ``timeout`` seconds.
    """
    give_up = time.monotonic() + timeout
    while not is_so():
        assert time.monotonic() < give_up, f"not within {timeout:g} s"
        await asyncio.sleep(0.01)
