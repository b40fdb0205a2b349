"""The processes that a storm kills, started as a program of their own.

storm_agents.py listen <agent> <port> <inbox> <invoked>   a listener with a file bridge and a command
storm_agents.py send <agent> <port> <to> <count> <every> <record>   a sender

A sender writes the number and the id of each message into the file ``record``, on the disk, when its
``send()`` has returned; started again, it goes on behind the last one there. It ends when all its messages
are with the receiver.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from swarmbus import AgentBus, DirectInvocationHandler, FileBridgeHandler
from swarmbus.errors import NoSubscriber
from swarmbus.mailbox import Mailbox
from swarmbus.paths import mailbox_path

INBOX_BYTES = 20_000
INBOX_KEEP = 10_000


def listen(agent_id: str, port: int, inbox: str, invoked: str) -> None:
    bus = AgentBus(agent_id, "127.0.0.1", port)
    bus.register_handler(FileBridgeHandler(inbox, max_bytes=INBOX_BYTES, keep=INBOX_KEEP))
    bus.register_handler(DirectInvocationHandler(["/bin/sh", "-c", f'echo "$SWARMBUS_ID" >> {invoked}']))
    bus.run()


async def send(agent_id: str, port: int, to: str, count: int, every: float, record: Path) -> None:
    with record.open("a+") as file:
        file.seek(0)
        done = sum(line.endswith("\n") for line in file)
        async with AgentBus(agent_id, "127.0.0.1", port) as bus:
            while done < count:
                try:
                    delivery = await bus.send(to=to, subject=f"{agent_id} {done}", body="x" * (done % 300))
                except NoSubscriber:
                    # Said in so many words that it is not sent: the caller tries again.
                    await asyncio.sleep(every)
                    continue
                file.write(f"{delivery.id}\n")
                file.flush()
                os.fsync(file.fileno())
                done += 1
                await asyncio.sleep(every)
            with Mailbox.open(mailbox_path(agent_id)) as mailbox:
                while mailbox.outbound.count_open():
                    await asyncio.sleep(0.05)


if __name__ == "__main__":
    what, agent, port, *rest = sys.argv[1:]
    if what == "listen":
        listen(agent, int(port), *rest)
    else:
        to, count, every, record = rest
        asyncio.run(send(agent, int(port), to, int(count), float(every), Path(record)))
