"""A trial: mosquitto itself judges a configuration, before it becomes the one that is used."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from swarmbus.errors import CannotRun
from swarmbus.provision.mosquitto import Configuration, Line
from swarmbus.provision.system import System

_TRIAL_WAIT = 5.0  # seconds

# A trial runs a copy in which nothing leaves the scratch folder: listeners become Unix sockets, files go
# there, and what would reach others (bridges, plugins) or what only the broker's own user may read is out.
_OUT = re.compile(
    r"user|pid_file|protocol|socket_domain|bind_address|bind_interface|http_dir|websockets_\w+"
    r"|(auth_)?plugin\w*|auth_opt_\w+|password_file|acl_file|psk_file|psk_hint|use_\w+"
    r"|cafile|capath|certfile|keyfile|crlfile|dhparamfile|tls_\w+|ciphers\w*|require_certificate"
    r"|connection|address|addresses|bridge_\w+|topic|remote_\w+|local_\w+|cleansession|notifications\w*"
    r"|keepalive_interval|restart_timeout|round_robin|start_type|threshold|try_private|idle_timeout"
    r"|clientid|username|password"
)


def trial_copy(configuration: Configuration, scratch: Path, *, as_root: bool) -> tuple[str, list[Line]]:
    """The configuration for a trial, and for each of its lines the line it comes from."""
    text: list[str] = []
    origin: list[Line] = []
    for line in configuration.lines:
        option, value = line.option, line.value
        if _OUT.fullmatch(option):
            continue
        if option in ("listener", "port"):
            option, value = "listener", f"0 {scratch}/{len(origin)}.sock"
        elif option == "persistence_location":
            value = f"{scratch}/"
        elif option == "log_dest":
            value = f"file {scratch}/log" if value.startswith("file") else "stderr"
        text.append(f"{option} {value}".rstrip())
        origin.append(line)
    text.append("log_dest stderr")
    text.append("log_type all")
    if not any(line.option in ("listener", "port") for line in origin):
        text.append(f"listener 0 {scratch}/default.sock")
    if as_root:
        text.append("user root")
    return "\n".join(text) + "\n", origin


def try_out(system: System, program: Path, configuration: Configuration, env: dict[str, str]) -> None:
    """Start mosquitto on a copy of the configuration, and stop it.

    Raises:
        CannotRun: If it does not come up; with file and line where mosquitto names one.
    """
    with system.scratch() as scratch:
        copy, log = scratch / "trial.conf", scratch / "stderr"
        text, origin = trial_copy(configuration, scratch, as_root=system.user.uid == 0)
        system.write_file(copy, text.encode(), mode=0o600)
        pid = system.spawn([str(program), "-c", str(copy)], log=log, env=env)
        deadline = system.monotonic() + _TRIAL_WAIT
        said = ""
        while system.monotonic() < deadline:
            alive = system.process(pid)
            said = (system.read(log) or b"").decode(errors="replace")
            if re.search(r"mosquitto version \S+ running", said):
                break
            if alive is None:
                raise _refusal(said, copy, origin)
            system.sleep(0.02)
        _end(system, pid)
        if not re.search(r"mosquitto version \S+ running", said):
            raise _refusal(said, copy, origin)


def _end(system: System, pid: int) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = system.monotonic() + 2.0
        running = system.process(pid)
        while running is not None and system.monotonic() < deadline:
            system.signal(running, number)
            system.sleep(0.02)
            running = system.process(pid)


def _refusal(said: str, copy: Path, origin: list[Line]) -> CannotRun:
    errors = re.findall(r"Error: (.+)", said)
    where = re.search(rf"{re.escape(str(copy))}:(\d+)", said)
    reason = errors[0].rstrip(".") if errors else (said.strip().splitlines() or ["it said nothing"])[-1]
    place = ""
    if where and 0 < int(where[1]) <= len(origin):
        line = origin[int(where[1]) - 1]
        place = f"{line.path}:{line.number}: "
    return CannotRun(f"mosquitto does not accept its configuration: {place}{reason}")
