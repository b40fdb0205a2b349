"""Disks: room, files, and whether they can be written at all."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts

_LEAST: Final = 64 << 20
_LOW_SHARE: Final = 0.10
_LOW: Final = 1 << 30  # a tenth of a large disk is no reason to worry
_LEAST_FILES: Final = 0.01


def _places(facts: Facts) -> Iterator[tuple[str, Path]]:
    """What is written to, a disk once."""
    wanted = {"state": facts.layout.state}
    try:
        broker = facts.local_broker()
        if (database := broker.database_folder) is not None:
            wanted["the broker's database"] = database
        if (log := broker.log_file) is not None:
            wanted["the broker's log"] = log.parent
    except CouldNotLook:
        pass  # another machine's, or hidden from us
    disks = set()
    for what, path in wanted.items():
        try:
            mount = facts.files.mount_of(path)
        except CouldNotLook:
            continue
        if mount.point not in disks:
            disks.add(mount.point)
            yield what, path


def _largest(path: Path) -> str:
    return f"du -xh {shlex.quote(str(path))} | sort -h | tail"


@check("host.disk-space", "there is room on the disks", scope="host")
def disk_space(facts: Facts, _: str) -> Iterator[Finding]:
    """statvfs(3); a broker with a full disk goes on acknowledging what it does not keep."""
    for what, path in _places(facts):
        disk = facts.files.disk(path)
        needed = max(_LEAST, 3 * _database_size(facts) if what != "state" else 0)
        share = disk.free / disk.size if disk.size else 1.0
        evidence = {"free_bytes": disk.free, "size_bytes": disk.size, "least_bytes": needed}
        fix = (_largest(path), "sudo journalctl --vacuum-size=100M")
        left = f"{disk.free >> 20} MiB ({share:.0%}) left"
        if disk.free < needed:
            message = f"the disk of {what}, {path}, is full: {left}"
            yield Finding(Status.FAIL, message, evidence, fix, str(path))
        elif share < _LOW_SHARE and disk.free < _LOW:
            message = f"the disk of {what}, {path}, is nearly full: {left}"
            yield Finding(Status.WARN, message, evidence, fix, str(path))


def _database_size(facts: Facts) -> int:
    try:
        database = facts.local_broker().database
        seen = facts.stat(database) if database is not None else None
    except CouldNotLook:
        return 0
    return seen.size if seen is not None else 0


@check("host.inodes", "there is room for more files", scope="host", after=("host.disk-space",))
def inodes(facts: Facts, _: str) -> Iterator[Finding]:
    """statvfs(3)."""
    for what, path in _places(facts):
        disk = facts.files.disk(path)
        if disk.files and disk.files_free < disk.files * _LEAST_FILES:
            message = (
                f"the disk of {what}, {path}, takes no more files: {disk.files_free} of {disk.files} left"
            )
            evidence = {"files": disk.files, "free": disk.files_free}
            count = f"du -x --inodes {shlex.quote(str(path))} | sort -n | tail"
            yield Finding(Status.FAIL, message, evidence, (count,), str(path))


@check("host.fs-readonly", "the disks can be written", scope="host")
def fs_readonly(facts: Facts, _: str) -> Iterator[Finding]:
    """By the kernel's list of mounts: a dying SD card is mounted anew, for reading only."""
    for what, path in _places(facts):
        mount = facts.files.mount_of(path)
        if mount.read_only:
            message = f"{mount.point}, on which {what} is, can only be read"
            evidence = {"device": mount.device, "type": mount.kind, "options": ",".join(mount.options)}
            fix = (f"sudo mount -o remount,rw {shlex.quote(str(mount.point))}",)
            yield Finding(Status.FAIL, message, evidence, fix, str(mount.point))
