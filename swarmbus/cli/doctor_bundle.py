"""``swarmbus doctor --bundle`` and ``--from``: what was seen on one host, looked at on another."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from swarmbus.cli import output
from swarmbus.cli.doctor_look import Asked, check, show
from swarmbus.errors import ExitStatus, StorageError, UsageError
from swarmbus.provision.bundle import examine, make_bundle, open_bundle
from swarmbus.provision.doctor import gather_facts
from swarmbus.provision.local_system import LocalSystem

_LARGEST: Final = 64 * 1024 * 1024


def write_bundle(asked: Asked, name: str, *, hash_names: bool) -> ExitStatus:
    """Look at this host, keep what was seen, and print the report.

    Raises:
        StorageError: If the file cannot be written.
    """
    system = LocalSystem()
    path = Path(name).expanduser().absolute()
    if path.is_dir():
        raise StorageError(f"{path} is a folder", hint="name a file")
    facts = gather_facts(system, asked.settings, agent_ids=asked.agent_ids)
    report, text = make_bundle(facts, lambda told: check(told, asked), hash_names=hash_names)
    system.write_file(path, text.encode(), mode=0o600)
    status = show(report, asked)
    output.say(f"{path}: {len(text.encode()) // 1024 + 1} KiB; it is text: read it before you give it away")
    return status


def look_at_bundle(asked: Asked, name: str) -> ExitStatus:
    """Run the checks over what was seen on another host.

    Raises:
        StorageError: If the file cannot be read.
        UsageError: If it is no bundle.
    """
    path = Path(name).expanduser()
    try:
        size = path.stat().st_size
        text = path.read_bytes().decode() if size <= _LARGEST else ""
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no bundle: it is not text") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    if size > _LARGEST:
        raise UsageError(f"{path} is no bundle: it has {size} bytes")
    return show(examine(open_bundle(text), lambda facts: check(facts, asked)), asked)
