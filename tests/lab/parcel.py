"""Files on their way into a host: tar archives whose entries belong, by name, to one of its users."""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from pathlib import Path


def pack(local: Path, name: str, *, owner: str, mode: int | None = None) -> bytes:
    """A file or folder as ``name``; ``mode`` replaces the top entry's permission bits, None keeps them."""

    def adopt(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        if mode is not None and entry.name == name:
            entry.mode = mode
        return _owned(entry, owner)

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(local, arcname=name, filter=adopt)
    return archive.getvalue()


def pack_text(text: str, name: str, *, owner: str, mode: int) -> bytes:
    """A file ``name`` with this text, encoded as UTF-8."""
    content = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(content), mode, time.time()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(_owned(entry, owner), io.BytesIO(content))
    return archive.getvalue()


def pack_checkout(checkout: Path, *, owner: str) -> bytes:
    """The working tree as it is now: what git follows and what it would, not what it ignores."""
    listed = ["git", "-C", str(checkout), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0")
    # Folders too: tar would make those that are missing, as root's.
    folders = {str(folder) for name in names for folder in Path(name).parents if folder != Path()}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in sorted(folders.union(filter(None, names))):
            path = checkout / name
            if path.is_symlink() or path.exists():  # else it is deleted, but not yet for git
                tar.add(path, arcname=name, recursive=False, filter=lambda entry: _owned(entry, owner))
    return archive.getvalue()


def _owned(entry: tarfile.TarInfo, owner: str) -> tarfile.TarInfo:
    """Set the owner by name; tar inside the host looks the numbers up there."""
    entry.uname = entry.gname = owner
    return entry
