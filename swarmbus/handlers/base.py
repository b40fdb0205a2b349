"""What every handler offers to the dispatcher.

::

    class Announce(BaseHandler):
        async def handle(self, msg: AgentMessage) -> None:
            print(msg.from_agent, msg.subject)

    bus.register_handler(Announce())

Messages come from the mailbox, in the order of arrival, each handler at its own pace. A message is handled
when `handle` returns. An exception means "again": after 1, 2, 4 ... seconds, and after `max_attempts` the
message becomes a dead letter, which ``swarmbus quarantine`` lists. After a crash a message may come twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swarmbus.envelope import AgentMessage


class BaseHandler(ABC):
    """A handler; only `handle` has to be written.

    Attributes:
        name: Under this name the mailbox remembers how far the handler is: it must be the same at the next
            start, and differ from that of every other handler of the agent. Default: the class's name.
        batch_size: More than 1: `handle_many` is called with up to that many messages.
        timeout: How long one call may take, in seconds, before it is cancelled and counts as failed; None
            means as long as it likes.
        max_attempts: After that many failures a message becomes a dead letter.
        drains: Whether a listener that is stopped waits for the running call, 20 seconds at the most, before
            it cancels it; if not, it cancels it at once.
    """

    name: str = "BaseHandler"
    batch_size: int = 1
    timeout: float | None = None
    max_attempts: int = 5
    drains: bool = True

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "name" not in vars(cls):
            cls.name = cls.__name__

    async def start(self) -> None:  # noqa: B027  most handlers have nothing to start
        """Called once, before the first message. An exception keeps the listener from starting."""

    @abstractmethod
    async def handle(self, msg: AgentMessage) -> None:
        """Do with one message what this handler is for."""

    async def handle_many(self, msgs: Sequence[AgentMessage]) -> None:
        """Do it with several, in order. If it raises, all of them come again."""
        for msg in msgs:
            await self.handle(msg)

    async def close(self) -> None:  # noqa: B027  most handlers have nothing to close
        """Called once, after the last message."""
