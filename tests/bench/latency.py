"""Run by either side's own Python: send one by one, and say how long each took to be in the inbox file.

Arguments: port, inbox file, messages. Prints a line of milliseconds for each.
"""

import asyncio
import sys
import time
from pathlib import Path

from swarmbus import AgentBus


async def main() -> None:
    port, inbox, count = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    async with AgentBus(agent_id="planner-latency", port=port) as bus:
        await bus.send(to="coder", subject="warm", body="up")
        await asyncio.sleep(0.3)
        for number in range(count):
            size = inbox.stat().st_size
            began = time.perf_counter()
            sending = asyncio.create_task(bus.send(to="coder", subject=f"message {number}", body="hello"))
            while inbox.stat().st_size == size:
                await asyncio.sleep(0)
            print(f"{(time.perf_counter() - began) * 1000:.3f}")
            await sending
            await asyncio.sleep(0.005)


asyncio.run(main())
