"""The timer of the user's systemd by which health is looked at every five minutes."""

from __future__ import annotations

from swarmbus.provision.handlers import USER_RELOAD
from swarmbus.provision.health_state import INTERVAL, SERVICE, TIMER
from swarmbus.provision.host import Host
from swarmbus.provision.layout import Layout
from swarmbus.provision.render import render
from swarmbus.provision.resources.file import File
from swarmbus.provision.resources.unit import Unit
from swarmbus.provision.supervisors.base import Daemon
from swarmbus.provision.supervisors.unit_judge import judge_unit


def health_timer(host: Host, layout: Layout) -> Daemon:
    """Service and timer, and that the timer runs."""
    service = render(
        "systemd/swarmbus-health.service.j2",
        unit=SERVICE,
        user=host.user.name,
        argv=(host.python, "-I", "-m", "swarmbus", "doctor", "--all", "--health"),
        environment=tuple(f"{name}={value}" for name, value in layout.environment),
    )
    timer = render("systemd/swarmbus-health.timer.j2", unit=TIMER, minutes=int(INTERVAL // 60))
    return Daemon(
        (
            File(
                group="host",
                path=layout.units / SERVICE,
                content=service,
                judge=judge_unit(SERVICE),
                notify=(USER_RELOAD,),
            ),
            File(
                group="host",
                path=layout.units / TIMER,
                content=timer,
                notify=(USER_RELOAD, f"user:restart:{TIMER}"),
            ),
        ),
        (Unit(group="host", name=TIMER, settle=(USER_RELOAD,)),),
    )
