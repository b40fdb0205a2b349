"""An agent's unit: what it says, and what became of it lately."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from swarmbus.provision.checks.commands import (
    init,
    put_aside,
    restart_listener,
    sudo_for,
    write_again,
)
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts
from swarmbus.provision.redaction import is_secret_name
from swarmbus.provision.resources.unit import SYSTEM_UNITS
from swarmbus.provision.sources.files import others_may
from swarmbus.provision.supervisors.units import agent_unit

_LOOP: Final = 5
_LOOP_WITHIN: Final = 120.0
_LARGE_LOG: Final = 50 << 20
_NEAR: Final = 0.9
_AFTER: Final = ("systemd.unit-missing", "systemd.unit-masked")

# systemd.exec(5), "Process Exit Codes": what a unit asks of the kernel and is not granted.
_DENIED: Final = {"216": "GROUP", "217": "USER", "218": "CAPABILITIES", "226": "NAMESPACE", "228": "SECCOMP"}


def _loaded(facts: Facts, agent: str) -> Mapping[str, str]:
    unit = facts.unit(agent)
    if unit["LoadState"] == "not-found":
        raise CouldNotLook(f"{agent} has no unit")
    return unit


def _place(facts: Facts, agent: str) -> Path:
    """Where init has put its unit."""
    folder = facts.layout.units if facts.unit_of(agent).manager == "user" else SYSTEM_UNITS
    return folder / agent_unit(agent)


def _files(unit: Mapping[str, str]) -> list[Path]:
    """The unit itself and its drop-ins."""
    words = [unit.get("FragmentPath", ""), *unit.get("DropInPaths", "").split()]
    return [Path(word) for word in words if word]


@check("systemd.unit-syntax", "systemd can read its unit", after=_AFTER)
def unit_syntax(facts: Facts, agent: str) -> Iterator[Finding]:
    """By LoadState and LoadError."""
    unit, name = _loaded(facts, agent), agent_unit(agent)
    if unit["LoadState"] in ("bad-setting", "error"):
        why = unit.get("LoadError", "").strip('" ').partition(" ")[2].strip('" ') or unit["LoadState"]
        path = unit.get("FragmentPath") or str(_place(facts, agent))
        evidence = {"LoadState": unit["LoadState"], "LoadError": unit.get("LoadError", "")}
        again = (write_again(Path(path), agent),)
        yield Finding(Status.FAIL, f"systemd cannot use {name}: {why}", evidence, again)


@check(
    "systemd.exec-missing", "the program of its unit is there", after=(*_AFTER, "python.interpreter-missing")
)
def exec_missing(facts: Facts, agent: str) -> Iterator[Finding]:
    """The first word of ExecStart, links followed."""
    unit = _loaded(facts, agent)
    program = facts.program_of(agent)
    if program is None:
        raise CouldNotLook(f"{agent_unit(agent)} says no ExecStart")
    seen = facts.files.followed(program)
    if seen is None or seen.kind != "file" or not seen.mode & 0o111:
        what = "is not there" if seen is None else "cannot be executed"
        message = f"{agent_unit(agent)} starts {program}, which {what}"
        yield Finding(Status.FAIL, message, {"ExecStart": unit.get("ExecStart", "")}, (init(agent),))


@check("systemd.sandbox-denied", "the kernel grants what its unit asks for", after=_AFTER)
def sandbox_denied(facts: Facts, agent: str) -> Iterator[Finding]:
    """By the exit status that systemd gives a process that it could not set up."""
    unit, name = _loaded(facts, agent), agent_unit(agent)
    step = _DENIED.get(unit["ExecMainStatus"])
    if unit["Result"] == "exit-code" and step is not None:
        revert = f"{facts.unit_of(agent).command('revert')} && {restart_listener(facts, agent)[0]}"
        message = (
            f"{name} asks for what this host does not grant ({step}, exit status {unit['ExecMainStatus']})"
        )
        evidence = {"ExecMainStatus": unit["ExecMainStatus"], "DropInPaths": unit.get("DropInPaths", "")}
        yield Finding(
            Status.FAIL, message, evidence, (revert,) if unit.get("DropInPaths") else (init(agent),)
        )


@check("systemd.restart-loop", "its unit does not start again and again", after=("systemd.unit-failed",))
def restart_loop(facts: Facts, agent: str) -> Iterator[Finding]:
    """By NRestarts, and how long the present process runs."""
    unit, name = _loaded(facts, agent), agent_unit(agent)
    restarts, pid = int(unit.get("NRestarts") or 0), int(unit.get("MainPID") or 0)
    if restarts < _LOOP or not pid:
        return
    age = facts.now() - facts.processes.started(pid)
    if age < _LOOP_WITHIN:
        message = f"systemd has started {name} again {restarts} times, the last time {age:.0f} s ago"
        fix = (*restart_listener(facts, agent), facts.unit_of(agent).journal)
        yield Finding(Status.FAIL, message, {"NRestarts": restarts, "age_s": round(age)}, fix)


@check("systemd.watchdog", "its listener never hung", after=_AFTER)
def watchdog(facts: Facts, agent: str) -> Iterator[Finding]:
    """By what the journal has of the last day."""
    _loaded(facts, agent)
    name = agent_unit(agent)
    hung = [one for one in facts.journal.failures() if (one.unit, one.result) == (name, "watchdog")]
    if hung:
        ago = (facts.now() - hung[-1].at) / 60
        message = f"systemd has ended a listener that did not move any more, {len(hung)} times in a day"
        fix = (facts.unit_of(agent).journal,)
        yield Finding(Status.WARN, message, {"times": len(hung), "last_min_ago": round(ago)}, fix)


@check("systemd.unit-elsewhere", "its unit is the one that init wrote", after=_AFTER)
def unit_elsewhere(facts: Facts, agent: str) -> Iterator[Finding]:
    """By FragmentPath."""
    unit = _loaded(facts, agent)
    ours = _place(facts, agent)
    path = unit.get("FragmentPath", "")
    if path and facts.stat(ours) is not None and facts.files.real(Path(path)) != facts.files.real(ours):
        message = f"systemd reads {path}, which hides {ours}"
        (aside,) = put_aside(Path(path))
        fix = (f"{sudo_for(Path(path))}{aside} && {facts.unit_of(agent).systemctl} daemon-reload",)
        yield Finding(Status.WARN, message, {"FragmentPath": path}, fix)


@check("systemd.unit-writable", "nobody else can change its unit", after=_AFTER)
def unit_writable(facts: Facts, agent: str) -> Iterator[Finding]:
    """Modes of the unit and its drop-ins: who writes them runs programs as this user."""
    for path in _files(_loaded(facts, agent)):
        seen = facts.files.followed(path)
        if seen is not None and others_may(seen, facts.system.user, 0o022):
            message = f"others may write {path}, and so run programs as {facts.system.user.name}"
            fix = (f"{sudo_for(path)}chmod go-w {shlex.quote(str(path))}",)
            yield Finding(Status.FAIL, message, {"mode": f"{seen.mode:04o}"}, fix, str(path))


@check("systemd.env-secret", "no secret lies open in its unit", after=_AFTER)
def env_secret(facts: Facts, agent: str) -> Iterator[Finding]:
    """Names of variables in files that others can read; values are not looked at."""
    for path in _files(_loaded(facts, agent)):
        seen = facts.files.followed(path)
        open_ = seen is not None and others_may(seen, facts.system.user, 0o044)
        text = facts.files.text(path) if open_ else None
        names = re.findall(r"""^Environment=.*?["']?(\w+)=""", text or "", re.MULTILINE)
        secret = [name for name in names if is_secret_name(name)]
        if secret and seen is not None:
            message = f"{path} holds {', '.join(secret)}, and others can read it"
            fix = (f"{sudo_for(path)}chmod 600 {shlex.quote(str(path))}",)
            yield Finding(Status.FAIL, message, {"mode": f"{seen.mode:04o}"}, fix, str(path))


@check("systemd.dropin", "its unit is as init wrote it", after=_AFTER)
def dropin(facts: Facts, agent: str) -> Iterator[Finding]:
    """By DropInPaths."""
    paths = _loaded(facts, agent).get("DropInPaths", "").split()
    if paths:
        message = f"{agent_unit(agent)} is added to by {', '.join(paths)}"
        yield Finding(Status.INFO, message, {"DropInPaths": " ".join(paths)})


@check("systemd.log-append", "its log does not fill the disk", after=_AFTER)
def log_append(facts: Facts, agent: str) -> Iterator[Finding]:
    """The size of the file to which StandardOutput= appends; nobody rotates it."""
    where, _, path = _loaded(facts, agent).get("StandardOutput", "").partition(":")
    seen = facts.files.followed(Path(path)) if where in ("append", "file") and path else None
    if seen is not None and seen.size > _LARGE_LOG:
        message = f"its unit has appended {seen.size >> 20} MiB to {path}, which nobody rotates"
        move = f"mv {shlex.quote(path)} {shlex.quote(path + '.1')}"
        fix = (f"{move} && {restart_listener(facts, agent)[0]}",)
        yield Finding(Status.WARN, message, {"bytes": seen.size}, fix, path)


@check("systemd.limits", "its unit is far from its limits", after=_AFTER)
def limits(facts: Facts, agent: str) -> Iterator[Finding]:
    """Memory and tasks of its control group against MemoryMax= and TasksMax=."""
    unit, name = _loaded(facts, agent), agent_unit(agent)
    for what in ("Memory", "Tasks"):
        now, most = unit.get(f"{what}Current", ""), unit.get(f"{what}Max", "")
        # "[not set]", "infinity": neither is a number
        if now.isdigit() and most.isdigit() and int(now) >= int(most) * _NEAR:
            message = f"{name} is at {int(now) / int(most):.0%} of its {what}Max"
            fix = (f"{facts.unit_of(agent).command('set-property')} {what}Max={int(most) * 2}",)
            yield Finding(Status.WARN, message, {f"{what}Current": now, f"{what}Max": most}, fix)
