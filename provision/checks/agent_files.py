"""An agent's files and its wake command, as its listener daemon will find them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from swarmbus.provision.checks.commands import make_writable, put_aside
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts


@check("agent.inbox-writable", "its inbox file can be written")
def inbox_writable(facts: Facts, agent: str) -> Iterator[Finding]:
    """By mode, owner and test(1) on the file, or on the nearest folder where it is not there yet."""
    yield from _writable(facts, "inbox", facts.word(agent, "inbox"))


@check("agent.outbox-writable", "its outbox file can be written")
def outbox_writable(facts: Facts, agent: str) -> Iterator[Finding]:
    """As the inbox."""
    yield from _writable(facts, "outbox", facts.word(agent, "outbox"))


@check("agent.invoke-runnable", "its wake command can be run")
def invoke_runnable(facts: Facts, agent: str) -> Iterator[Finding]:
    """The first word, looked for along the PATH that the listener daemon has."""
    command = facts.word(agent, "invoke")
    if command is None:
        yield Finding(Status.OK, "none is set: messages wake nobody")
        return
    try:
        words = shlex.split(command)
    except ValueError as error:
        message = f"its wake command {command!r} cannot be read: {error}"
        yield Finding(Status.FAIL, message, {"invoke": command})
        return
    program = words[0] if words else ""
    if program.startswith("~/"):
        program = str(facts.system.user.home / program[2:])
    path = facts.unit_path(agent)
    evidence = {"invoke": command, "PATH": path}
    if not program:
        yield Finding(Status.FAIL, "its wake command is empty", evidence)
    elif "/" in program and not program.startswith("/"):
        message = f"its wake command {program} is relative to a folder that nobody chose: give its full path"
        yield Finding(Status.FAIL, message, evidence)
    elif facts.program(program, path) is None:
        yield _not_runnable(facts, program, evidence)


def _not_runnable(facts: Facts, program: str, evidence: dict[str, str]) -> Finding:
    if not program.startswith("/"):
        message = f"its wake command {program} is not on the PATH that its listener has"
        return Finding(Status.FAIL, message, evidence)
    if facts.stat(Path(program)) is None:
        return Finding(Status.FAIL, f"its wake command {program} does not exist", evidence)
    fix = (f"chmod u+x {shlex.quote(program)}",)
    return Finding(Status.FAIL, f"its wake command {program} is not an executable file", evidence, fix)


@check("agent.mailbox", "its mailbox can be read")
def mailbox(facts: Facts, agent: str) -> Iterator[Finding]:
    """Opened read-only, its schema and tables read."""
    path = facts.layout.agent_dir(agent) / "mailbox.db"
    seen = facts.mailbox(agent)
    if not seen.present:
        yield Finding(Status.INFO, "it has none yet: nothing was sent or received here", {"file": str(path)})
    elif seen.damage is not None:
        # One of a newer release is whole; what has to change is this release.
        fix = () if seen.newer_schema else put_aside(path)
        yield Finding(Status.FAIL, f"{path} {_words(seen.damage)}", {"file": str(path)}, fix)


def _words(damage: str) -> str:
    return damage if damage.startswith(("has schema", "is ")) else f"is damaged: {damage}"


def _writable(facts: Facts, what: str, name: str | None) -> Iterator[Finding]:
    if name is None:
        yield Finding(Status.OK, "none is set")
        return
    path = Path(name)
    evidence = {what: name}
    try:
        seen = facts.stat(path)
    except CouldNotLook as error:  # this user is the one who would have to reach it
        yield Finding(Status.FAIL, f"its {what} cannot be reached: {error}", evidence, subject=name)
        return
    if seen is None:
        yield from _creatable(facts, what, path, evidence)
    elif seen.kind == "directory":
        yield Finding(Status.FAIL, f"its {what} {name} is a folder", evidence, put_aside(path), name)
    elif not facts.may("-w", path) or not facts.may("-r", path):
        mode = {**evidence, "mode": f"{seen.mode:04o}", "owner": str(seen.uid)}
        fix = make_writable(facts, path, folder=False)
        yield Finding(Status.FAIL, f"its {what} {name} is not writable for us", mode, fix, name)


def _creatable(facts: Facts, what: str, path: Path, evidence: dict[str, str]) -> Iterator[Finding]:
    """The file is not there yet: whether its folder, or the nearest that exists, lets it be made."""
    folder = next(parent for parent in path.parents if parent == Path("/") or facts.stat(parent) is not None)
    seen = facts.stat(folder)
    if seen is not None and seen.kind not in ("directory", "link"):
        message = f"its {what} {path} cannot be made: {folder} is not a folder"
        yield Finding(Status.FAIL, message, evidence, put_aside(folder), str(path))
    elif not facts.may("-w", folder) or not facts.may("-x", folder):
        message = f"its {what} {path} cannot be made: {folder} is not writable for us"
        yield Finding(Status.FAIL, message, evidence, make_writable(facts, folder, folder=True), str(path))
