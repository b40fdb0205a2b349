"""Commands that mend: what fixes print, for the way in which this host keeps its daemons running."""

from __future__ import annotations

import shlex
from pathlib import Path

from swarmbus.config import Settings
from swarmbus.provision.facts import Facts, ListenerSeen
from swarmbus.provision.supervisors.systemd_user import agent_unit

_CONNECTION = ("broker", "port", "username", "ca_cert", "client_cert", "client_key", "tls")


def swarmbus(*words: str) -> str:
    """A call of our own command line."""
    return shlex.join(["swarmbus", *words])


def systemctl_user(*words: str) -> str:
    """A call of the user's systemd."""
    return shlex.join(["systemctl", "--user", *words])


def init(agent: str) -> str:
    """Put an agent's setup in order again."""
    return swarmbus("init", "--agent-id", agent, "--yes")


def start_listener(facts: Facts, agent: str) -> tuple[str, ...]:
    """Have an agent's listener daemon run."""
    match facts.supervision(agent):
        case "systemd-user":
            return (systemctl_user("start", agent_unit(agent)),)
        case "processes":
            return (init(agent),)
        case _:
            start = swarmbus("start", "--agent-id", agent, "--detach", *_flags(facts.settings[agent]))
            return (start, init(agent))


def restart_listener(facts: Facts, agent: str) -> tuple[str, ...]:
    """End an agent's listener daemon and start it as it was started."""
    listener = facts.listener(agent)
    if facts.supervision(agent) == "systemd-user":
        return (systemctl_user("restart", agent_unit(agent)),)
    if listener is None:
        return start_listener(facts, agent)
    if facts.supervision(agent) == "processes":
        return (f"{end(listener)} && {init(agent)}",)
    return (f"{end(listener)} && {_again(facts, agent, listener)}",)


def end(listener: ListenerSeen) -> str:
    """End a listener daemon that no unit runs, and wait: it finishes what it is doing first."""
    # tail ends with the process that it watches (coreutils)
    return f"kill {listener.pid} && tail --pid={listener.pid} -f /dev/null"


def _again(facts: Facts, agent: str, listener: ListenerSeen) -> str:
    if "start" not in listener.argv:
        return start_listener(facts, agent)[0]
    detached = [] if "--detach" in listener.argv else ["--detach"]
    return shlex.join([*listener.argv, *detached])


def restart_broker(facts: Facts, agent: str) -> tuple[str, ...]:
    """Have the broker of this machine run."""
    match facts.broker_supervision():
        case "mosquitto.service":
            return ("sudo systemctl restart mosquitto.service",)
        case "swarmbus-broker.service":
            return (systemctl_user("restart", "swarmbus-broker.service"),)
        case _:
            return (init(agent),)


def make_writable(facts: Facts, path: Path, *, folder: bool) -> tuple[str, ...]:
    """Give this user the right to write."""
    name = shlex.quote(str(path))
    seen = facts.stat(path)
    user = facts.system.user
    if seen is not None and user.uid not in (0, seen.uid):
        return (f"sudo chown {user.name}: {name}",)
    return (f"chmod u+rw{'x' if folder else ''} {name}",)


def put_aside(path: Path) -> tuple[str, ...]:
    """Take something out of the way, keeping it."""
    name = shlex.quote(str(path))
    return (f"mv -n {name} {shlex.quote(f'{path}.aside')}",)


def _flags(settings: Settings) -> list[str]:
    """What was said on this command line about the broker has to be said again."""
    flags = []
    for name in _CONNECTION:
        if settings.sources.get(name) == "flag":
            option, value = f"--{name.replace('_', '-')}", getattr(settings, name)
            flags += [option if value else "--no-tls"] if isinstance(value, bool) else [option, str(value)]
    return flags
