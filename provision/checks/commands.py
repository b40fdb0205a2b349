"""Commands that mend: what fixes print, for the way in which this host keeps its daemons running."""

from __future__ import annotations

import shlex
from pathlib import Path

from swarmbus.config import Settings
from swarmbus.provision.facts import Facts, ListenerSeen
from swarmbus.provision.mosquitto import CONF_D, Line
from swarmbus.provision.sources.local_broker import LocalBroker
from swarmbus.provision.supervisors.launchd import agent_label

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
        case "systemd-user" | "systemd-system":
            return (facts.unit_of(agent).command("start"),)
        case "launchd":
            return (_kickstart(facts, agent),)
        case "processes":
            return (init(agent),)
        case _:
            start = swarmbus("start", "--agent-id", agent, "--detach", *_flags(facts.settings[agent]))
            return (start, init(agent))


def restart_listener(facts: Facts, agent: str) -> tuple[str, ...]:
    """End an agent's listener daemon and start it as it was started."""
    listener = facts.listener(agent)
    if facts.supervision(agent) in ("systemd-user", "systemd-system"):
        return (facts.unit_of(agent).command("restart"),)
    if facts.supervision(agent) == "launchd":
        return (_kickstart(facts, agent, "-k"),)
    if listener is None:
        return start_listener(facts, agent)
    if facts.supervision(agent) == "processes":
        return (f"{end(listener)} && {init(agent)}",)
    return (f"{end(listener)} && {_again(facts, agent, listener)}",)


def _kickstart(facts: Facts, agent: str, *options: str) -> str:
    target = f"gui/{facts.system.user.uid}/{agent_label(agent)}"
    return shlex.join(["launchctl", "kickstart", *options, target])


def repair_by_restart(facts: Facts, agent: str) -> tuple[str, ...]:
    """The same, done by ``--fix``: where something of ours keeps it running."""
    return () if facts.supervision(agent) == "none" else (f"restart:{agent}",)


def repair_by_start(facts: Facts, agent: str) -> tuple[str, ...]:
    """Have it run, done by ``--fix``: by all that makes up the agent."""
    return () if facts.supervision(agent) == "none" else (f"agent:{agent}",)


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
            return ("systemctl --user restart swarmbus-broker.service",)
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


def write_again(path: Path, agent: str) -> str:
    """Keep a file of ours as somebody has left it, and have init write it as it should be."""
    (aside,) = put_aside(path)
    return f"{sudo_for(path)}{aside} && {init(agent)}"


def sudo_for(path: Path) -> str:
    """What has to stand before a command that changes something there."""
    return "sudo " if path.is_relative_to("/etc") else ""


def set_option(broker: LocalBroker, option: str, value: str) -> tuple[str, ...]:
    """Have mosquitto read another value of an option: in the line that says it, or in a file beside ours."""
    line = broker.line(option)
    sudo = "sudo " if broker.is_systems else ""
    restart = "sudo systemctl restart mosquitto.service"
    if not broker.is_systems:
        restart = systemctl_user("restart", "swarmbus-broker.service")
    if broker.kept == "process":
        return ()
    if line is not None:
        place = f"{line.number}s/.*/{option} {value}/"
        return (f"{sudo}sed -i {shlex.quote(place)} {shlex.quote(str(line.path))} && {restart}",)
    path = CONF_D / "60-additions.conf" if broker.is_systems else broker.main_config
    return (f"echo {shlex.quote(f'{option} {value}')} | {sudo}tee -a {shlex.quote(str(path))} && {restart}",)


def leave_out(broker: LocalBroker, line: Line) -> tuple[str, ...]:
    """Make a comment of one line of mosquitto's configuration."""
    sudo = "sudo " if broker.is_systems else ""
    return (f"{sudo}sed -i '{line.number}s/^/#/' {shlex.quote(str(line.path))} && {start_broker(broker)}",)


def start_broker(broker: LocalBroker) -> str:
    """Start it again, also where systemd has given up on it."""
    match broker.kept:
        case "mosquitto.service":
            name = "mosquitto.service"
            return f"sudo systemctl reset-failed {name}; sudo systemctl restart {name}"
        case "swarmbus-broker.service":
            return systemctl_user("restart", "swarmbus-broker.service")
        case _:
            return swarmbus("init", "--yes")


def clear_retained(facts: Facts, broker: str, topic: str) -> tuple[str, ...]:
    """Have the broker forget what it keeps on a topic; none where there is no mosquitto_pub."""
    settings = facts.settings_at(broker)
    if facts.system.which("mosquitto_pub") is None or settings.username or settings.ca_cert:
        return ()
    where = ["-h", settings.broker, "-p", str(settings.port)]
    return (shlex.join(["mosquitto_pub", *where, "-r", "-n", "-t", topic]),)


def put_aside(path: Path) -> tuple[str, ...]:
    """Take something out of the way, keeping it."""
    name = shlex.quote(str(path))
    return (f"mv -n {name} {shlex.quote(f'{path}.aside')}",)


def resume(facts: Facts, agent: str, scope: str) -> str:
    """Take a pause back that an agent's listener knows of."""
    kind, _, name = scope.partition(" ")
    return swarmbus(
        "resume", f"--{kind}", *([name] if kind == "agent" else []), *_flags(facts.settings[agent])
    )


def _flags(settings: Settings) -> list[str]:
    """What was said on this command line about the broker has to be said again."""
    flags = []
    for name in _CONNECTION:
        if settings.sources.get(name) == "flag":
            option, value = f"--{name.replace('_', '-')}", getattr(settings, name)
            flags += [option if value else "--no-tls"] if isinstance(value, bool) else [option, str(value)]
    return flags
