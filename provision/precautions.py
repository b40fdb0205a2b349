"""Precautions: what is looked at first, so that a wrong word does not take healthy agents down."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from swarmbus.config import load_settings
from swarmbus.errors import BrokerRefused, BrokerUnreachable, ConfigError, StorageError
from swarmbus.provision.bus import Bus
from swarmbus.provision.layout import Layout
from swarmbus.provision.outcome import Prepared
from swarmbus.provision.plan import Plan
from swarmbus.provision.request import Request
from swarmbus.provision.resources.toml_key import TomlKey
from swarmbus.provision.spec import InstallSpec
from swarmbus.provision.supervisors.processes import agent_process
from swarmbus.provision.supervisors.systemd_user import agent_unit
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
    text = (name or "").replace("{agent_id}", agent_id)
    if text.startswith("~/"):
        return layout.home / text[2:]
    return Path(text) if text.startswith("/") else None


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
