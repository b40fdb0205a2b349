"""What a rehearsal runs in place of a wake command: says whether that could be started from here.

Run by path under ``python -I -S``, as `unit_main` is, in the environment and folder of a wake. It looks as
execve(2) and posix_spawnp(3) would, and starts nothing.
"""

# ruff: noqa: PTH110, PTH113, PTH118, PTH119, PTH123  # pathlib would double the start time
from __future__ import annotations

import os
import sys

CANNOT_START = 3
"""Exit status if it could not; why is the only line on standard error."""

_FIRST_LINE = 256
"""Bytes that the kernel reads of it (BINPRM_BUF_SIZE)."""


def main(program: str) -> int:
    """Look."""
    reason = why_not(program, os.environ.get("PATH", os.defpath))
    if reason is None:
        return 0
    print(reason, file=sys.stderr)
    return CANNOT_START


def why_not(program: str, path: str) -> str | None:
    """Why a program could not be started; None if it could."""
    found: str | None = program
    if "/" not in program:
        found = _along(path, program)
        if found is None:
            return f"{program} is not on the PATH of a wake, {path}"
    elif not os.path.exists(program):
        return f"{program} does not exist, or is out of reach for us"
    elif not _is_executable(program):
        return f"{program} is not an executable file"
    return _why_not_read(found or program, path)


def _why_not_read(file: str, path: str) -> str | None:
    """What the first line of a script says may be missing; a program that is none has no such line."""
    try:
        with open(file, "rb") as script:
            head = script.read(_FIRST_LINE)
    except OSError:
        return None  # to execute a program one need not be able to read it
    if not head.startswith(b"#!"):
        return None if b"\0" in head else f"the first line of {file} names no interpreter"
    words = os.fsdecode(head[2:].partition(b"\n")[0]).replace("\t", " ").strip(" ").split(" ", 1)
    interpreter = words[0]
    if not _is_executable(interpreter):
        return f"the first line of {file} names {interpreter!r} as interpreter, which cannot be executed"
    if os.path.basename(interpreter) == "env" and len(words) > 1:
        name = next((word for word in words[1].split() if word[0] != "-" and "=" not in word), None)
        if name is not None and "/" not in name and _along(path, name) is None:
            return f"{file} needs {name}, which is not on the PATH of a wake, {path}"
    return None


def _along(path: str, name: str) -> str | None:
    places = (os.path.join(folder or ".", name) for folder in path.split(":"))
    return next((place for place in places if _is_executable(place)), None)


def _is_executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
