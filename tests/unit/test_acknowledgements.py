"""A reader that acknowledges has each message until it says that it is done with it, over restarts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmbus.mailbox import Mailbox
from tests.unit.message_samples import message


@pytest.fixture
def mailbox(tmp_path: Path) -> Iterator[Mailbox]:
    with Mailbox.open(tmp_path / "mailbox.db") as opened:
        yield opened


def store(mailbox: Mailbox, *numbers: int) -> list[str]:
    messages = [message(number, body=str(number)) for number in numbers]
    with mailbox.transaction():
        mailbox.inbound.store(messages, 1.0)
    return [one.id for one in messages]


def begin(mailbox: Mailbox) -> None:
    with mailbox.transaction():
        mailbox.acknowledgements.begin("mcp")


def acknowledge(mailbox: Mailbox, *ids: str) -> list[str]:
    with mailbox.transaction():
        return mailbox.acknowledgements.acknowledge("mcp", ids)


def pending(mailbox: Mailbox, limit: int = 100, *, without: tuple[int, ...] = ()) -> list[str]:
    return [one.body for one in mailbox.acknowledgements.pending("mcp", limit, without=without)]


def test_pending_is_what_is_not_acknowledged_in_any_order(mailbox: Mailbox) -> None:
    begin(mailbox)
    ids = store(mailbox, 1, 2, 3, 4)
    assert acknowledge(mailbox, ids[2], ids[1]) == [ids[2], ids[1]]
    assert (pending(mailbox), mailbox.acknowledgements.count("mcp")) == (["1", "4"], 2)
    assert pending(mailbox, 1) == ["1"]
    assert pending(mailbox, without=(1,)) == ["4"]
    assert mailbox.cursors.of("mcp").seq == 0
    assert acknowledge(mailbox, ids[0]) == [ids[0]]
    assert mailbox.cursors.of("mcp").seq == 3
    assert (pending(mailbox), mailbox.acknowledgements.count("mcp")) == (["4"], 1)


def test_acknowledging_twice_or_what_never_came_changes_nothing(mailbox: Mailbox) -> None:
    begin(mailbox)
    (one, _) = store(mailbox, 1, 2)
    assert acknowledge(mailbox, one, one, "strange") == [one]
    assert acknowledge(mailbox, one) == []
    assert pending(mailbox) == ["2"]


def test_acknowledged_is_seen(mailbox: Mailbox) -> None:
    begin(mailbox)
    one, _ = store(mailbox, 1, 2)
    acknowledge(mailbox, one)
    assert [row[1] for row in mailbox.inbound.seen_to_tell()] == [one]


def test_reader_begins_with_what_the_agent_has_not_seen_and_only_once(mailbox: Mailbox) -> None:
    ids = store(mailbox, 1, 2, 3, 4)
    with mailbox.transaction():
        mailbox.inbound.mark_seen([ids[0], ids[2]])
    begin(mailbox)
    assert pending(mailbox) == ["2", "4"]
    with mailbox.transaction():
        mailbox.inbound.mark_seen(ids)
    begin(mailbox)
    assert pending(mailbox) == ["2", "4"]


def test_reader_of_a_mailbox_in_which_all_is_seen_begins_at_its_end(mailbox: Mailbox) -> None:
    ids = store(mailbox, 1, 2)
    with mailbox.transaction():
        mailbox.inbound.mark_seen(ids)
    begin(mailbox)
    store(mailbox, 3)
    assert pending(mailbox) == ["3"]


def test_thread_is_joined_by_answers_and_by_its_name(mailbox: Mailbox) -> None:
    question = message(1, body="question")
    answer = message(2, body="answer", in_reply_to=question.id, thread="t")
    aside = message(3, body="aside", thread="t")
    other = message(4, body="other", in_reply_to="unknown")
    with mailbox.transaction():
        for number, one in enumerate([question, answer, aside, other]):
            mailbox.inbound.store([one], float(number))
    for one in (question, answer, aside):
        found = mailbox.history.thread(one.id)
        assert [turn.fields["body"] for turn in found] == ["question", "answer", "aside"]
    assert [turn.fields["body"] for turn in mailbox.history.thread(other.id)] == ["other"]
    assert mailbox.history.thread("strange") == []
