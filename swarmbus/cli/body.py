"""The body of a message from where the command line says: an argument, a file, standard input.

Read as bytes, never more of them than a message can hold, and decoded strictly: a file of the wrong encoding
or an endless one ends in an error, not in a spoilt message.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

from swarmbus.cli import output
from swarmbus.errors import InvalidMessage, UsageError
from swarmbus.limits import MAX_BODY_BYTES


def body_of(argument: str | None, file: str | None) -> str:
    """The body, from exactly one of ``--body`` and ``--body-file``.

    Raises:
        UsageError: If none or both are given, or the file cannot be read.
        InvalidMessage: If it is too large, or not UTF-8.
    """
    if argument is not None and file is not None:
        raise UsageError("--body and --body-file were both given", hint="give exactly one of them")
    if argument is not None:
        # What is not UTF-8 in an argument comes as lone surrogates (PEP 383).
        return _decoded(argument.encode("utf-8", "surrogateescape"), "--body")
    if file is None:
        raise UsageError(
            "there is no body", hint="give --body TEXT, or --body-file FILE ('-' is standard input)"
        )
    return _decoded(_from_stdin() if file == "-" else _from_file(Path(file)), file)


def _from_stdin() -> bytes:
    if sys.stdin is None:
        raise UsageError("--body-file -: standard input is closed", hint="pipe the body in, or use --body")
    if output.is_terminal(sys.stdin):
        output.say("the body, please; Ctrl-D on a line of its own ends it")
    try:
        return _read(sys.stdin.buffer)
    except OSError as error:
        raise UsageError(f"--body-file -: cannot read standard input: {error.strerror}") from error


def _from_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return _read(file)
    except OSError as error:
        raise UsageError(
            f"--body-file: cannot read {str(path)!r}: {error.strerror}", hint="nothing was sent"
        ) from error
    except ValueError as error:  # a NUL byte in the name
        raise UsageError(f"--body-file: {str(path)!r} is not the name of a file") from error


def _read(file: BinaryIO) -> bytes:
    return file.read(MAX_BODY_BYTES + 1)


def _decoded(data: bytes, source: str) -> str:
    name = "standard input" if source == "-" else source
    if len(data) > MAX_BODY_BYTES:
        raise InvalidMessage(
            f"the body ({name}) has more than {MAX_BODY_BYTES} bytes",
            hint="write it to shared storage and send where it is",
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidMessage(
            f"the body ({name}) is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}",
            hint="convert it: iconv -f LATIN1 -t UTF-8",
        ) from error
