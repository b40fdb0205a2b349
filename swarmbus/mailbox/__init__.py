"""One SQLite file an agent: what came in, what is to go out, who has read how far, what could not be read.

::

    with Mailbox.open(mailbox_path("planner")) as mailbox:
        for message in mailbox.take("default", limit=10):
            print(message.sender, message.subject)

Everything is synchronous; the listener daemon gathers writes into one commit for a burst (`commits`).
"""

from swarmbus.mailbox.records import Outbound, Quarantined, StoredMessage
from swarmbus.mailbox.store import Mailbox

__all__ = ["Mailbox", "Outbound", "Quarantined", "StoredMessage"]
