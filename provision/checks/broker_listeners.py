"""Where this machine's broker listens: for whom, and whether it can after a boot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from swarmbus.provision.checks.commands import init, leave_out, start_broker
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts
from swarmbus.provision.mosquitto import CONF_D, Line, Listener
from swarmbus.provision.sources.local_broker import LocalBroker
from swarmbus.provision.sources.sockets import Address, address
from swarmbus.provision.sources.tailscale import TAILNET
from swarmbus.provision.sources.versions import older

_NONLOCAL: Final = Path("/proc/sys/net/ipv4/ip_nonlocal_bind")


def _bound(listener: Listener) -> Address | None:
    """The one address that it needs and that need not be there; None for loopback and every address."""
    place = address(listener.address or "")
    return None if place is None or place.is_loopback or place.is_unspecified else place


def _here(facts: Facts) -> list[str]:
    """Those of the agents' brokers that are on this machine."""
    return [broker for broker in facts.brokers() if facts.serves_here(broker)]


@check("broker.no-loopback-listener", "local agents can reach the broker", scope="host")
def no_loopback_listener(facts: Facts, _: str) -> Iterator[Finding]:
    """The first `listener` takes the default one on loopback away."""
    broker = facts.local_broker()
    configuration = broker.configuration()
    if not configuration.listeners:
        return
    for name in facts.brokers():
        settings = facts.settings_at(name)
        if not facts.is_here(settings.broker) or configuration.serves_loopback(settings.port):
            continue
        others = ", ".join(f"{one.port} on {one.interface or one.address}" for one in configuration.listeners)
        message = (
            f"no listener serves {settings.broker}:{settings.port}, which agents here use; there is {others}"
        )
        lines = rf"printf 'listener {settings.port}\nbind_interface lo\n'"
        add = f"{lines} | sudo tee {CONF_D}/60-loopback.conf && {start_broker(broker)}"
        fix = (add if broker.is_systems else init(facts.agents_at(name)[0]),)
        yield Finding(Status.FAIL, message, {"listeners": others}, fix, name)


@check("broker.local-only", "the broker listens where the settings look for it", scope="host")
def local_only(facts: Facts, _: str) -> Iterator[Finding]:
    """Settings that name an address of this machine, while mosquitto serves loopback alone."""
    listeners = facts.local_broker().configuration().listeners
    for name in _here(facts):
        settings = facts.settings_at(name)
        place = address(settings.broker)
        if place is not None and not place.is_loopback and all(one.loopback for one in listeners):
            message = f"the settings name {place}, and mosquitto serves this machine only, by localhost"
            evidence = {"broker": settings.broker, "listeners": len(listeners)}
            yield Finding(Status.FAIL, message, evidence, (), name)


@check("broker.listener-address", "every address that it listens on is there", scope="host")
def listener_address(facts: Facts, _: str) -> Iterator[Finding]:
    """Addresses and interfaces in the configuration against those that this machine has now."""
    broker = facts.local_broker()
    for listener in broker.configuration().listeners:
        place = _bound(listener)
        if place is not None and place not in facts.sockets.addresses():
            message = (
                f"mosquitto is to listen on {place}, which is no address of this machine: it cannot start"
            )
            line = _line(broker, f"{listener.port} {listener.address}")
            fix = leave_out(broker, line) if line is not None else ()
            yield Finding(Status.FAIL, message, {"address": str(place)}, fix, str(place))
        if listener.interface is not None and not facts.sockets.has_interface(listener.interface):
            message = f"mosquitto is to listen on {listener.interface}, which this machine does not have"
            yield Finding(Status.FAIL, message, {"interface": listener.interface}, (), listener.interface)


def _line(broker: LocalBroker, value: str) -> Line | None:
    lines = broker.configuration().lines
    return next((one for one in lines if (one.option, one.value) == ("listener", value)), None)


@check(
    "broker.boot-order",
    "the broker comes up after a boot",
    scope="host",
    after=("broker.listener-address",),
)
def boot_order(facts: Facts, _: str) -> Iterator[Finding]:
    """By configuration and unit alone: red where all works today, too."""
    broker = facts.local_broker()
    if not broker.is_systems:
        return
    late = [place for one in broker.configuration().listeners if (place := _bound(one)) is not None]
    if not late or (facts.files.text(_NONLOCAL) or "").strip() == "1":
        return
    unit = facts.mosquitto_unit()
    for place in late:
        if not _waits(unit, place):
            message = f"mosquitto listens on {place}, and does not wait at boot until that address is there"
            evidence = {name: unit.get(name, "") for name in ("After", "Restart", "StartLimitIntervalUSec")}
            yield Finding(Status.FAIL, message, evidence, (_drop_in(place),), str(place))


def _waits(unit: Mapping[str, str], place: Address) -> bool:
    after = unit.get("After", "").split()
    if unit.get("Restart") in ("always", "on-failure") and unit.get("StartLimitIntervalUSec") == "0":
        return True  # it tries until it can
    return ("tailscale-online.target" if place in TAILNET else "network-online.target") in after


def _drop_in(place: Address) -> str:
    target = "tailscale-online.target" if place in TAILNET else "network-online.target"
    folder = "/etc/systemd/system/mosquitto.service.d"
    unit = rf"[Unit]\nWants={target}\nAfter={target}\nStartLimitIntervalSec=0\n"
    text = rf"{unit}[Service]\nRestart=always\nRestartSec=5\n"
    write = f"printf '{text}' | sudo tee {folder}/60-boot-order.conf"
    return f"sudo mkdir -p {folder} && {write} && sudo systemctl daemon-reload"


@check(
    "broker.exposed", "only this machine reaches an open broker", scope="broker", after=("broker.running",)
)
def exposed(facts: Facts, broker: str) -> Iterator[Finding]:
    """Sockets that listen for other machines, on a broker that lets anybody in."""
    if not facts.serves_here(broker):
        raise CouldNotLook("it is another machine's")
    settings = facts.settings_at(broker)
    outside = [one for one in facts.sockets.on_port(settings.port) if one.reachable_from_outside]
    if not outside or not _lets_anybody_in(facts, broker):
        return
    places = ", ".join(sorted(str(one.address) for one in outside))
    tailnet = all(one.address in TAILNET for one in outside)
    whom = "every machine of the tailnet" if tailnet else "every machine that can reach this one"
    message = (
        f"{whom} may read and write all mail: port {settings.port} is open on {places}, without passwords"
    )
    yield Finding(Status.WARN if tailnet else Status.FAIL, message, {"addresses": places}, ())


def _lets_anybody_in(facts: Facts, broker: str) -> bool:
    settings, visit = facts.settings_at(broker), facts.visit(broker)
    if settings.username is None and settings.client_cert is None and visit.error is None:
        return True  # it has just let us in
    try:
        here = facts.local_broker()
        return here.on("allow_anonymous", default=not here.configuration().listeners)
    except CouldNotLook:
        if visit.error is None:
            return False
        raise


@check("broker.anonymous", "clients have to say who they are", scope="host")
def anonymous(facts: Facts, _: str) -> Iterator[Finding]:
    """By allow_anonymous, which without a listener is on."""
    broker = facts.local_broker()
    if broker.on("allow_anonymous", default=not broker.configuration().listeners):
        message = "every user and program of this machine may send as any agent, and read every agent's mail"
        line = broker.line("allow_anonymous")
        yield Finding(Status.INFO, message, {"allow_anonymous": line.value if line else "by default"})


@check("broker.cafile-no-listener", "TLS files do not open the broker", scope="host")
def cafile_no_listener(facts: Facts, _: str) -> Iterator[Finding]:
    """Before 2.0.12, a TLS option without a listener opens port 1883 to all, without passwords."""
    broker = facts.local_broker()
    configuration = broker.configuration()
    tls = [line for line in configuration.lines if line.option in ("cafile", "certfile", "keyfile")]
    version = broker.package() or ""
    if tls and not configuration.listeners and version and older(version, "2.0.12"):
        where = f"{tls[0].path}:{tls[0].number}"
        message = f"{where} says {tls[0].option} without a listener: this version listens for everybody then"
        yield Finding(Status.FAIL, message, {"line": where, "version": version}, leave_out(broker, tls[0]))


@check("broker.websockets", "the agents' listener speaks plain MQTT", scope="host")
def websockets(facts: Facts, _: str) -> Iterator[Finding]:
    """The option protocol below the listener whose port the settings name."""
    broker = facts.local_broker()
    ports = {facts.settings_at(name).port for name in _here(facts)}
    port = 0
    for line in broker.configuration().lines:
        if line.option == "listener":
            port = int(word) if (word := line.value.split(None, 1)[0]).isdigit() else 0
        elif line.option == "protocol" and line.value == "websockets" and port in ports:
            message = (
                f"{line.path}:{line.number}: the listener on port {port} speaks WebSockets, agents do not"
            )
            yield Finding(Status.FAIL, message, {"port": port}, leave_out(broker, line), str(port))
