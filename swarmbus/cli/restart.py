"""``swarmbus restart``: listener daemons that end in peace and come back, proven."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from swarmbus.cli import options, output
from swarmbus.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from swarmbus.provision.restart import Restarted


@click.command("restart")
@click.argument("agent_ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "every", is_flag=True, help="All agents that are set up on this host.")
@options.as_json
def command(agent_ids: tuple[str, ...], every: bool, as_json: bool, verbose: int) -> ExitStatus:
    """Restart the listener daemons of agents, and see that the new ones work.

    Each finishes what it is doing, and the broker keeps what arrives meanwhile. Then the new one has to
    answer with the installed code, show itself in presence, and let a message of our own through. One at a
    time, and no further after one that does not come back well: exit status 1.
    """
    from swarmbus.provision.bus import LocalBus  # noqa: PLC0415  # --help loads no engine
    from swarmbus.provision.known_agents import known_agents  # noqa: PLC0415
    from swarmbus.provision.layout import Layout  # noqa: PLC0415
    from swarmbus.provision.local_system import LocalSystem  # noqa: PLC0415
    from swarmbus.provision.restart import (  # noqa: PLC0415
        Restarting,
        code_of_this_process,
        restart_all,
    )

    output.set_verbosity(verbose)
    system, layout = LocalSystem(), Layout.of_this_user()
    chosen = _choose(agent_ids, known_agents(system, layout), every=every)
    results = restart_all(Restarting(system, layout, LocalBus(), code_of_this_process()), chosen)
    if as_json:
        left = chosen[len(results) :]
        output.write_json({"agents": [result.as_json() for result in results], "not_tried": left})
    else:
        for result in results:
            tell(result)
    return ExitStatus.DONE if all(result.ok for result in results) else ExitStatus.NO


def tell(result: Restarted) -> None:
    """A line for one agent, and a second one with what to do if it is not well."""
    if result.ok:
        did = "restarted" if result.was_restarted else "kept"
        way = f"canary {result.total_ms:.0f} ms" if result.total_ms is not None else ""
        output.write_lines([f"{result.agent_id}: {did}, swarmbus {result.version}, {way}"])
        return
    output.write_lines([f"{result.agent_id}: {output.paint('failed', output.RED)}: {result.reason}"])
    if result.hint:
        output.say(f"  hint: {result.hint}")


def _choose(asked: tuple[str, ...], known: list[str], *, every: bool) -> list[str]:
    if every and asked:
        raise UsageError("--all and an agent id", hint="one of them")
    if unknown := [agent for agent in asked if agent not in known]:
        near = output.near(unknown[0], known)
        have = f"did you mean {near!r}?" if near else f"here: {', '.join(known) or 'none'}"
        raise UsageError(f"agent {unknown[0]!r} is not set up on this host", hint=have)
    if asked:
        return list(dict.fromkeys(asked))
    if not known:
        raise UsageError("no agent is set up on this host", hint="swarmbus init")
    if len(known) > 1 and not every:
        raise UsageError(f"there are several agents: {', '.join(known)}", hint="name one, or say --all")
    return known
