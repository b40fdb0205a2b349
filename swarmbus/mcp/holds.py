"""Which messages each MCP server of an agent has handed to its host, so that no other hands them out too.

Every window of an agent host starts a server of its own. What one has handed out is its own until it is
acknowledged, until the server ends, however that happens, or until it was silent about it for too long: then
the message is anybody's again. So a message may be handed out twice, and is never lost with a window.

Each server writes its holds into a file of its own, which it keeps locked (flock(2)): the kernel drops the
lock with the process, and a file that can be locked is of one that has gone. A sample::

    {"pid": 4711, "holds": {"17": 1764093600.0}}
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from swarmbus.errors import StorageError

HOLD: Final = 900.0
"""Seconds for which a living server keeps what it has handed out and what is not acknowledged."""

_PAUSE: Final = 0.005


class Holds:
    """The holds of this process, a context manager; see the module.

    Args:
        folder: Where all servers of the agent keep theirs.
        patience: Seconds to wait for another server's turn to end.
    """

    def __init__(self, folder: Path, *, patience: float = 5.0) -> None:
        self._folder = folder
        self._patience = patience
        self._held: dict[int, float] = {}
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._turn = os.open(folder / "lock", _FLAGS, 0o600)
            self._take_turn()
            try:
                self._path = folder / f"{os.getpid()}.{os.urandom(4).hex()}.holds"
                self._file = os.open(self._path, _FLAGS, 0o600)
                fcntl.flock(self._file, fcntl.LOCK_EX)
            finally:
                fcntl.flock(self._turn, fcntl.LOCK_UN)
            self._write()
        except OSError as error:
            raise StorageError(
                f"cannot write in {folder}: {error.strerror}", hint="check the owner and mode of that folder"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        os.close(self._file)
        os.close(self._turn)

    @property
    def own(self) -> set[int]:
        """What this server has handed out and what was not acknowledged."""
        return set(self._held)

    @contextlib.contextmanager
    def turn(self) -> Iterator[set[int]]:
        """It is our turn to choose: what other servers hold, which does not change inside the block.

        Raises:
            StorageError: If another server does not give its turn up; a turn takes milliseconds.
        """
        self._take_turn()
        try:
            yield self._of_others()
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def hold(self, seqs: Iterable[int]) -> None:
        """Hold these from now on; called inside `turn`."""
        now = time.time()
        self._held.update((seq, now) for seq in seqs)
        self._write()

    def release(self, seqs: Iterable[int]) -> None:
        """These are acknowledged."""
        for seq in seqs:
            self._held.pop(seq, None)
        self._write()

    def _take_turn(self) -> None:
        give_up = time.monotonic() + self._patience
        while True:
            try:
                return fcntl.flock(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise StorageError(
                        f"another MCP server has held {self._folder / 'lock'} for {self._patience:g} s",
                        hint=f"see who it is, and whether it is stopped: fuser -v {self._folder / 'lock'}",
                    ) from None
            time.sleep(_PAUSE)

    def _of_others(self) -> set[int]:
        held: set[int] = set()
        for path in self._folder.glob("*.holds"):
            if path != self._path:
                held.update(_living(path))
        return held

    def _write(self) -> None:
        # Nobody reads it but in a turn; what a kill leaves half written is of a process that has gone.
        text = json.dumps({"pid": os.getpid(), "holds": self._held}).encode()
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text, 0)


_FLAGS: Final = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC


def _living(path: Path) -> list[int]:
    """What the server of this file holds; the file is removed where there is no such server any more."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return []  # it ends at this moment
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _still_held(os.pread(descriptor, 1 << 24, 0))
    else:
        path.unlink(missing_ok=True)
        return []
    finally:
        os.close(descriptor)


def _still_held(text: bytes) -> list[int]:
    try:
        holds = json.loads(text)["holds"]
        return [int(seq) for seq, at in holds.items() if 0 <= time.time() - at < HOLD]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
