"""Printing: data on standard output, talk on standard error, colour only where a person looks."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from io import TextIOWrapper
from typing import Any, Final, TextIO

from swarmbus.errors import StorageError, SwarmbusError

BOLD: Final = "1"
DIM: Final = "2"
RED: Final = "31"
GREEN: Final = "32"
YELLOW: Final = "33"

# What JSON may carry bare but a terminal acts on, or hides: DEL and C1, bidi controls, zero-width
# characters, line separators.
_NOT_BARE_IN_JSON: Final = "[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]"

_verbosity = 0


class ReaderGone(Exception):
    """Whoever read our standard output has closed it (``| head -1``)."""


def prepare() -> None:
    """Make both streams take any text: what the locale cannot show is escaped, not an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def set_verbosity(count: int) -> None:
    """How many ``-v`` were given."""
    global _verbosity  # noqa: PLW0603  # one process, one call
    _verbosity = count


def verbosity() -> int:
    """How many ``-v`` were given."""
    return _verbosity


def write(text: str) -> None:
    """Print data as it is, without adding a line end.

    Raises:
        ReaderGone: If nobody reads any more.
        StorageError: If it cannot be written, to a full disk for instance.
    """
    _to_stdout(text)


def write_lines(lines: Iterable[str]) -> None:
    """Print data, each item a line."""
    for line in lines:
        _to_stdout(f"{line}\n")


def write_json(value: Any) -> None:
    """Print one JSON value for people and programs."""
    _to_stdout(f"{as_json(value, indent=2)}\n")


def write_json_array(items: Iterable[Any]) -> None:
    """Print a JSON array without holding all of it."""
    separator = "[\n"
    for item in items:
        _to_stdout(f"{separator}{as_json(item)}")
        separator = ",\n"
    _to_stdout("[]\n" if separator == "[\n" else "\n]\n")


def as_json(value: Any, indent: int | None = None) -> str:
    """``value`` as JSON that does nothing to a terminal."""
    is_utf8 = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    text = json.dumps(value, ensure_ascii=not is_utf8, indent=indent)
    return re.sub(_NOT_BARE_IN_JSON, lambda found: f"\\u{ord(found[0]):04x}", text)


def flush() -> None:
    """See that what was printed has arrived; raises as `write` does."""
    _to_stdout("", flush=True)


def say(text: str) -> None:
    """Tell the person something that is not data."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return  # nobody listens; the exit status still tells


def say_part(text: str) -> None:
    """`say` without adding a line end."""
    try:
        print(text, end="", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return


def warn(text: str) -> None:
    """Tell the person something that is amiss, but does not stop us."""
    say(f"{paint('warning:', YELLOW, stream=sys.stderr)} {text}")


def note(text: str) -> None:
    """Tell the person something worth knowing; parts of it may be others' words."""
    from swarmbus.inbox_file import one_line  # noqa: PLC0415  # the cheap send has no notes

    say(f"note: {one_line(text)}")


def detail(text: str) -> None:
    """Tell the person something only if asked with ``-v``."""
    if _verbosity:
        say(text)


def complain(name: str, error: SwarmbusError) -> None:
    """Say what went wrong and what to do about it, a line each."""
    from swarmbus.inbox_file import one_line  # noqa: PLC0415  # the cheap send that succeeds needs none

    say(f"{paint(f'{name}:', RED, stream=sys.stderr)} {one_line(error.message)}")
    if error.hint:
        say(f"  hint: {one_line(error.hint)}")


def paint(text: str, *codes: str, stream: TextIO | None = None) -> str:
    """``text`` in colour where ``stream`` (None: standard output) is a terminal that wants it."""
    if not has_colour(stream or sys.stdout):
        return text
    return f"\x1b[{';'.join(codes)}m{text}\x1b[0m"


def has_colour(stream: TextIO) -> bool:
    """Whether to use colour: a terminal, no ``NO_COLOR`` (no-color.org), not a dumb one."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return is_terminal(stream)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person is at the other end; a closed stream has nobody."""
    return stream is not None and not stream.closed and stream.isatty()


def columns(rows: Sequence[Sequence[str]], gap: int = 2) -> list[str]:
    """Rows as lines whose columns stand under each other; the last one is not padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    return [
        (" " * gap)
        .join(
            cell if number == len(row) - 1 else cell.ljust(widths[number]) for number, cell in enumerate(row)
        )
        .rstrip()
        for row in rows
    ]


def near(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that ``word`` may have been meant for, None if none is close."""
    from difflib import get_close_matches  # noqa: PLC0415  # only on the way to an error

    return next(iter(get_close_matches(word, list(candidates), n=1)), None)


def _to_stdout(text: str, *, flush: bool = False) -> None:
    stream = sys.stdout
    if stream is None:
        raise StorageError("standard output is closed", hint="redirect it to a file, or to /dev/null")
    try:
        stream.write(text)
        if flush:
            stream.flush()
    except BrokenPipeError:
        _discard_stdout()
        raise ReaderGone from None
    except OSError as error:
        _discard_stdout()
        raise StorageError(
            f"cannot write standard output: {error.strerror or error}", hint="check free space (df -h)"
        ) from error


def _discard_stdout() -> None:
    # What is still in the buffer would fail once more when the interpreter ends, with a traceback.
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return
