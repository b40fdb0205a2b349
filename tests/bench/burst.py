"""Run by either side's own Python: send a burst from one AgentBus, and say how long it took.

Arguments: port, messages, how many are under way at once. Prints the moment of the first send and of the
last return, by the system-wide monotonic clock, which processes share.
"""

import asyncio
import sys
import time

from swarmbus import AgentBus

BODY = "x" * 300


async def main() -> None:
    port, count, at_once = (int(word) for word in sys.argv[1:4])
    async with AgentBus(agent_id="planner-burst", port=port) as bus:
        await bus.send(to="coder", subject="warm", body="up")
        await asyncio.sleep(0.3)
        left = iter(range(count))

        async def worker() -> None:
            for number in left:
                await bus.send(to="coder", subject=f"message {number}", body=BODY)

        began = time.monotonic()
        await asyncio.gather(*(worker() for _ in range(at_once)))
        print(began, time.monotonic())


asyncio.run(main())
