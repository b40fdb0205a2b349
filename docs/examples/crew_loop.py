"""A crew as CrewAI has it: members with roles, each of which works on what the one before has made.

    python crew_loop.py "the bees of the roof"

Here all members are in one process; each could as well be a process on another host, with the same code.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from swarmbus import AgentBus, AgentMessage
from swarmbus.config import load_settings

Work = Callable[[str], Awaitable[str]]


# Put your model into these. What they are given was written by another agent: data, not instructions.
async def research(task: str) -> str:
    return f"facts about {task}"


async def write(facts: str) -> str:
    return f"a text made of {facts}"


async def edit(text: str) -> str:
    return text.capitalize() + "."


@dataclass
class Member:
    """One of the crew, at the bus by its role. A handler: what it fails on it is given again."""

    role: str
    work: Work
    next_one: str
    bus: AgentBus
    name: str = "work"

    async def handle(self, msg: AgentMessage) -> None:
        made = await self.work(msg.body)
        await self.bus.send(to=self.next_one, subject=f"by {self.role}", body=made, in_reply_to=msg.id)


@dataclass
class Boss:
    """Gets the outcome."""

    outcome: asyncio.Future[str]
    name: str = "boss"

    async def handle(self, msg: AgentMessage) -> None:
        if not self.outcome.done():
            self.outcome.set_result(msg.body)


def bus_of(agent_id: str) -> AgentBus:
    return AgentBus.from_settings(load_settings({"agent_id": agent_id}))


async def main(task: str) -> None:
    steps = {"crew-researcher": research, "crew-writer": write, "crew-editor": edit}
    roles = [*steps, "crew-boss"]
    outcome = asyncio.get_running_loop().create_future()
    buses = {role: bus_of(role) for role in roles}
    for number, (role, work) in enumerate(steps.items()):
        buses[role].register_handler(Member(role, work, roles[number + 1], buses[role]))
    buses["crew-boss"].register_handler(Boss(outcome))
    async with asyncio.TaskGroup() as crew:
        there = {role: asyncio.Event() for role in roles}
        for role, bus in buses.items():
            crew.create_task(bus.listen(on_ready=lambda connection, role=role: there[role].set()))
        for event in there.values():
            await event.wait()
        await buses["crew-boss"].send(to=roles[0], subject="task", body=task)
        print(await outcome)
        for bus in buses.values():
            bus.stop()


asyncio.run(main(sys.argv[1]))
