"""A fingerprint of the code a process runs: tells a daemon of before an upgrade from one of after it."""

from __future__ import annotations

import hashlib
from pathlib import Path

# What the listener daemon never loads: a change there does not make it stale.
_NOT_THE_BUS = {"cli", "provision", "templates", "__pycache__"}


def installed_fingerprint(package: Path | None = None) -> str:
    """The fingerprint of the bus's code as it is on the disk now, 16 hexadecimal digits.

    Of names and contents, not of times: an installer that links files out of a cache gives new code an
    old modification time (uv does).

    Args:
        package: The package folder; None for the one this code came from.
    """
    folder = package or Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        if relative.parts[0] not in _NOT_THE_BUS:
            digest.update(f"{relative}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
