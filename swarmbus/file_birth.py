"""When a file was created: Linux statx(2), which `os.stat` does not offer before Python 3.15."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import Final

# <linux/stat.h>
_AT_FDCWD: Final = -100
_STATX_BTIME: Final = 0x800
_STATX_BYTES: Final = 256
_MASK: Final = struct.Struct("I")
_BTIME: Final = struct.Struct("qI")  # seconds, nanoseconds
_BTIME_OFFSET: Final = 80


def birth_ns(path: Path) -> int | None:
    """Creation time in nanoseconds of Unix time; None where system or file system do not tell."""
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    try:
        statx = ctypes.CDLL(None).statx  # glibc 2.28, musl 1.2.5
    except AttributeError:
        return None
    if statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, buffer) != 0:
        return None
    if not _MASK.unpack_from(buffer)[0] & _STATX_BTIME:
        return None
    seconds, nanoseconds = _BTIME.unpack_from(buffer, _BTIME_OFFSET)
    return int(seconds * 1_000_000_000 + nanoseconds)
