"""What a sender keeps in mind of a receiver: when to send again, and when to hold back."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from swarmbus.presence import Presence
from swarmbus.recipient import FIRST_PATIENCE, LONGEST_PATIENCE, WINDOW, Recipient

ONLINE = Presence("coder", "online", wire=1, instance="first start")
OFFLINE = replace(ONLINE, status="offline")
STALE = replace(ONLINE, status="stale")
ELDER = Presence("coder", "online")


def owing(*ids: str, wire: int | None = 1) -> Recipient:
    recipient = Recipient("coder", wire=wire)
    recipient.owed = dict.fromkeys(ids)
    return recipient


@pytest.mark.parametrize(("wire", "confirms"), [(None, False), (0, False), (1, True), (2, True)])
def test_who_speaks_our_wire_confirms(wire: int | None, confirms: bool) -> None:
    assert Recipient("coder", wire=wire).confirms is confirms
    assert Recipient("broadcast", wire=wire).confirms is False


def test_receiver_comes_back_by_going_online_or_starting_anew() -> None:
    recipient = owing("m")
    assert recipient.see(OFFLINE) is False
    assert recipient.see(STALE) is False
    assert recipient.see(ONLINE) is True
    assert recipient.see(ONLINE) is False  # a renewal
    assert recipient.see(replace(ONLINE, instance="second start")) is True
    recipient.forget_connection()
    assert (
        recipient.see(replace(ONLINE, instance="second start")) is True
    )  # it may be our messages that were lost


def test_wire_is_what_presence_says() -> None:
    recipient = Recipient("coder")
    recipient.see(ONLINE)
    assert recipient.confirms
    recipient.see(ELDER)  # the agent went back to the existing tool
    assert not recipient.confirms


def test_receipt_says_that_it_confirms() -> None:
    recipient = owing("a", "b", "c", wire=None)
    recipient.confirm(["b", "unknown"])
    assert list(recipient.owed) == ["a", "c"]
    assert recipient.confirms


def test_what_is_owed_is_sent_again_before_what_is_newer_in_order() -> None:
    recipient = owing("a", "b")
    recipient.ready.extend(["c", "d"])
    recipient.send_again()
    assert list(recipient.ready) == ["a", "b", "c", "d"]
    assert not recipient.owed


def test_receiver_that_owes_too_much_is_not_sent_more() -> None:
    recipient = owing(*(str(number) for number in range(WINDOW)))
    recipient.see(ONLINE)
    assert not recipient.may_be_sent_to  # nothing is ready
    recipient.ready.append("next")
    assert not recipient.may_be_sent_to
    recipient.confirm(["0"])
    assert recipient.may_be_sent_to


def test_window_is_for_receivers_that_can_make_room() -> None:
    for presence in (OFFLINE, ELDER):
        recipient = owing(*(str(number) for number in range(WINDOW)))
        recipient.ready.append("next")
        recipient.see(presence)
        assert recipient.may_be_sent_to


def test_receiver_is_late_after_a_time_that_grows() -> None:
    recipient = owing("m")
    recipient.see(ONLINE)
    now = time.monotonic()
    patience = []
    last = now
    for tenth in range(3_000):
        if recipient.is_late(now + tenth / 10):
            patience.append(round(now + tenth / 10 - last))
            last = now + tenth / 10
    assert patience[:5] == [
        FIRST_PATIENCE,
        2 * FIRST_PATIENCE,
        4 * FIRST_PATIENCE,
        8 * FIRST_PATIENCE,
        16 * FIRST_PATIENCE,
    ]
    assert max(patience) <= LONGEST_PATIENCE
    recipient.confirm([])
    assert not recipient.is_late(time.monotonic() + FIRST_PATIENCE - 0.1)
    assert recipient.is_late(time.monotonic() + FIRST_PATIENCE + 0.1)


def test_receiver_that_owes_nothing_or_is_away_is_never_late() -> None:
    much_later = time.monotonic() + 1_000
    nothing = Recipient("coder", wire=1)
    nothing.see(ONLINE)
    assert not nothing.is_late(much_later)
    away = owing("m")
    away.see(OFFLINE)
    assert not away.is_late(much_later)
