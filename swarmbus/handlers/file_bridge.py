"""The bridge to agents that read files: each message is appended to an inbox file, exactly once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Final

from swarmbus.handlers.base import BaseHandler
from swarmbus.inbox_file import inbox_entry
from swarmbus.journal_file import DEFAULT_KEEP, DEFAULT_MAX_BYTES, FileLocked, JournalFile

if TYPE_CHECKING:
    from swarmbus.envelope import AgentMessage

BATCH: Final = 256

AT_ONCE: Final = 4
"""Messages that are written without a thread; of 64 KiB each they are a quarter of a megabyte."""


class FileBridgeHandler(BaseHandler):
    """Append messages to an inbox file; see `swarmbus.inbox_file` for its format.

    The mailbox gives a message again if it does not know that it was handled: at most those of one batch,
    all of them at the end of the file. So after a start, and after any failure, the end of the file is read
    back: messages whose id is there are left out, and one of which only a part is there is completed.

    Args:
        path: ``~`` is expanded; the folders above it are created (0700), and the file (0600).
        max_bytes: Size at which the file is rotated, 0 for never.
        keep: How many rotated files stay.
    """

    batch_size = BATCH

    def __init__(
        self, path: str | PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES, keep: int = DEFAULT_KEEP
    ) -> None:
        self.path = Path(path).expanduser().absolute()
        self.name = f"file-bridge:{self.path}"
        self._file = JournalFile(self.path, max_bytes=max_bytes, keep=keep, sync=False)
        self._at_the_end: dict[str, None] | None = None  # ids, oldest first; None: to be read from the file
        self._may_be_torn = True  # the last entry; until one was written behind it
        # A call that was cancelled goes on in its thread, and the next one has to wait for it.
        self._turn = threading.Lock()

    async def start(self) -> None:
        """Create the file.

        Raises:
            StorageError: If it could not be appended to.
        """
        await asyncio.to_thread(self._file.check_writable)

    async def handle(self, msg: AgentMessage) -> None:
        """Append one message."""
        await self.handle_many([msg])

    async def handle_many(self, msgs: Sequence[AgentMessage]) -> None:
        """Append messages in order, in one write.

        Raises:
            StorageError: If the file could not be written; those that were are known at the next call.
        """
        if not self._append_at_once(msgs):
            await asyncio.to_thread(self._append, msgs)
        # The mailbox forgets a batch when we return: then the file must be as durable as the mailbox. In a
        # thread: the disk may take long, and the other handlers and the broker cannot wait for it.
        await asyncio.to_thread(self._file.sync)

    def _append_at_once(self, msgs: Sequence[AgentMessage]) -> bool:
        """Append a few messages without the way through a thread, which takes longer than the writing.

        Returns:
            False if that could take long: there are many, others hold the file, or its end must be read.
        """
        if len(msgs) > AT_ONCE or self._at_the_end is None or self._may_be_torn:
            return False
        if not self._turn.acquire(blocking=False):
            return False
        self._turn.release()  # nobody else is in there, and we do not give way until we are through
        try:
            self._append(msgs, lock_seconds=0.0)
        except FileLocked:
            return False
        return True

    def _append(self, msgs: Sequence[AgentMessage], lock_seconds: float | None = None) -> None:
        with self._turn:
            known = self._at_the_end
            if known is None:
                known = dict.fromkeys(reversed(self._file.last_ids(2 * BATCH)))
            missing = {msg.id: msg for msg in msgs if msg.id not in known}
            if missing:
                entries = [inbox_entry(msg) for msg in missing.values()]
                resume, self._may_be_torn, self._at_the_end = self._may_be_torn, True, None
                self._file.append(entries, resume=resume, lock_seconds=lock_seconds)
                self._may_be_torn = False
            known.update(dict.fromkeys(missing))
            for old in list(islice(known, max(len(known) - 4 * BATCH, 0))):
                del known[old]
            self._at_the_end = known
