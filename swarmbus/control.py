"""The listener daemon's Unix socket, from outside: one JSON object a line, there and back.

Only what the cheapest `swarmbus send` needs is imported here: no asyncio, no pydantic.
Requests: ``{"op": "status" | "send" | "submit" | "wait" | "poke" | "rehearse", ...}``; an answer with
``error`` is raised as the `SwarmbusError` of that code.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swarmbus import errors
from swarmbus.paths import socket_path

_LONGEST_SOCKET_NAME = 100
"""Bytes; sun_path of unix(7) has 108."""


class NoListener(Exception):  # not an error: the caller goes another way
    """No listener daemon for that agent id runs here."""


def request(agent_id: str, question: dict[str, Any], timeout: float = 10.0) -> dict[str, Any]:
    """Ask the listener daemon of ``agent_id``.

    Args:
        agent_id: Whose listener.
        question: The request, with its ``op``.
        timeout: Seconds until an answer has to be there.

    Raises:
        NoListener: If nobody listens on the socket, or the listener ended before it answered: what was
            asked may have been done.
        SwarmbusError: The one that the listener answered with.
        TimedOut: If it does not answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as channel:
        channel.settimeout(timeout)
        try:
            with address(socket_path(agent_id)) as name:
                channel.connect(name)
            channel.sendall(json.dumps(question).encode() + b"\n")
            line = _read_line(channel)
        except TimeoutError as error:
            raise errors.TimedOut(
                f"the listener of {agent_id} did not answer within {timeout:g} s",
                hint=f"see what it does: swarmbus doctor --agent-id {agent_id}",
            ) from error
        except OSError as error:
            raise NoListener(agent_id) from error
    if not line:
        raise NoListener(agent_id)
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise _error(answer)
    return answer


def wait_for_mail(agent_id: str, consumer: str, seconds: float) -> None:
    """Have the listener daemon say when there is something unread for a consumer.

    Returns when there is, or when the time is over.

    Raises:
        NoListener: If none runs.
        BrokerUnreachable: If the listener has no broker; what is unread can be read all the same.
    """
    question = {"op": "wait", "consumer": consumer, "timeout": seconds}
    answer = request(agent_id, question, timeout=seconds + 10.0)
    if not answer["connected"]:
        raise errors.BrokerUnreachable(
            f"the listener of {agent_id} has no broker: {answer['last_error']}",
            hint=f"swarmbus doctor --agent-id {agent_id}",
        )


def check_broker(agent_id: str, host: str, port: int) -> None:
    """See that a broker that was named is the one that the agent's listener daemon is connected to.

    What goes through the listener goes to its broker, and what is in the mailbox came from there.

    Raises:
        Conflict: If it is another one.
        NoListener: If no listener runs.
    """
    status = request(agent_id, {"op": "status"})
    if port == status["port"] and _is_same_host(host, status["broker"]):
        return
    raise errors.Conflict(
        f"the listener of {agent_id} (pid {status['pid']}) is connected to "
        f"{status['broker']}:{status['port']}, not to {host}:{port}",
        hint="name no broker, or stop that listener",
    )


def _is_same_host(one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        addresses = [{info[4][0] for info in socket.getaddrinfo(name, None)} for name in (one, other)]
    except socket.gaierror:
        return False
    return bool(addresses[0] & addresses[1])


@contextlib.contextmanager
def address(path: Path) -> Iterator[str]:
    """A name for a socket's path that fits into ``sun_path``, valid inside the block.

    A path that is too long is reached through its folder's descriptor (proc(5), /proc/self/fd).
    """
    name = str(path)
    if len(os.fsencode(name)) <= _LONGEST_SOCKET_NAME:
        yield name
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def describe(error: errors.SwarmbusError) -> dict[str, Any]:
    """The answer that carries an error to the other side."""
    return {"error": error.code, "message": error.message, "hint": error.hint}


def _error(answer: dict[str, Any]) -> errors.SwarmbusError:
    kinds = {kind.code: kind for kind in _all_kinds(errors.SwarmbusError)}
    kind = kinds.get(answer["error"], errors.SwarmbusError)
    return kind(answer.get("message", "refused"), hint=answer.get("hint"))


def _all_kinds(kind: type[errors.SwarmbusError]) -> Iterator[type[errors.SwarmbusError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _all_kinds(below)


def _read_line(channel: socket.socket) -> bytes:
    parts: list[bytes] = []
    while not parts or not parts[-1].endswith(b"\n"):
        part = channel.recv(65_536)
        if not part:
            return b""
        parts.append(part)
    return b"".join(parts)
