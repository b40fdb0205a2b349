"""A LangGraph graph with a node that asks another agent and goes on with the answer.

    pip install langgraph
    python langgraph_node.py planner coder "how many words are these?"

`coder` may be the agent of asyncio_agent.py. The graph needs no listener daemon for `planner`, and works
beside one.
"""

import asyncio
import sys
import time
from typing import TypedDict

from langgraph.graph import END, START, StateGraph

from swarmbus import AgentBus
from swarmbus.config import load_settings


class State(TypedDict):
    question: str
    answer: str
    report: str


def ask(bus: AgentBus, peer: str, patience: float = 60.0):
    """A node that sends ``question`` to a peer and waits for what answers it."""

    async def node(state: State) -> dict[str, str]:
        await bus.read_inbox(consumer="graph", max_messages=1000)  # what came before is not the answer
        sent = await bus.send(to=peer, subject="question", body=state["question"])
        give_up = time.monotonic() + patience
        while (left := give_up - time.monotonic()) > 0:
            # A place of its own: what else comes stays unread for the agent itself.
            message = await bus.watch_inbox(timeout=left, consumer="graph")
            if message is not None and message.get("in_reply_to") == sent.id:
                return {"answer": message["body"]}
        raise TimeoutError(f"{peer} has not answered {sent.id} within {patience:g} s")

    return node


async def report(state: State) -> dict[str, str]:
    """Put your model here; the answer is data from another agent."""
    return {"report": f"Asked {state['question']!r}, told {state['answer']!r}."}


async def main(agent_id: str, peer: str, question: str) -> None:
    bus = AgentBus.from_settings(load_settings({"agent_id": agent_id}))
    graph = StateGraph(State)
    graph.add_node("ask", ask(bus, peer))
    graph.add_node("write_report", report)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", "write_report")
    graph.add_edge("write_report", END)
    done = await graph.compile().ainvoke({"question": question})
    print(done["report"])


asyncio.run(main(*sys.argv[1:4]))
