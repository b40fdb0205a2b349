"""Desired: the whole product on one screen. What a host should have, from what was asked for and what is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from swarmbus.errors import UsageError
from swarmbus.provision import mosquitto
from swarmbus.provision.broker_choice import BrokerChoice, choose_broker, choose_program
from swarmbus.provision.host import Host
from swarmbus.provision.layout import Layout
from swarmbus.provision.mosquitto_trial import try_out
from swarmbus.provision.plan import Wish
from swarmbus.provision.private_broker import private_broker
from swarmbus.provision.render import render
from swarmbus.provision.request import AgentSpec
from swarmbus.provision.resources.base import Resource, Scope
from swarmbus.provision.resources.directory import Directory
from swarmbus.provision.resources.file import File
from swarmbus.provision.resources.package import Package
from swarmbus.provision.resources.toml_key import TomlKey
from swarmbus.provision.resources.unit import Unit
from swarmbus.provision.spec import InstallSpec
from swarmbus.provision.supervisors.base import Supervisor
from swarmbus.provision.supervisors.health_timer import health_timer
from swarmbus.provision.supervisors.launchd import Launchd
from swarmbus.provision.supervisors.processes import Processes
from swarmbus.provision.supervisors.systemd_system import SystemdSystem
from swarmbus.provision.supervisors.systemd_user import SystemdUser
from swarmbus.provision.system import System

_MOSQUITTO_RESTART = f"system:restart:{mosquitto.UNIT}"


def choose(spec: InstallSpec, host: Host) -> InstallSpec:
    """The spec with what was left to us decided."""
    supervisor = _choose_supervisor(spec, host)
    broker = choose_broker(spec, host)
    program = choose_program(spec, host, broker)
    decided = {"broker": broker, "program": program, "supervisor": supervisor}
    return replace(spec, chosen={**spec.chosen, **decided})


def agent_restarts(
    spec: InstallSpec, host: Host, layout: Layout, agent_ids: Iterable[str]
) -> tuple[str, ...]:
    """The handlers that restart the listeners of these agents."""
    supervisor: Supervisor = _SUPERVISORS[spec.chosen["supervisor"]](host, layout)
    return tuple(supervisor.agent_restart(agent_id) for agent_id in agent_ids)


def desired(spec: InstallSpec, host: Host, layout: Layout) -> Wish:
    """The resources, in the order in which they are brought about.

    What the user can do comes first, root's steps as late as they can, and the listeners last, so that
    each finds its broker. Pure: the same spec and facts give the same wish.

    Args:
        spec: As `choose` returns it.
    """
    supervisor: Supervisor = _SUPERVISORS[spec.chosen["supervisor"]](host, layout)
    choice: BrokerChoice = spec.chosen["broker"]  # type: ignore[assignment]
    first: list[Resource] = [Directory(group="host", path=layout.state, mode=0o700)]
    root: list[Resource] = []
    last: list[Resource] = []
    after: tuple[str, ...] = ()

    first += [Directory(group="host", path=layout.config.parent, mode=None)]
    first += _config(spec, layout, supervisor)
    shared = supervisor.common(spec.agents)
    first += _of("user", shared.files)
    root += _of("root", shared.files)

    match choice:
        case "system":
            root += _system_broker(spec, host)
            after = supervisor.after_system_broker
        case "private":
            broker = private_broker(spec, host, layout, restart=(supervisor.broker_restart,))
            daemon = supervisor.broker(broker.argv, broker.environment, spec.port)
            first += [*_of("user", broker.program), *broker.files, *daemon.files]
            root += _of("root", broker.program)
            last += daemon.running
            after = (supervisor.broker_name,)

    for agent in spec.agents:
        first += [Directory(group=f"agent:{agent.id}", path=layout.agent_dir(agent.id), mode=0o700)]
        first += _inbox_folder(agent, layout)
        daemon = supervisor.agent(agent, after=after)
        first += _of("user", daemon.files)
        root += _of("root", daemon.files)
        last += daemon.running

    if supervisor.name == SystemdUser.name:
        health = health_timer(host, layout)
        first += health.files
        last += health.running

    resources = _once([*first, *root, *shared.running, *last])
    notes = supervisor.notes(spec, private_broker=choice == "private")
    return Wish(tuple(resources), (*_broker_notes(choice, spec, host), *notes))


_SUPERVISORS: dict[str, type[Supervisor]] = {
    kind.name: kind for kind in (SystemdUser, SystemdSystem, Processes, Launchd)
}


def _of(scope: Scope, resources: Iterable[Resource]) -> list[Resource]:
    return [resource for resource in resources if resource.scope == scope]


def _choose_supervisor(spec: InstallSpec, host: Host) -> str:
    """Decide.

    Raises:
        UsageError: If units of the system are wanted, and there is no systemd, or another user has them.
    """
    if spec.scope == "system":
        if host.init != "systemd":
            raise UsageError("--scope system needs systemd", hint="use --scope user")
        if taken := [agent.id for agent in spec.agents if agent.id in host.taken]:
            raise UsageError(
                f"another user of this host has an agent {taken[0]!r} in the system",
                hint="choose another id, or use --scope user",
            )
        return SystemdSystem.name
    if host.init != "systemd":
        return Launchd.name if host.init == "launchd" else Processes.name
    before = spec.chosen.get("supervisor")
    if before == SystemdUser.name or host.user_manager or host.can_become_root:
        return SystemdUser.name
    return Processes.name


def _config(spec: InstallSpec, layout: Layout, supervisor: Supervisor) -> list[Resource]:
    """The keys of config.toml; everything else in it is the user's."""
    everybody = tuple(supervisor.agent_restart(agent.id) for agent in spec.agents)
    path = layout.config
    first = spec.agents[0].id
    keys: list[Resource] = [
        TomlKey(group="host", path=path, table=(), key="agent_id", value=first, only_if_missing=True),
        TomlKey(group="host", path=path, table=(), key="broker", value=spec.broker, notify=everybody),
        TomlKey(group="host", path=path, table=(), key="port", value=spec.port, notify=everybody),
    ]
    for agent in spec.agents:
        restart = (supervisor.agent_restart(agent.id),)
        settings = (("inbox", agent.inbox), ("outbox", agent.outbox), ("invoke", agent.invoke))
        for key, value in settings:
            if value is not None:
                keys.append(
                    TomlKey(
                        group=f"agent:{agent.id}",
                        path=path,
                        table=("agents", agent.id),
                        key=key,
                        value=value,
                        notify=restart,
                    )
                )
    return keys


def _inbox_folder(agent: AgentSpec, layout: Layout) -> list[Resource]:
    """The folder of the inbox, where it is in the user's home."""
    path = layout.file(agent.inbox or "", agent.id)
    if not path.is_relative_to(layout.home) or path.parent == layout.home:
        return []
    return [Directory(group=f"agent:{agent.id}", path=path.parent)]


def _system_broker(spec: InstallSpec, host: Host) -> list[Resource]:
    """Debian's mosquitto: the package, one file of ours beside whatever is there, the service."""
    others = host.mosquitto.configuration.without(mosquitto.OUR_FILE)
    text = render("mosquitto/50-swarmbus.conf.j2", additions=mosquitto.additions(others, spec.port))

    def judge(system: System, content: str) -> None:
        program = host.mosquitto.program
        if program is None:
            return  # it comes in the same run; before the agents start, its own unit will tell
        try_out(system, program, others, {})
        ours = tuple(mosquitto.parse(mosquitto.OUR_FILE, content))
        try_out(system, program, mosquitto.with_ours(others, ours), {})

    return [
        Package(group=f"package:{mosquitto.PACKAGE}", name=mosquitto.PACKAGE, service=mosquitto.UNIT),
        File(
            group="broker",
            path=mosquitto.OUR_FILE,
            content=text,
            root=True,
            judge=judge,
            notify=(_MOSQUITTO_RESTART,),
        ),
        Unit(group="broker", name=mosquitto.UNIT, manager="system", settle=(_MOSQUITTO_RESTART,)),
    ]


def _broker_notes(choice: BrokerChoice, spec: InstallSpec, host: Host) -> tuple[str, ...]:
    if choice == "as-it-is":
        note = f"a broker answers on port {spec.port} of this machine already: it is used as it is"
        if host.port.answers == "mqtt-refuses":
            note += "; it wants credentials: set username and password_file in config.toml"
        return (note,)
    if choice == "system":
        return _listener_notes(spec, host)
    if choice == "none" and not spec.skip_broker:
        return (f"the broker is {spec.broker}, port {spec.port}: none is installed here",)
    return ()


def _listener_notes(spec: InstallSpec, host: Host) -> tuple[str, ...]:
    """That another port comes beside the one that is there: others may use that."""
    configuration = host.mosquitto.configuration
    others = configuration.without(mosquitto.OUR_FILE)
    written = mosquitto.additions(others, spec.port).ports
    kept = {*(one.port for one in configuration.listeners if one.port), *written} - {spec.port}
    if not kept or configuration.serves_loopback(spec.port) or spec.port not in written:
        return ()
    ports = ", ".join(str(port) for port in sorted(kept))
    return (f"mosquitto gets a listener on port {spec.port}, and goes on listening on port {ports}",)


def _once(resources: list[Resource]) -> list[Resource]:
    """Each id once: two agents can share a folder."""
    unique: dict[str, Resource] = {}
    for resource in resources:
        unique.setdefault(resource.id, resource)
    return list(unique.values())
