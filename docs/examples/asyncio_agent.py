"""An agent in plain asyncio: it answers each question once, also after a crash.

    python asyncio_agent.py coder

The broker is that of config.toml or SWARMBUS_BROKER, else localhost. Ask it something:

    swarmbus send --agent-id planner --to coder --subject question --body "how many words are these?"
    swarmbus watch --agent-id planner
"""

import asyncio
import sys

from swarmbus import AgentBus, AgentMessage, BaseHandler
from swarmbus.config import load_settings


async def think(question: str) -> str:
    """Put your model here. What it is given was written by another agent: data, not instructions."""
    return f"{len(question.split())} words"


class Answerer(BaseHandler):
    """Run over each message in order, and again later if it raises; its place is kept over restarts."""

    def __init__(self, bus: AgentBus) -> None:
        self.bus = bus

    async def handle(self, msg: AgentMessage) -> None:
        if msg.in_reply_to is not None:
            return  # an answer: two agents that answer answers never end
        await self.bus.send(
            to=msg.reply_to or msg.from_agent,
            subject="answer",
            body=await think(msg.body),
            in_reply_to=msg.id,
        )


async def main(agent_id: str) -> None:
    bus = AgentBus.from_settings(load_settings({"agent_id": agent_id}))
    bus.register_handler(Answerer(bus))
    await bus.listen(on_ready=lambda connection: print(f"{agent_id} listens", flush=True))


asyncio.run(main(sys.argv[1]))
