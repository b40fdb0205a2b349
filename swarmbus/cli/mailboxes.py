"""Opening an agent's mailbox to look into it, for commands that make none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from swarmbus import paths
from swarmbus.cli import output
from swarmbus.errors import UsageError
from swarmbus.mailbox import Mailbox


@contextmanager
def existing_mailbox(agent_id: str) -> Iterator[Mailbox | None]:
    """The agent's mailbox; None, said on standard error, where nothing was received or sent as yet.

    Raises:
        MailboxError: If it is damaged, or of a newer release; so inside the block.
        StorageError: If it cannot be opened; so inside the block.
    """
    path = paths.mailbox_path(agent_id)
    if not path.exists():
        close = output.near(agent_id, known_agents())
        meant = f"; did you mean {close}?" if close else ""
        output.say(f"{agent_id} has received and sent nothing on this host{meant}")
        yield None
        return
    with Mailbox.open(path, create=False) as mailbox, mailbox.reading():
        yield mailbox


def known_agents() -> list[str]:
    """The agents that have a mailbox on this host."""
    try:
        return sorted(path.parent.name for path in paths.state_dir().glob("*/mailbox.db"))
    except OSError:
        return []


def whole_ids(given: Sequence[str], known: Sequence[str], what: str) -> list[str] | None:
    """The ids that the words on the command line stand for; None where the one word is ``all``.

    Args:
        given: Ids, or beginnings of ids that only one has.
        known: What can be meant.
        what: What these are the ids of, for the error text.

    Raises:
        UsageError: If nothing is given, or a word stands for no id or for several.
    """
    if not given:
        raise UsageError(f"no {what} was named", hint="give ids as they are listed, or the word all")
    if list(given) == ["all"]:
        return None
    found = []
    for word in given:
        matches = [one for one in known if one == word] or [one for one in known if one.startswith(word)]
        if len(matches) != 1:
            problem = "there is no" if not matches else f"{len(matches)} begin like this:"
            raise UsageError(f"{problem} {what} {word!r}", hint="nothing was changed")
        found.append(matches[0])
    return found
