"""Files of this machine's mosquitto: its database, and what it keeps secret."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from swarmbus.provision.checks.commands import start_broker
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts
from swarmbus.provision.mosquitto import CONF_D
from swarmbus.provision.sources.local_broker import LocalBroker
from swarmbus.provision.system import FileStat

_HASHED: Final = re.compile(r"[^:]+:\$(6|7|argon2id)\$")
_SAVING: Final = 60.0  # seconds that writing the database may take


@check(
    "broker.persistence-perms",
    "the broker may write its database",
    scope="host",
    after=("broker.config-duplicate",),
)
def persistence_perms(facts: Facts, _: str) -> Iterator[Finding]:
    """Owner and mode of the folder of the database."""
    broker = facts.local_broker()
    folder, uid = broker.database_folder, facts.files.uid(broker.runs_as)
    if folder is None or not broker.on("persistence"):
        return
    seen = facts.files.followed(folder)
    who = broker.runs_as
    if seen is None:
        make = f"sudo install -d -o {who} -g {who} -m 0700 {shlex.quote(str(folder))}"
        message = f"there is no {folder}: the broker cannot save anything"
        yield Finding(Status.FAIL, message, {"folder": str(folder)}, (f"{make} && {start_broker(broker)}",))
    elif uid is not None and not _may_write(seen, uid):
        message = f"{folder} is not writable for {who}: the broker cannot save anything"
        evidence = {"owner": seen.uid, "mode": f"{seen.mode:04o}", "runs as": f"{who} ({uid})"}
        name = shlex.quote(str(folder))
        yield Finding(
            Status.FAIL, message, evidence, (f"sudo chown {who}: {name} && sudo chmod u+rwx {name}",)
        )


def _may_write(seen: FileStat, uid: int) -> bool:
    bits = 0o300 if seen.uid == uid else 0o003
    return uid == 0 or seen.mode & bits == bits


@check(
    "broker.persistence-stalled", "the broker still saves", scope="host", after=("broker.persistence-perms",)
)
def persistence_stalled(facts: Facts, _: str) -> Iterator[Finding]:
    """A half-written database that stays, or a database that is older than two windows."""
    broker, pid = facts.local_broker(), facts.broker_pid()
    database = broker.database
    if database is None or not broker.on("persistence"):
        return
    half = database.with_name(f"{database.name}.new")
    left = facts.stat(half)
    if left is not None and facts.now() - left.modified > _SAVING:
        message = f"{half} was left half-written {facts.now() - left.modified:.0f} s ago: saving fails"
        look, remove = f"df -h {shlex.quote(str(half.parent))}", f"sudo rm -r {shlex.quote(str(half))}"
        yield Finding(Status.FAIL, message, {"bytes": left.size}, (look, remove), str(half))
    if pid is None or broker.on("autosave_on_changes"):
        return
    window = broker.number("autosave_interval", 1800)
    up, seen = facts.now() - facts.processes.started(pid), facts.stat(database)
    age = facts.now() - seen.modified if seen is not None else up
    if window and min(up, age) > 2 * window + _SAVING:
        message = f"{database} was not saved for {age:.0f} s, and should be every {window} s"
        evidence = {"age_s": round(age), "autosave_interval": window}
        fix = (f"df -h {shlex.quote(str(database.parent))}",)
        yield Finding(Status.FAIL, message, evidence, fix, str(database))


@check("broker.pwfile-perms", "only the broker reads its passwords", scope="host")
def pwfile_perms(facts: Facts, _: str) -> Iterator[Finding]:
    """Owner and mode of each password_file."""
    broker = facts.local_broker()
    for path in broker.file("password_file"):
        yield from _private(facts, broker, path, Status.FAIL)


@check("broker.aclfile-perms", "only the broker decides who may what", scope="host")
def aclfile_perms(facts: Facts, _: str) -> Iterator[Finding]:
    """Owner and mode of each acl_file; from 2.0.16 on mosquitto warns of others, and means to refuse them."""
    broker = facts.local_broker()
    for path in broker.file("acl_file"):
        yield from _private(facts, broker, path, Status.WARN)


@check("broker.keyfile-perms", "only the broker reads its TLS key", scope="host")
def keyfile_perms(facts: Facts, _: str) -> Iterator[Finding]:
    """Mode of each keyfile; mosquitto reads it while it is still root."""
    for path in facts.local_broker().file("keyfile"):
        seen = facts.files.followed(path)
        if seen is None:
            yield Finding(Status.FAIL, f"there is no {path}: the broker cannot start", {}, (), str(path))
        elif seen.mode & 0o007:
            message = f"everybody on this machine can read {path}, the broker's TLS key"
            fix = (f"sudo chmod o= {shlex.quote(str(path))}",)
            yield Finding(Status.FAIL, message, {"mode": f"{seen.mode:04o}"}, fix, str(path))


def _private(
    facts: Facts, broker: LocalBroker, path: Path, level: Literal[Status.WARN, Status.FAIL]
) -> Iterator[Finding]:
    """Owned by whoever the broker becomes, 0600: the one choice that all versions take without a word."""
    who = broker.runs_as
    uid, seen = facts.files.uid(who), facts.files.followed(path)
    if seen is None:
        yield Finding(Status.FAIL, f"there is no {path}: the broker ends with status 13", {}, (), str(path))
        return
    evidence = {"owner": seen.uid, "mode": f"{seen.mode:04o}", "runs as": who}
    name = shlex.quote(str(path))
    sudo = "sudo " if broker.is_systems else ""
    fix = (f"{sudo}chown {who}: {name} && {sudo}chmod 600 {name}",)
    if uid is not None and seen.uid != uid and not seen.mode & 0o044:
        message = f"{who} cannot read {path}: the broker ends with status 13 when it is started"
        yield Finding(Status.FAIL, message, evidence, fix, str(path))
    elif seen.mode & 0o077:
        message = f"others than the broker can read {path} (mode {seen.mode:04o})"
        yield Finding(level, message, evidence, fix, str(path))


@check("broker.pw-plaintext", "passwords are hashed", scope="host")
def pw_plaintext(facts: Facts, _: str) -> Iterator[Finding]:
    """The form of each line of the password files; what it holds is not told."""
    broker = facts.local_broker()
    for path in broker.file("password_file"):
        lines = (facts.files.text(path) or "").splitlines()
        plain = [n for n, line in enumerate(lines, 1) if line.strip() and not _HASHED.match(line)]
        if plain:
            message = f"{path} has {len(plain)} lines that are no hash, the first is line {plain[0]}"
            sudo = "sudo " if broker.is_systems else ""
            fix = (f"{sudo}mosquitto_passwd -U {shlex.quote(str(path))}",)
            yield Finding(Status.FAIL, message, {"lines": plain[:10]}, fix, str(path))


@check("broker.acl-nobody", "rules for everybody count for everybody", scope="host")
def acl_nobody(facts: Facts, _: str) -> Iterator[Finding]:
    """`topic` above the first `user` is for anonymous clients alone, whom this broker does not let in."""
    broker = facts.local_broker()
    if broker.on("allow_anonymous", default=not broker.configuration().listeners):
        return
    for path in broker.file("acl_file"):
        for number, line in enumerate((facts.files.text(path) or "").splitlines(), 1):
            words = line.split()
            if words[:1] == ["user"]:
                break
            if words[:1] == ["topic"]:
                message = f"{path}:{number}: a rule for anonymous clients only, and none may connect"
                sudo = "sudo " if broker.is_systems else ""
                edit = f"{sudo}sed -i '{number}s/topic/pattern/' {shlex.quote(str(path))}"
                fix = (f"{edit} && {start_broker(broker)}",)
                yield Finding(Status.WARN, message, {"line": number}, fix, f"{path}:{number}")


@check("broker.log-unreachable", "the broker's log can be read", scope="host")
def log_unreachable(facts: Facts, _: str) -> Iterator[Finding]:
    """Whether this user gets at the last lines."""
    broker = facts.local_broker()
    where = str(broker.log_file or "the journal")
    try:
        broker.log()
    except CouldNotLook as error:
        if not broker.is_systems:
            raise
        message = (
            f"the broker's log, {where}, is hidden from {facts.system.user.name}: some checks cannot look"
        )
        # Also to the journal, which members of the group adm may read; it takes nothing away.
        add = f"echo 'log_dest syslog' | sudo tee -a {CONF_D}/60-additions.conf"
        yield Finding(
            Status.INFO, message, {"log": where, "reason": str(error)}, (f"{add} && {start_broker(broker)}",)
        )
