from __future__ import annotations

from swarmbus.presence import Presence
from swarmbus.rivals import ENOUGH, TOO_MANY, WINDOW, Rivals

NOON = "2026-04-14T12:00:00+00:00"
ONE = "2026-04-14T13:00:00+00:00"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def rivals(clock: Clock | None = None) -> Rivals:
    ours = Rivals("ours", NOON, clock or Clock())
    ours.connected()
    return ours


def other(number: int, *, instance: str | None = "other", since: str | None = ONE) -> Presence:
    """What another has written at its connection of that number."""
    ts = None if instance is None else f"2026-04-14T14:00:{number:02}+00:00"
    return Presence("coder", "online", instance=instance, since=since, ts=ts, host="attic")


def meet(ours: Rivals, times: int, *, instance: str | None = "other", since: str | None = ONE) -> None:
    for number in range(times):
        assert ours.found(other(number, instance=instance, since=since))


def test_what_was_there_before_we_came_is_no_rival() -> None:
    ours = Rivals("ours", NOON)
    assert not ours.found(other(0))
    ours.connected()
    assert not ours.found(other(0)), "the broker still has the old one"
    assert ours.found(other(1))


def test_our_own_presence_is_no_rival() -> None:
    assert not rivals().found(other(0, instance="ours"))


def test_the_younger_yields_after_four_meetings() -> None:
    ours = rivals()
    meet(ours, ENOUGH - 1, since="2026-04-14T11:00:00+00:00")
    assert ours.to_yield_to() is None
    ours.found(other(30, since="2026-04-14T11:00:00+00:00"))
    rival = ours.to_yield_to()
    assert rival is not None
    assert rival.host == "attic"


def test_the_elder_yields_only_to_one_that_does_not_know_how() -> None:
    ours = rivals()
    meet(ours, TOO_MANY - 1)
    assert ours.to_yield_to() is None
    ours.found(other(59))
    assert ours.to_yield_to() is not None


def test_exactly_one_of_two_that_started_at_once_yields() -> None:
    a, b = Rivals("a", NOON), Rivals("b", NOON)
    a.connected()
    b.connected()
    meet(a, ENOUGH, instance="b", since=NOON)
    meet(b, ENOUGH, instance="a", since=NOON)
    assert [a.to_yield_to() is None, b.to_yield_to() is None] == [True, False]


def test_to_one_that_says_nothing_of_itself_we_yield() -> None:
    ours = rivals()
    meet(ours, ENOUGH, instance=None, since=None)
    assert ours.to_yield_to() is not None


def test_meetings_of_long_ago_do_not_count() -> None:
    clock = Clock()
    ours = rivals(clock)
    meet(ours, ENOUGH - 1, since="2026-04-14T11:00:00+00:00")
    clock.now = WINDOW + 1
    ours.found(other(30, since="2026-04-14T11:00:00+00:00"))
    assert ours.to_yield_to() is None


def test_different_rivals_are_not_added_up() -> None:
    ours = rivals()
    for number in range(ENOUGH):
        ours.found(other(number, instance=f"restarted-{number}", since="2026-04-14T11:00:00+00:00"))
    assert ours.to_yield_to() is None
