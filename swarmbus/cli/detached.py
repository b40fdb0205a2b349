"""Running a listener daemon in the background, and knowing before we return how it began."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

from swarmbus import control
from swarmbus.cli import output
from swarmbus.errors import CannotRun, ExitStatus, StorageError, SwarmbusError

_PATIENCE: Final = 10.0
"""Seconds to wait for the connection; an attempt at a broker that does not answer takes five."""

_SECOND_TRY: Final = 2.0
"""Seconds after which an attempt that failed is not the first one any more."""

_LOOK_EVERY: Final = 0.25

_LOG_BYTES: Final = 4 * 1024 * 1024
"""A log larger than this is put aside (``.1``) at the next start."""

Ready = Callable[[dict[str, Any]], None]


def run_detached(agent_id: str, run: Callable[[Ready], None], log: Path) -> dict[str, Any]:
    """Run a listener in a process and session of its own.

    Args:
        agent_id: Whose, to ask its control socket.
        run: Listens, calling its argument once it is connected.
        log: Gets what it says on standard error.

    Returns:
        What it said of itself, with ``pid`` and ``connected``; if that is false, ``last_error``.

    Raises:
        SwarmbusError: What kept it from running.
    """
    log_fd = _open_log(log)
    reading, writing = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _be_daemon(run, log_fd, writing)
    os.close(log_fd)
    os.close(writing)
    try:
        return _await(agent_id, pid, reading)
    finally:
        os.close(reading)


def _open_log(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > _LOG_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(
            f"cannot write the log {path}: {error.strerror}", hint="check the owner and mode of that folder"
        ) from error


def _be_daemon(run: Callable[[Ready], None], log_fd: int, channel: int) -> NoReturn:
    status = int(ExitStatus.CANNOT_RUN)
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for source, target in ((nothing, 0), (log_fd, 1), (log_fd, 2)):
            os.dup2(source, target)
        run(lambda facts: _tell(channel, facts))
        status = int(ExitStatus.DONE)
    except SwarmbusError as error:
        status = int(error.exit_status)
        output.complain("swarmbus start", error)
        _tell(channel, control.describe(error) | {"status": status})
    except BaseException as error:  # it must not come back into the command line of its parent
        _tell(channel, {"error": "internal", "message": f"{type(error).__name__}: {error}", "status": status})
        output.say(f"swarmbus start: {type(error).__name__}: {error}")
    finally:
        os._exit(status)


def _tell(channel: int, word: dict[str, Any]) -> None:
    try:
        os.write(channel, json.dumps(word).encode() + b"\n")
    except OSError:
        return  # whoever started us has stopped waiting


def _await(agent_id: str, pid: int, channel: int) -> dict[str, Any]:
    began = time.monotonic()
    error = None
    while not select.select([channel], [], [], _LOOK_EVERY)[0]:
        waited = time.monotonic() - began
        if waited > _PATIENCE or (waited > _SECOND_TRY and (error := _last_error(agent_id))):
            why = error or f"no answer within {_PATIENCE:g} s"
            return {"agent_id": agent_id, "pid": pid, "connected": False, "last_error": why}
    line = os.read(channel, 65_536)
    if not line:
        raise CannotRun(f"the listener of {agent_id} ended without a word, pid {pid}")
    said: dict[str, Any] = json.loads(line)
    if "error" in said:
        os.waitpid(pid, 0)
        raise _said_by_it(said)
    return said


def _said_by_it(said: dict[str, Any]) -> SwarmbusError:
    error = SwarmbusError(said["message"], hint=said.get("hint"))
    error.code, error.exit_status = said["error"], ExitStatus(said["status"])
    return error


def _last_error(agent_id: str) -> str | None:
    """Why it has no connection, None if it has had no time to know."""
    try:
        error = control.request(agent_id, {"op": "status"}, timeout=2.0)["last_error"]
    except (control.NoListener, SwarmbusError):
        return None
    return None if error is None else str(error)
