"""An agent's state folder and its daemon: sizes, rights, limits."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from swarmbus.provision.checks.commands import restart_listener
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts
from swarmbus.provision.sources.files import others_may

_NETWORK: Final = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "fuse.rclone")
_INBOX: Final = 50 << 20
_MAILBOX: Final = 512 << 20
_WAL: Final = 64 << 20
_MEMORY: Final = 256 << 20
_MUCH: Final = 0.8
_LAG: Final = 100


@check("agent.state-perms", "nobody else reads its mail")
def state_perms(facts: Facts, agent: str) -> Iterator[Finding]:
    """Modes of its state folder, and of the mailbox in it."""
    folder = facts.layout.agent_dir(agent)
    seen = facts.stat(folder)
    if seen is None:
        raise CouldNotLook(f"there is no {folder} yet")
    if others_may(seen, facts.system.user, 0o077):
        message = f"others can look into {folder} (mode {seen.mode:04o})"
        fix = (f"chmod 700 {shlex.quote(str(folder))}",)
        yield Finding(Status.FAIL, message, {"mode": f"{seen.mode:04o}"}, fix, str(folder))


@check("agent.state-filesystem", "its mailbox is on a disk of this machine")
def state_filesystem(facts: Facts, agent: str) -> Iterator[Finding]:
    """The type of the file system: SQLite's locks do not hold over a network."""
    mount = facts.files.mount_of(facts.layout.agent_dir(agent))
    evidence = {"type": mount.kind, "device": mount.device}
    if mount.kind in _NETWORK:
        message = (
            f"its mailbox is on {mount.point} ({mount.kind}), over a network: SQLite may damage it there"
        )
        yield Finding(Status.WARN, message, evidence)
    elif mount.kind == "tmpfs":
        message = f"its mailbox is on {mount.point}, in memory: a reboot forgets all mail"
        yield Finding(Status.INFO, message, evidence)


@check("agent.inbox-size", "its inbox file is of a size to work with")
def inbox_size(facts: Facts, agent: str) -> Iterator[Finding]:
    """Its size against that at which it is to rotate."""
    name, most = facts.word(agent, "inbox"), facts.settings[agent].inbox_max_bytes
    seen = facts.files.followed(Path(name)) if name else None
    if seen is not None and seen.size > max(_INBOX, 2 * most):
        why = "rotation is switched off" if not most else f"it should have rotated at {most >> 20} MiB"
        message = f"its inbox {name} has {seen.size >> 20} MiB: {why}"
        yield Finding(Status.WARN, message, {"bytes": seen.size, "inbox_max_bytes": most}, subject=str(name))


@check("agent.mailbox-size", "its mailbox does not grow without end")
def mailbox_size(facts: Facts, agent: str) -> Iterator[Finding]:
    """Sizes of the database and of its write-ahead log, which each connection that ends empties."""
    database = facts.layout.agent_dir(agent) / "mailbox.db"
    for path, most in ((database, _MAILBOX), (database.with_name("mailbox.db-wal"), _WAL)):
        seen = facts.stat(path)
        if seen is not None and seen.size > most:
            message = f"{path} has {seen.size >> 20} MiB"
            fix = restart_listener(facts, agent) if path != database else ()
            yield Finding(Status.WARN, message, {"bytes": seen.size}, fix, str(path))


@check(
    "agent.lag",
    "its handlers keep up",
    after=("agent.listener-running",),
    consequence_of=("agent.wake-failing", "agent.invoke-runnable", "agent.inbox-writable"),
)
def lag(facts: Facts, agent: str) -> Iterator[Finding]:
    """How many messages each handler is behind, by the daemon's own word."""
    for handler in facts.status(agent).get("handlers", ()):
        if handler["lag"] >= _LAG:
            message = f"{handler['name']} is {handler['lag']} messages behind"
            yield Finding(Status.WARN, message, {"handler": handler["name"], "lag": handler["lag"]})


@check("agent.settings-stale", "its listener has the settings as they are", after=("agent.listener-running",))
def settings_stale(facts: Facts, agent: str) -> Iterator[Finding]:
    """What a daemon that we keep running says of itself, against config.toml."""
    if facts.supervision(agent) == "none":
        raise CouldNotLook("it was started by hand, perhaps with settings of its own")
    status, own = facts.status(agent), facts.settings[agent]
    outbox = str(own.outbox_path) if own.outbox_path else None
    now = {"inbox": str(own.inbox_path), "outbox": outbox, "invoke": own.invoke}
    # What this shell's environment says is not what the daemon was started with.
    ours = [what for what in now if what in status and own.sources.get(what) != "environment"]
    other = {what: status[what] for what in ours if status[what] != now[what]}
    if other:
        what = next(iter(other))
        message = f"its listener has {what} = {other[what] or 'none'}, the settings say {now[what] or 'none'}"
        yield Finding(Status.WARN, message, other, restart_listener(facts, agent))


@check("agent.inbox-shared", "each agent has an inbox file of its own", scope="host")
def inbox_shared(facts: Facts, _: str) -> Iterator[Finding]:
    """The inbox files of all agents of this host, links followed."""
    owners: dict[str, list[str]] = {}
    for agent in facts.agents:
        name = facts.word(agent, "inbox")
        if name is not None:
            owners.setdefault(str(facts.files.real(Path(name)) or name), []).append(agent)
    for name, agents in owners.items():
        if len(agents) > 1:
            message = f"{' and '.join(agents)} write to one inbox file, {name}: neither can tell its mail"
            yield Finding(Status.WARN, message, {"inbox": name, "agents": agents}, (), name)


@check("agent.id-elsewhere", "its id is its own", after=("mqtt.connect",))
def id_elsewhere(facts: Facts, agent: str) -> Iterator[Finding]:
    """Presence from another host, while no listener runs here: starting one would begin a fight."""
    presences = facts.visit(facts.broker_of(agent)).presences
    if presences is None:
        raise CouldNotLook("the broker does not let us read presence")
    seen, here = presences.get(agent), facts.system.hostname
    if facts.listener(agent) is not None or seen is None or seen.status != "online":
        return
    if seen.host not in (None, here):
        message = f"{agent} is online on {seen.host}, and set up here too: one of them needs another id"
        yield Finding(Status.FAIL, message, {"host": seen.host, "instance": seen.instance, "here": here})


@check("agent.memory", "its listener is small", after=("agent.listener-running",))
def memory(facts: Facts, agent: str) -> Iterator[Finding]:
    """Resident memory of the daemon, which needs some 40 MiB."""
    listener = facts.listener(agent)
    if listener is None:
        raise CouldNotLook("no listener runs")
    size = facts.processes.memory(listener.pid)
    if size > _MEMORY:
        message = f"its listener, pid {listener.pid}, has grown to {size >> 20} MiB"
        yield Finding(Status.WARN, message, {"bytes": size}, restart_listener(facts, agent))


@check("agent.fd-limit", "its listener has files and sockets to spare", after=("agent.listener-running",))
def fd_limit(facts: Facts, agent: str) -> Iterator[Finding]:
    """Open descriptors of the daemon against its limit."""
    listener = facts.listener(agent)
    if listener is None:
        raise CouldNotLook("no listener runs")
    used, most = facts.processes.open_files(listener.pid), facts.processes.open_files_limit(listener.pid)
    if used > most * _MUCH:
        message = f"its listener, pid {listener.pid}, has {used} of {most} open files"
        evidence = {"open": used, "limit": most}
        yield Finding(Status.WARN, message, evidence, restart_listener(facts, agent))
