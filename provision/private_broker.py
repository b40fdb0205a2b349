"""A mosquitto of the user's own: on loopback, its database in the user's state folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from swarmbus.provision import mosquitto
from swarmbus.provision.host import Host
from swarmbus.provision.layout import Layout
from swarmbus.provision.mosquitto_trial import try_out
from swarmbus.provision.render import render
from swarmbus.provision.resources.base import Resource
from swarmbus.provision.resources.directory import Directory
from swarmbus.provision.resources.file import File
from swarmbus.provision.resources.package import Package
from swarmbus.provision.resources.unpacked_package import UnpackedPackage
from swarmbus.provision.spec import InstallSpec
from swarmbus.provision.system import System

GROUP = "broker"
_DEBIAN_STATE = Path("/var/lib/mosquitto")


@dataclass(frozen=True)
class PrivateBroker:
    """What runs, and what it needs.

    Attributes:
        argv: The broker's command line.
        environment: Variables that it needs.
        program: Resources that bring the executable.
        files: Resources that configure it.
    """

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    program: tuple[Resource, ...]
    files: tuple[Resource, ...]


def private_broker(
    spec: InstallSpec, host: Host, layout: Layout, *, restart: tuple[str, ...]
) -> PrivateBroker:
    """The system's executable where there is one or root can install it, else an unpacked package.

    Args:
        restart: Handlers that make it read its configuration.
    """
    program, environment, resources = _program(spec, host, layout)
    as_root = host.user.uid == 0
    # Started by root, mosquitto becomes the user `mosquitto`, who can write only in Debian's folder.
    state = _DEBIAN_STATE if as_root else layout.broker_state
    text = render(
        "mosquitto/private.conf.j2",
        user=host.user.name,
        port=spec.port,
        interface="lo" if host.init != "launchd" else None,
        run_as="mosquitto" if as_root else None,
        state=state,
        settings=tuple(mosquitto.SETTINGS.items()),
    )

    def judge(system: System, content: str) -> None:
        if system.stat(program) is None:
            return  # it comes in the same run, and its version is the distribution's
        lines = tuple(mosquitto.parse(layout.broker_config, content))
        try_out(system, program, mosquitto.Configuration(lines), dict(environment))

    config = File(
        group=GROUP, path=layout.broker_config, content=text, mode=0o600, judge=judge, notify=restart
    )
    folders = [] if as_root else [Directory(group=GROUP, path=state, mode=0o700)]
    argv = (str(program), "-c", str(layout.broker_config))
    return PrivateBroker(argv, environment, tuple(resources), (*folders, config))


def _program(
    spec: InstallSpec, host: Host, layout: Layout
) -> tuple[Path, tuple[tuple[str, str], ...], list[Resource]]:
    unpacked = layout.broker_program
    if spec.chosen["program"] == "installed":
        return host.mosquitto.program or mosquitto.PROGRAM, (), []
    if spec.chosen["program"] == "package":
        package = Package(group=f"package:{mosquitto.PACKAGE}", name=mosquitto.PACKAGE, start=False)
        return mosquitto.PROGRAM, (), [package]
    folders = [unpacked / part / (host.multiarch or "") for part in ("usr/lib", "lib")]
    library_path = ":".join(str(folder) for folder in folders)
    program = "usr/sbin/mosquitto"
    package_ = UnpackedPackage(
        group=GROUP, name=mosquitto.PACKAGE, folder=unpacked, program=program, library_path=library_path
    )
    data = Directory(group=GROUP, path=unpacked.parent)
    return unpacked / program, (("LD_LIBRARY_PATH", library_path),), [data, package_]
