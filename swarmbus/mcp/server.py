"""Running an MCP server: on standard input and output, until the host closes it or a signal ends us."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from typing import Final, NoReturn

from mcp.server.subscriptions import InMemorySubscriptionBus, ResourceUpdated

from swarmbus.bus import AgentBus
from swarmbus.config import Settings
from swarmbus.errors import ExitStatus, SwarmbusError
from swarmbus.mailbox import Mailbox
from swarmbus.mcp.holds import Holds
from swarmbus.mcp.reading import READER, Reading
from swarmbus.mcp.sending import Sending
from swarmbus.mcp.tools import INBOX, make_server
from swarmbus.paths import agent_dir, mailbox_path
from swarmbus.standby import Standby

log = logging.getLogger(__name__)

_GOODBYE: Final = 2.0
"""Seconds for saying goodbye to the broker: hosts kill what does not end soon, and there is the will."""

_LOOK_EVERY: Final = 1.0
"""Seconds between two looks whether the inbox is another one."""


def serve(settings: Settings, *, presence: bool) -> NoReturn:
    """Serve until the host closes standard input, or SIGINT, SIGTERM or SIGHUP; the process then ends.

    Args:
        settings: Of the agent.
        presence: Show it as online while it is us who receive.

    Raises:
        ConfigError: If a TLS file is unusable.
        MailboxError, StorageError: If the mailbox, or the folder beside it, cannot be used.
    """
    asyncio.run(_serve(settings, presence=presence))
    raise AssertionError("unreachable: the process has ended")


async def _serve(settings: Settings, *, presence: bool) -> NoReturn:
    agent_id = settings.require_agent_id()
    bus = AgentBus.from_settings(settings)
    bus.broker.tls_context()  # a TLS file that cannot be used is told now, not to the model
    standby = Standby(
        agent_id,
        bus.broker,
        keep_days=settings.spool_days,
        persistent=settings.persistent,
        presence=presence,
        presence_interval=settings.presence_interval,
    )
    with _told_to_end() as told:
        with Mailbox.open(mailbox_path(agent_id)) as mailbox, Holds(agent_dir(agent_id) / "mcp") as holds:
            subscriptions = InMemorySubscriptionBus()
            reading = Reading(agent_id, bus.broker, standby, mailbox, holds, keep_days=settings.spool_days)
            sending = Sending(bus, standby, mailbox, settings.outbox_path)
            server = make_server(agent_id, sending, reading, mailbox, subscriptions)
            serving = asyncio.create_task(server.run_stdio_async(), name="host")
            others = [
                asyncio.create_task(standby.run(), name="standby"),
                asyncio.create_task(_announce(mailbox, subscriptions), name="announce"),
                asyncio.create_task(_wait_for(told), name="signals"),
            ]
            done, _ = await asyncio.wait([serving, *others], return_when=asyncio.FIRST_COMPLETED)
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=_GOODBYE)
        _leave(_how_it_ended(done))


async def _announce(mailbox: Mailbox, subscriptions: InMemorySubscriptionBus) -> None:
    """Tell those who have subscribed to the inbox whenever it is another one."""
    before: tuple[int, int] | None = None
    while True:
        with contextlib.suppress(SwarmbusError):  # a mailbox that cannot be read is told to who reads it
            if (now := _state_of(mailbox)) != before and before is not None:
                await subscriptions.publish(ResourceUpdated(uri=INBOX))
            before = now
        await asyncio.sleep(_LOOK_EVERY)


def _state_of(mailbox: Mailbox) -> tuple[int, int]:
    with mailbox.reading():
        return mailbox.inbound.last_seq(), mailbox.acknowledgements.count(READER)


async def _wait_for(told: asyncio.Event) -> None:
    await told.wait()


@contextlib.contextmanager
def _told_to_end() -> Iterator[asyncio.Event]:
    """An event that the signals set by which hosts end a server; more of them change nothing."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, told.set)
    try:
        yield told
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _how_it_ended(done: set[asyncio.Task[None]]) -> ExitStatus:
    status = ExitStatus.DONE
    for task in done:
        if (error := task.exception()) is not None:
            log.critical("the MCP server ends: %s failed", task.get_name(), exc_info=error)
            status = ExitStatus.CANNOT_RUN
    return status


def _leave(status: ExitStatus) -> NoReturn:
    """End the process: a thread may wait in a read of standard input, which nothing but the host can end."""
    logging.shutdown()
    sys.stderr.flush()
    os._exit(status)
