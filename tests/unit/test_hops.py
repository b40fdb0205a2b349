from __future__ import annotations

import pytest

from swarmbus.hops import hops_of, inherited, thread_of, told
from tests.unit.message_samples import message


def test_what_is_sent_out_of_a_wake_is_one_hop_further_in_the_same_thread() -> None:
    assert inherited(told(message(1))) == {"hops": 1, "thread": message(1).id}
    assert inherited(told(message(2, hops=4, thread="t-1"))) == {"hops": 5, "thread": "t-1"}


def test_outside_of_a_wake_a_message_starts_its_own() -> None:
    assert inherited({}) == {}


@pytest.mark.parametrize("hops", [-1, "7", 1.5, True, None, 10**9])
def test_what_is_no_count_counts_as_none(hops: object) -> None:
    assert hops_of(message(1, hops=hops)) == 0


@pytest.mark.parametrize("thread", ["", 7, None, "x" * 201])
def test_what_is_no_name_of_a_thread_is_none(thread: object) -> None:
    assert thread_of(message(1, thread=thread)) == message(1).id


@pytest.mark.parametrize("hops", ["", "-1", "x", "9" * 30, "\u0663"])
def test_a_spoilt_environment_is_no_wake(hops: str) -> None:
    assert inherited({"SWARMBUS_HOPS": hops, "SWARMBUS_THREAD": "t"}) == {}
