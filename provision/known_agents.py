"""Known agents: whom this host has, as far as files, records and live daemons say."""

from __future__ import annotations

from swarmbus.provision.layout import Layout
from swarmbus.provision.listener_lock import listener_pid
from swarmbus.provision.spec import load_kept
from swarmbus.provision.supervisors.processes import agent_process
from swarmbus.provision.supervisors.units import agents_with_units
from swarmbus.provision.system import System


def known_agents(system: System, layout: Layout) -> list[str]:
    """The agents that are set up on this host or run on it: by kept spec, units, records and live listeners.

    An agent that only has a mailbox has only ever sent, or read: nothing of it has to run.
    """
    spec = load_kept(system, layout.provision)
    found = [agent.id for agent in spec.agents] if spec else []
    found += agents_with_units(system, layout)
    prefix = agent_process("")
    for name in system.list(layout.processes):
        if name.startswith(prefix) and name.endswith(".json"):
            found.append(name.removeprefix(prefix).removesuffix(".json"))
    found += [name for name in system.list(layout.state) if listener_pid(system, layout, name) is not None]
    return list(dict.fromkeys(found))
