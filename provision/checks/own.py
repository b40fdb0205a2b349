"""What swarmbus keeps about itself on this host: records, secrets, unfinished work."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from swarmbus.provision.checks.commands import init, put_aside, swarmbus, write_again
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts
from swarmbus.provision.manifest import Entry
from swarmbus.provision.resources.unit import SYSTEM_UNITS
from swarmbus.provision.sources.files import others_may

_LOOKED_AT: Final = 500  # files of the state folder


def _files(facts: Facts) -> Iterator[tuple[Path, Entry]]:
    """Whole files that are ours."""
    for entry in facts.manifest():
        if entry.kind == "file":
            yield Path(entry.record["path"]), entry


def _agent(facts: Facts, entry: Entry) -> str:
    """Whose it is, for a fix; any agent's setup puts the common things in order."""
    name = entry.group.removeprefix("agent:")
    return name if name in facts.agents else facts.agents[0]


@check("own.manifest", "the record of what is ours can be read", scope="host")
def manifest(facts: Facts, _: str) -> Iterator[Finding]:
    """Reading it."""
    path = facts.layout.provision / "manifest.json"
    if facts.stat(path) is None:
        return
    facts.files.text(path)  # a file that cannot be seen says nothing of what is in it
    try:
        facts.manifest()
    except CouldNotLook as problem:
        newer = "newer than" in str(problem)
        (aside,) = put_aside(path)
        fix = () if newer else (f"{aside} && {init(facts.agents[0])}",)
        yield Finding(Status.FAIL, str(problem), {"file": str(path)}, fix)


@check("own.unfinished", "no run was killed in the middle", scope="host")
def unfinished(facts: Facts, _: str) -> Iterator[Finding]:
    """A journal that was not put away, while nobody works on it."""
    path = facts.layout.provision / "journal.jsonl"
    if facts.stat(path) is None:
        return
    if facts.system.lock_holder(facts.layout.provision / "lock") is not None:
        raise CouldNotLook("a run is under way")
    message = "a run of init was killed in the middle: this host is neither as it was nor as it should be"
    fix = (init(facts.agents[0]), swarmbus("init", "--rollback", "--yes"))
    yield Finding(Status.FAIL, message, {"journal": str(path)}, fix)


@check("own.upgrade-unfinished", "no upgrade was killed in the middle", scope="host")
def upgrade_unfinished(facts: Facts, _: str) -> Iterator[Finding]:
    """The record that an upgrade leaves until it has ended."""
    path = facts.layout.provision / "upgrade.json"
    text = facts.files.text(path)
    if text is None:
        return
    try:
        document = json.loads(text)
        stage, kept = str(document["stage"]), str(document["kept"]["folder"])
    except (ValueError, KeyError, TypeError):
        message = f"{path}, the record of an upgrade, is damaged"
        yield Finding(Status.FAIL, message, {"file": str(path)}, (f"rm {shlex.quote(str(path))}",))
        return
    if facts.system.lock_holder(facts.layout.provision / "lock") is not None:
        raise CouldNotLook("an upgrade is under way")
    fix = (f"{shlex.quote(kept)}/bin/python -I -m swarmbus upgrade --go-on",)
    yield Finding(
        Status.FAIL, f"an upgrade was killed when it was {stage!r}", {"stage": stage, "kept": kept}, fix
    )


@check("own.conflict", "nothing waits for a decision", scope="host", after=("own.manifest",))
def conflict(facts: Facts, _: str) -> Iterator[Finding]:
    """A new version beside a file that was changed by hand."""
    for path, _entry in _files(facts):
        beside = path.with_name(f"{path.name}.swarmbus-new")
        if facts.stat(beside) is not None:
            old, new = shlex.quote(str(path)), shlex.quote(str(beside))
            message = (
                f"{path} was changed by hand, and {beside.name} beside it is what swarmbus would write now"
            )
            fix = (f"diff -u {old} {new} || mv {new} {old}",)
            yield Finding(Status.WARN, message, {"new": str(beside)}, fix, str(path))


@check("own.missing", "all that init wrote is there", scope="host", after=("own.manifest",))
def missing(facts: Facts, _: str) -> Iterator[Finding]:
    """Files and folders of the record; of units, systemd.unit-missing tells."""
    for entry in facts.manifest():
        path = Path(str(entry.record.get("path", "")))
        if entry.kind not in ("file", "directory") or path.parent in (facts.layout.units, SYSTEM_UNITS):
            continue
        if facts.stat(path) is None:
            message = f"{path}, which init has made, is gone"
            yield Finding(
                Status.WARN, message, {"kind": entry.kind}, (init(_agent(facts, entry)),), str(path)
            )


@check("own.drift", "files of ours are as we wrote them", scope="host", after=("own.manifest",))
def drift(facts: Facts, _: str) -> Iterator[Finding]:
    """Digests of files against those of the record; of units, systemd.unit-drift tells."""
    for path, entry in _files(facts):
        if path.parent not in (facts.layout.units, SYSTEM_UNITS) and facts.changed_since(entry):
            message = f"{path} was changed by hand; swarmbus leaves it as it is"
            yield Finding(
                Status.INFO, message, {"recorded": entry.state.get("sha256", "")[:12]}, (), str(path)
            )


@check(
    "systemd.unit-drift",
    "its unit is as init left it",
    after=("own.manifest", "systemd.unit-missing", "systemd.unit-masked"),
)
def unit_drift(facts: Facts, agent: str) -> Iterator[Finding]:
    """The digest of the unit's file against that of the record."""
    group, folders = f"agent:{agent}", (facts.layout.units, SYSTEM_UNITS)
    files = [
        (path, entry) for path, entry in _files(facts) if entry.group == group and path.parent in folders
    ]
    if not files:
        raise CouldNotLook(f"init has written no unit for {agent}")
    for path, entry in files:
        if facts.changed_since(entry):
            message = f"{path} was changed by hand, so upgrades leave it; a drop-in would do both"
            fix = (write_again(path, agent),)
            yield Finding(Status.WARN, message, {"recorded": entry.state.get("sha256", "")[:12]}, fix)


@check("own.foreign-owner", "all of our state is this user's", scope="host")
def foreign_owner(facts: Facts, _: str) -> Iterator[Finding]:
    """Owners below the state folder: one call with sudo, and root's files are in it."""
    user, state = facts.system.user, facts.layout.state
    if user.uid == 0:
        raise CouldNotLook("this is root, who may everything")
    folders = [state, facts.layout.provision, *(facts.layout.agent_dir(agent) for agent in facts.agents)]
    paths = [
        path
        for folder in folders
        for path in (folder, *(folder / name for name in facts.files.names(folder)))
    ]
    others = [
        path for path in paths[:_LOOKED_AT] if (seen := facts.stat(path)) is not None and seen.uid != user.uid
    ]
    if others:
        seen = facts.stat(others[0])
        message = (
            f"{others[0]} belongs to user {seen.uid if seen else '?'}, not to {user.name}: was sudo used?"
        )
        fix = (f"sudo chown -R {user.name}: {shlex.quote(str(state))}",)
        yield Finding(
            Status.FAIL, message, {"files": [str(path) for path in others[:5]]}, fix, str(others[0])
        )


@check("own.secret-perms", "nobody else reads our secrets")
def secret_perms(facts: Facts, agent: str) -> Iterator[Finding]:
    """Modes of the password file and the client's key that the settings name."""
    own = facts.settings[agent]
    for name in (own.password_file, own.client_key):
        path = _expanded(facts, name) if name else None
        seen = facts.files.followed(path) if path is not None else None
        if path is not None and seen is not None and others_may(seen, facts.system.user, 0o077):
            message = f"others can read {path} (mode {seen.mode:04o})"
            fix = (f"chmod 600 {shlex.quote(str(path))}",)
            yield Finding(Status.FAIL, message, {"mode": f"{seen.mode:04o}"}, fix, str(path))


def _expanded(facts: Facts, name: str) -> Path:
    return facts.system.user.home / name[2:] if name.startswith("~/") else Path(name)


@check("own.config-secret", "no password lies open in config.toml", scope="host")
def config_secret(facts: Facts, _: str) -> Iterator[Finding]:
    """A line `password =` in a file that others can read; its value is not looked at."""
    path = facts.layout.config
    seen = facts.files.followed(path)
    if seen is None or not others_may(seen, facts.system.user, 0o044):
        return
    if re.search(r"^\s*password\s*=", facts.files.text(path) or "", re.MULTILINE):
        message = f"{path} holds a password, and others can read it (mode {seen.mode:04o})"
        fix = (f"chmod 600 {shlex.quote(str(path))}",)
        yield Finding(Status.FAIL, message, {"mode": f"{seen.mode:04o}"}, fix)


@check("own.old-tool", "nothing of swarmbus-py is left", scope="host")
def old_tool(facts: Facts, _: str) -> Iterator[Finding]:
    """Units of the existing tool; a listener started by hand looks like one of ours."""
    names = [agent.id for agent in facts.old_tool().agents]
    if names:
        message = f"swarmbus-py still has units for {', '.join(names)}"
        yield Finding(Status.WARN, message, {"agents": names}, (swarmbus("adopt", "--yes"),))
