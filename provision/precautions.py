"""Precautions: what is looked at first, so that a wrong word does not take healthy agents down."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from swarmbus.config import load_settings
from swarmbus.errors import (
    BrokerRefused,
    BrokerUnreachable,
    ConfigError,
    ListenerRunning,
    StorageError,
    UsageError,
)
from swarmbus.provision.bus import Bus
from swarmbus.provision.layout import Layout
from swarmbus.provision.listener_lock import listener_pid
from swarmbus.provision.outcome import Prepared
from swarmbus.provision.plan import Plan
from swarmbus.provision.request import Request
from swarmbus.provision.resources.toml_key import TomlKey
from swarmbus.provision.spec import InstallSpec
from swarmbus.provision.supervisors.launchd import agent_label
from swarmbus.provision.supervisors.processes import agent_process
from swarmbus.provision.supervisors.units import agent_unit
from swarmbus.provision.system import System

_LOOK_UP_WAIT = 5.0
"""Seconds for the name of a broker; a resolver that nobody answers takes minutes (resolv.conf(5))."""

UNFINISHED = (
    "an earlier run was interrupted in the middle: the next one takes it up where it stopped;"
    " swarmbus init --rollback takes back what it did"
)


def check_broker(prepared: Prepared, bus: Bus) -> None:
    """See that a broker that is not ours to set up is there and lets us in.

    Raises:
        BrokerUnreachable, BrokerRefused: If not; agents that are well would have been moved onto it.
        ConfigError: If a password or TLS file cannot be used.
    """
    spec = prepared.spec
    if spec.chosen.get("broker") != "none" or prepared.plan.blocked:
        return
    before = "swarmbus init --rollback takes back an interrupted run; " if prepared.resumed else ""
    before += "nothing was changed"
    _look_up(spec.broker, before)
    agent_id = spec.agents[0].id
    settings = load_settings({"agent_id": agent_id, "broker": spec.broker, "port": spec.port})
    error = bus.visit(settings, [agent_id]).error
    if isinstance(error, BrokerRefused):
        hint = f"{before}; set username and password_file in {prepared.layout.config} first"
        raise BrokerRefused(error.message, hint=hint, reason_code=error.reason_code)
    if isinstance(error, ConfigError):
        raise error
    if error is not None:
        raise BrokerUnreachable(error.message, hint=f"{before}; {error.hint}" if error.hint else before)


def _look_up(name: str, before: str) -> None:
    """In a thread that can be left behind: a look-up cannot be interrupted."""
    ends: list[str | None] = []

    def ask() -> None:
        try:
            socket.getaddrinfo(name.strip("[]"), None)
        except (OSError, UnicodeError) as error:
            ends.append(str(getattr(error, "strerror", None) or error))
        else:
            ends.append(None)

    thread = threading.Thread(target=ask, name="look-up", daemon=True)
    thread.start()
    thread.join(_LOOK_UP_WAIT)
    reason = ends[0] if ends else f"no answer within {_LOOK_UP_WAIT:g} s"
    if reason is not None:
        hint = f"{before}; is it spelt right? its address does as well"
        raise BrokerUnreachable(f"there is no address for the broker {name!r}: {reason}", hint=hint)


def refuse_a_borrowed_home(system: System) -> None:
    """Some sudo settings keep $HOME: root's files would end up in the home of whoever called it.

    Raises:
        UsageError: If this is such a call.
    """
    caller, home = system.environ.get("SUDO_USER"), system.stat(system.user.home)
    if system.user.uid == 0 and caller and home is not None and home.uid != 0:
        raise UsageError(
            f"called through sudo, and {system.user.home} is not root's",
            hint="call it without sudo: it asks for root where it needs it",
        )


def refuse_other_listeners(plan: Plan, spec: InstallSpec, layout: Layout, system: System) -> None:
    """A listener that was started by hand holds what ours would need.

    Raises:
        ListenerRunning: If an agent that is to be started has one.
    """
    starts = {action.resource.group for action in plan.changes if action.resource.kind in ("unit", "process")}
    for agent in spec.agents:
        if f"agent:{agent.id}" not in starts:
            continue
        pid = listener_pid(system, layout, agent.id)
        if pid is not None and not _is_ours(plan, agent.id):
            raise ListenerRunning(
                f"a listener for {agent.id!r} runs already, pid {pid}, and was not started by init",
                hint=f"stop it, then call this again: kill {pid}",
                pid=pid,
            )


def _is_ours(plan: Plan, agent_id: str) -> bool:
    """Whether what runs is what the plan restarts or replaces."""
    return any(
        action.resource.group == f"agent:{agent_id}"
        and (action.seen.get("running") or action.seen.get("active"))
        for action in plan.actions
    )


def refuse_unwritable_files(plan: Plan, spec: InstallSpec, layout: Layout, system: System) -> None:
    """A listener that may not write its inbox would only die.

    Raises:
        StorageError: If an agent that is to be started has such a file.
    """
    groups = {action.resource.group for action in plan.changes}
    restarts = {handler.id.rpartition(":")[2] for handler in plan.handlers}
    for agent in spec.agents:
        if f"agent:{agent.id}" not in groups and not restarts & {
            agent_unit(agent.id),
            agent_process(agent.id),
            agent_label(agent.id),
        }:
            continue
        for what, name in (("inbox", agent.inbox), ("outbox", agent.outbox)):
            path = _absolute(name, agent.id, layout)
            if path is not None and not system.may_write(path):
                raise StorageError(
                    f"the {what} of {agent.id} cannot be written: {path}",
                    hint=f"nothing was changed; give {system.user.name} the right to write there,"
                    f" or name another file with --{what}",
                )


def _absolute(name: str | None, agent_id: str, layout: Layout) -> Path | None:
    if name is None or not name.startswith(("~/", "/")):
        return None
    return layout.file(name, agent_id)


def notes_for_everybody(plan: Plan, spec: InstallSpec, request: Request) -> tuple[str, ...]:
    """That the broker is everybody's, where somebody who was not named is moved along."""
    moved = any(
        isinstance(action.resource, TomlKey)
        and action.resource.table == ()
        and action.resource.key in ("broker", "port")
        for action in plan.changes
    )
    named = {agent.id for agent in request.agents if agent.id}
    others = [agent.id for agent in spec.agents if agent.id not in named]
    if not moved or not named or not others:
        return ()
    return (
        f"all agents of this host have one broker: {', '.join(others)} will use"
        f" {spec.broker}, port {spec.port}, too",
    )
