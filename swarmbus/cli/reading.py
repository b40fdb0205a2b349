"""Unread messages: fetched from wherever they are, printed, and only then marked as read.

With a listener daemon they are in the mailbox already. Without one, the agent's session at the broker is
drained into it first. Either way a broker that cannot be asked is told apart from an empty inbox.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from swarmbus import control
from swarmbus.cli import options, output
from swarmbus.config import Settings
from swarmbus.errors import SwarmbusError
from swarmbus.mailbox import Mailbox, StoredMessage
from swarmbus.mailbox.inbound import AGENT
from swarmbus.paths import mailbox_path

Show = Callable[[Sequence[StoredMessage]], None]


def read_unread(
    settings: Settings, consumer: str, limit: int, show: Show, *, peek: bool = False, stay: float = 0.0
) -> int:
    """Show what a consumer has not read yet, oldest first.

    A message counts as read when it was printed: what cannot be printed (a full disk, a closed pipe) is
    shown again the next time.

    Args:
        limit: How many at most.
        show: Prints them; called in any case, with none too.
        peek: Leave them unread.
        stay: If there are none, wait so many seconds for the next one.

    Returns:
        How many there were.

    Raises:
        BrokerUnreachable: If there is nothing unread, and the broker could not be asked for more.
        SwarmbusError: Else what kept us from asking, or from reading the mailbox.
    """
    agent_id = settings.require_agent_id()
    trouble: SwarmbusError | None = None
    try:
        _fetch(settings, agent_id, consumer, stay)
    except SwarmbusError as error:
        trouble = error
    with Mailbox.open(mailbox_path(agent_id)) as mailbox:
        messages = mailbox.take(consumer, limit, peek=True)
        if not messages and trouble is not None:
            raise trouble
        show(messages)
        output.flush()
        if messages and not peek:
            _mark_read(mailbox, consumer, messages)
    if trouble is not None:
        output.warn(f"there may be more: {trouble.message}")
    elif messages and consumer == AGENT and not peek:
        _tell_senders(settings, agent_id)
    return len(messages)


def _fetch(settings: Settings, agent_id: str, consumer: str, stay: float) -> None:
    """Have the mailbox hold what there is for the agent, or stay for the next message."""
    give_up = time.monotonic() + stay
    try:
        options.check_same_broker(settings, agent_id)
        control.wait_for_mail(agent_id, consumer, stay)
    except control.NoListener:
        _fetch_ourselves(settings, agent_id, consumer, max(give_up - time.monotonic(), 0.0))


def _fetch_ourselves(settings: Settings, agent_id: str, consumer: str, stay: float) -> None:
    import asyncio  # noqa: PLC0415  # beside a listener none of this is loaded

    from swarmbus.broker import Broker  # noqa: PLC0415
    from swarmbus.cli.logs import log_to_stderr  # noqa: PLC0415
    from swarmbus.reader import fetch  # noqa: PLC0415

    output.detail(f"no listener of {agent_id} here: asking {settings.broker}:{settings.port}")
    log_to_stderr(output.verbosity())
    broker = Broker.from_settings(settings)
    asyncio.run(fetch(agent_id, broker, keep_days=settings.spool_days, consumer=consumer, stay=stay))


def _mark_read(mailbox: Mailbox, consumer: str, messages: Sequence[StoredMessage]) -> None:
    seqs = [message.seq for message in messages]
    with mailbox.transaction():
        next_ones = mailbox.inbound.take(consumer, len(seqs), peek=True)
        # Otherwise another reader under the same name was quicker, and has marked them itself.
        if [message.seq for message in next_ones] == seqs:
            mailbox.inbound.take(consumer, len(seqs))


def _tell_senders(settings: Settings, agent_id: str) -> None:
    """Have those who wrote know that it was read; what fails here is told the next time."""
    with suppress(SwarmbusError):
        try:
            control.request(agent_id, {"op": "poke"}, timeout=5.0)
        except control.NoListener:
            import asyncio  # noqa: PLC0415  # as in _drain

            from swarmbus.broker import Broker  # noqa: PLC0415
            from swarmbus.reader import tell_seen  # noqa: PLC0415

            asyncio.run(tell_seen(agent_id, Broker.from_settings(settings), keep_days=settings.spool_days))
