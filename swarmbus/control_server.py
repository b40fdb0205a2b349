"""The listener daemon's Unix socket, from inside: who may speak to it, and what it can be asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from swarmbus.control import address, describe
from swarmbus.errors import StorageError, SwarmbusError, UsageError

log = logging.getLogger(__name__)

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

MAX_REQUEST: Final = 1024 * 1024
"""Bytes of a request: a body of 64 KiB, escaped as JSON, and the rest."""


class ControlServer:
    """Answers on the socket; ``operations`` maps each ``op`` to what answers it."""

    def __init__(self, path: Path, operations: dict[str, Answer]) -> None:
        self._path = path
        self._operations = operations
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; a socket that a killed daemon left behind is replaced (we hold the lock).

        Raises:
            StorageError: If the socket cannot be made.
        """
        try:
            self._path.unlink(missing_ok=True)
            channel = self._bound()
        except OSError as error:
            raise StorageError(
                f"cannot make the control socket {self._path}: {error.strerror}",
                hint="check the owner and mode of that folder",
            ) from error
        self._server = await asyncio.start_unix_server(self._talk, sock=channel, limit=MAX_REQUEST)

    def _bound(self) -> socket.socket:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        before = os.umask(0o177)  # 0600 from the first instant
        try:
            with address(self._path) as name:
                channel.bind(name)
        except OSError:
            channel.close()
            raise
        finally:
            os.umask(before)
        return channel

    async def stop(self) -> None:
        """Close the socket and end what is being answered."""
        if self._server is not None:
            self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # start_unix_server runs this in a task
        self._talks.add(task)
        try:
            if _user_of(writer) in (os.getuid(), 0):
                await self._answer_all(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # whoever asked has gone; what it asked for is in the spool or is not
        except asyncio.CancelledError:
            pass  # by `stop`; Python 3.11's streams would report it as an error of theirs
        finally:
            self._talks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                line = b""  # longer than MAX_REQUEST
            if not line:
                return
            writer.write(json.dumps(await self._answer(line), default=str).encode() + b"\n")
            await writer.drain()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            question = json.loads(line)
            operation = self._operations.get(str(question["op"])) if isinstance(question, dict) else None
            if operation is None:
                raise UsageError(
                    "the listener does not know that request", hint="it may be of another release"
                )
            return await operation(question)
        except SwarmbusError as error:
            return describe(error)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            return {"error": "usage", "message": f"not a request: {error}", "hint": None}
        except Exception as error:
            log.exception("could not answer a request")
            return {"error": "error", "message": f"the listener could not answer: {error!r}", "hint": None}


def _user_of(writer: asyncio.StreamWriter) -> int:
    """The uid at the other end (SO_PEERCRED, unix(7))."""
    credentials = writer.get_extra_info("socket").getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
    )
    _, uid, _ = struct.unpack("3i", credentials)
    return int(uid)
