"""Which broker the agents of this host get: pure, and said in words that are kept with the spec."""

from __future__ import annotations

import ipaddress
from typing import Literal

from swarmbus.errors import Conflict, UsageError
from swarmbus.provision import mosquitto
from swarmbus.provision.command import Command
from swarmbus.provision.host import Host
from swarmbus.provision.root import RootStep, RootStepsNeeded
from swarmbus.provision.spec import InstallSpec

BrokerChoice = Literal["none", "as-it-is", "system", "private"]
"""``none``: another machine's, or not to be set up. ``as-it-is``: one that answers already, left as it is.
``system``: Debian's mosquitto under systemd. ``private``: a mosquitto process of the user's own."""

BrokerProgram = Literal["none", "installed", "package", "unpacked"]
"""Of a private broker: ``installed`` already, a ``package`` to install as root, or one ``unpacked``."""


def is_this_host(broker: str, hostname: str) -> bool:
    """Whether that address is this machine, by its text alone; nothing is looked up."""
    name = broker.strip("[]").lower()
    if name in ("localhost", hostname.lower(), hostname.partition(".")[0].lower()):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def choose_program(spec: InstallSpec, host: Host, broker: BrokerChoice) -> BrokerProgram:
    """Where the executable of a private broker comes from; once unpacked, it stays the unpacked one."""
    if broker != "private":
        return "none"
    if spec.chosen.get("program") == "unpacked":
        return "unpacked"
    if host.mosquitto.program is not None:
        return "installed"
    return "package" if host.can_become_root and host.apt else "unpacked"


def choose_broker(spec: InstallSpec, host: Host) -> BrokerChoice:
    """Decide.

    Raises:
        Conflict: If something that is not a broker has the port.
        UsageError: If there is a mosquitto that cannot be extended, or none that could be for this scope.
        RootStepsNeeded: If there is no broker, and no way to get one without an administrator.
    """
    if spec.skip_broker or not is_this_host(spec.broker, host.hostname):
        return "none"
    before = spec.chosen.get("broker")
    of_system = spec.scope == "system"
    if before == "private" and not of_system:
        return "private"
    found = host.mosquitto
    ours_to_extend = host.init == "systemd" and found.reads_conf_d and (host.can_become_root or of_system)
    if before == "system" and found.loaded and found.reads_conf_d:
        return "system"
    if host.init == "systemd" and found.serves(spec.port):
        return "system" if ours_to_extend else "as-it-is"
    if before == "private":
        return _choose_new(spec, host)  # what answers is ours, and makes room for the system's
    if host.port.answers in ("mqtt", "mqtt-refuses"):
        return "as-it-is"
    if host.port.answers == "other":
        who = f" ({host.port.program})" if host.port.program else ""
        raise Conflict(
            f"port {spec.port} of this machine is taken by something that is no MQTT broker{who}",
            hint="choose another one with --port",
        )
    return _choose_new(spec, host)


def _choose_new(spec: InstallSpec, host: Host) -> BrokerChoice:
    """There is none on the port yet."""
    found = host.mosquitto
    of_system = spec.scope == "system"  # which needs root anyway
    as_root = host.can_become_root or of_system
    installable = as_root and host.apt
    if host.init == "systemd" and as_root:
        if found.version is not None and not found.reads_conf_d:
            raise UsageError(
                f"{mosquitto.MAIN_CONFIG} does not include {mosquitto.CONF_D}: it cannot be extended there",
                hint=f"give it a listener on port {spec.port}, or use --broker or --skip-broker",
            )
        if found.version is not None or installable:
            return "system"
    if of_system:
        raise UsageError(
            "there is no mosquitto service on this machine for agents of the system",
            hint="install one, or use --scope user, or --broker HOST",
        )
    if found.program is not None or host.apt:
        return "private"
    if host.init == "launchd":
        raise UsageError("there is no mosquitto on this machine", hint="brew install mosquitto")
    raise RootStepsNeeded(
        "there is no MQTT broker on this machine, and no way to get one without an administrator",
        steps=[
            RootStep("", "install mosquitto", (Command(("apt-get", "install", "-y", mosquitto.PACKAGE)),))
        ],
    )
