"""``swarmbus start``: the listener daemon."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final

import click

from swarmbus import paths
from swarmbus.bus import AgentBus
from swarmbus.cli import options, output
from swarmbus.cli.detached import run_detached
from swarmbus.cli.logs import log_to_stderr
from swarmbus.config import Settings
from swarmbus.connection import Connection
from swarmbus.errors import BrokerUnreachable, ExitStatus, ListenerRunning
from swarmbus.handlers import DirectInvocationHandler, FileBridgeHandler, PersistentListenerHandler
from swarmbus.handlers.runs import Runner
from swarmbus.handlers.unit_run import Limits, best_runner
from swarmbus.handlers.wake_governor import WakeGovernor
from swarmbus.handlers.wake_policy import WakePolicy
from swarmbus.lock import lock_holder
from swarmbus.pause import Pauses
from swarmbus.version import __version__

_WHEN: Final = {
    "high": "for messages of high priority",
    "all": "for messages of any priority",
    "each": "for each single message",
    "none": "never",
}

Ready = Callable[[dict[str, Any]], None]


@click.command("start")
@options.with_settings
@options.agent_id
@options.inbox
@click.option(
    "--invoke",
    metavar="COMMAND",
    help="Wakes the agent: run for a message of high priority, with the body on its standard input.",
)
@options.persistent
@click.option("--detach", is_flag=True, help="Run in the background; return when it is connected.")
@options.connection
@options.as_json
def command(settings: Settings, detach: bool, as_json: bool) -> ExitStatus:
    """Run the listener daemon of an agent.

    It receives the agent's messages, appends them to the inbox file, and runs the command for those that
    may wake the agent (docs/wakes.md). Ends on SIGTERM and Ctrl-C, when what it was doing is done. Exit
    status 3: one already runs. 78: one on another host has the session, and keeps it.
    """
    agent_id = settings.require_agent_id()
    holder = lock_holder(paths.lock_path(agent_id))
    if holder is not None and holder[1] == "listener":
        raise ListenerRunning(
            f"a listener of {agent_id} already runs here, pid {holder[0]}",
            hint=f"end it first: kill {holder[0]}{_or_its_unit(agent_id)}",
            pid=holder[0],
        )
    pauses = Pauses()
    bus, governor = _bus(settings, pauses)
    _announce(settings)
    if not detach:
        log_to_stderr(output.verbosity(), daemon=True)
        _listen(bus, settings, pauses, governor, lambda facts: _say_ready(facts, as_json=as_json))
        return ExitStatus.DONE
    log = paths.agent_dir(agent_id) / "listener.log"
    verbosity = output.verbosity()

    def run(ready: Ready) -> None:
        def both(facts: dict[str, Any]) -> None:
            _say_ready(facts, as_json=False)
            ready(facts)

        log_to_stderr(verbosity, daemon=True)
        _announce(settings)
        _listen(bus, settings, pauses, governor, both)

    started = run_detached(agent_id, run, log)
    if as_json:
        output.write_json(started | {"log": str(log)})
    else:
        output.write_lines([str(started["pid"])])
    if not started["connected"]:
        unreachable = BrokerUnreachable(
            f"the listener runs, pid {started['pid']}, but has no broker: {started['last_error']}",
            hint=f"it goes on trying; its log: {log}",
        )
        output.complain("swarmbus start", unreachable)
        return unreachable.exit_status
    return ExitStatus.DONE


def _or_its_unit(agent_id: str) -> str:
    """The call that stops its unit, where it has one: one that is killed comes back."""
    from swarmbus.provision.layout import Layout  # noqa: PLC0415  # a daemon does without the installer
    from swarmbus.provision.local_system import LocalSystem  # noqa: PLC0415
    from swarmbus.provision.supervisors.units import find_unit  # noqa: PLC0415

    unit = find_unit(LocalSystem(), Layout.of_this_user(), agent_id)
    return f", or {unit.command('stop')}" if unit is not None else ""


def _bus(settings: Settings, pauses: Pauses) -> tuple[AgentBus, WakeGovernor | None]:
    bus = AgentBus.from_settings(settings)
    bus.broker.tls_context()  # a TLS file that cannot be used is told now, not in the log
    bus.register_handler(
        FileBridgeHandler(settings.inbox_path, max_bytes=settings.inbox_max_bytes, keep=settings.inbox_keep)
    )
    bus.register_handler(PersistentListenerHandler())
    governor = None
    if settings.invoke:
        command = DirectInvocationHandler(
            settings.invoke,
            timeout=settings.invoke_timeout,
            max_attempts=settings.invoke_attempts,
            runner=_runner(settings),
        )
        policy = WakePolicy.from_settings(settings)
        governor = WakeGovernor(command, policy, paths.mailbox_path(bus.agent_id), pauses)
        bus.register_handler(governor)
    return bus, governor


def _runner(settings: Settings) -> Runner:
    agent_id = settings.require_agent_id()
    limits = Limits(settings.invoke_memory, settings.invoke_tasks)
    return best_runner(agent_id, paths.wake_dir(agent_id), limits)


def _listen(
    bus: AgentBus, settings: Settings, pauses: Pauses, governor: WakeGovernor | None, ready: Ready
) -> None:
    def on_ready(connection: Connection) -> None:
        ready(
            {
                "agent_id": bus.agent_id,
                "pid": os.getpid(),
                "connected": True,
                "broker": connection.broker.host,
                "port": connection.broker.port,
                "protocol": connection.protocol,
                "session_present": connection.session_present,
            }
        )

    about = {
        "inbox": str(settings.inbox_path),
        "outbox": str(settings.outbox_path) if settings.outbox_path else None,
        "invoke": settings.invoke,
    }
    asyncio.run(bus.listen(about=about, on_ready=on_ready, pauses=pauses, governor=governor))


def _announce(settings: Settings) -> None:
    outbox = settings.outbox_path
    how = f", as {settings.username}" if settings.username else ""
    facts = {
        "version": __version__,
        "broker": f"{settings.broker}:{settings.port}{how}",
        "session": "kept by the broker while we are away"
        if settings.persistent
        else "not kept (--no-persistent)",
        "inbox": str(settings.inbox_path),
        "invoke": settings.invoke or "none: messages wake nobody",
        "wakes": f"{_WHEN[settings.wake]}, in {_runner(settings).about}" if settings.invoke else None,
        "outbox": str(outbox) if outbox else "none: what is sent is written to no file",
    }
    output.say(f"swarmbus listener of {settings.agent_id}")
    for line in output.columns([(f"  {name}:", value) for name, value in facts.items() if value]):
        output.say(line)


def _say_ready(facts: dict[str, Any], *, as_json: bool) -> None:
    session = "found the session" if facts["session_present"] else "made a new session"
    version = "5" if facts["protocol"] == 5 else "3.1.1"
    output.say(f"ready: connected to {facts['broker']}:{facts['port']} by MQTT {version}, {session}")
    if as_json:
        output.write_json(facts)
        output.flush()
