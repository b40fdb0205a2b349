"""What is muted does not count, still shows, and counts again when it gets worse or the time is over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swarmbus.errors import StorageError, UsageError
from swarmbus.provision.mailbox_look import MailboxSeen, Pile
from swarmbus.provision.mutes import add_mutes, end_mutes, fingerprint, load_mutes, mute, remove_mutes
from swarmbus.provision.report import Report, Result
from tests.provision.doctor_facts import LAYOUT, NOW, Host

CODE = "agent.quarantine"
LATER = NOW + 3600


def _sick(count: int = 1, reason: str = "not JSON: line 1") -> Host:
    host = Host()
    host.system.make_dir(LAYOUT.doctor)
    _piles(host, count, reason)
    return host


def _piles(host: Host, count: int, reason: str = "not JSON: line 1") -> None:
    pile = Pile("unreadable", None, count, NOW - 5, reason)
    host.bus.mailboxes["coder"] = MailboxSeen(quarantine=(pile,) if count else ())


def _muted(host: Host, what: str = CODE, until: float = LATER) -> Report:
    add_mutes(host.system, LAYOUT, mute(host.doctor(), what, until))
    return host.doctor()


def _of(report: Report, code: str = CODE) -> Result:
    return next(result for result in report.results if result.check.code == code)


def test_a_muted_finding_is_there_and_does_not_count() -> None:
    host = _sick()
    assert host.doctor().ending(_of(host.doctor()).status) == 1
    report = _muted(host)
    assert _of(report).muted == LATER
    assert report.ending(_of(report).status) == 0
    assert (report.summary["warn"], report.summary["muted"]) == (0, 1)
    document = report.as_json()
    entry = next(one for one in document["checks"] if one["code"] == CODE)
    assert entry["status"] == "warn"
    assert document["muted"] == [{"code": CODE, "subject": "coder", "until": "2027-01-15T09:00:00+00:00"}]


@pytest.mark.parametrize("what", [CODE, f"{CODE}:coder"])
def test_it_is_muted_by_code_or_by_code_and_subject(what: str) -> None:
    assert _of(_muted(_sick(), what)).muted == LATER


@pytest.mark.parametrize("what", [f"{CODE}:planner", "agent.mailbox", "no.such-check"])
def test_what_finds_nothing_cannot_be_muted(what: str) -> None:
    with pytest.raises(UsageError, match="nothing to mute") as refused:
        mute(_sick().doctor(), what, LATER)
    assert refused.value.hint == "what is amiss: agent.quarantine:coder"


def test_more_of_it_ends_the_mute_for_good() -> None:
    host = _sick(2)
    _muted(host)
    _piles(host, 3)
    report = host.doctor()
    assert _of(report).muted is None
    assert [one.code for one in end_mutes(host.system, LAYOUT, report)] == [CODE]
    _piles(host, 2)
    assert _of(host.doctor()).muted is None


@pytest.mark.parametrize("count", [1, 2])
def test_as_much_or_less_of_it_does_not(count: int) -> None:
    host = _sick(2)
    _muted(host)
    _piles(host, count)
    report = host.doctor()
    assert end_mutes(host.system, LAYOUT, report) == []
    assert _of(report).muted == LATER


def test_other_words_under_the_same_code_are_another_fault() -> None:
    host = _sick()
    _muted(host)
    _piles(host, 1, "body: too long")
    assert _of(host.doctor()).muted is None


def test_figures_in_the_words_do_not_count() -> None:
    result = _of(_sick().doctor())
    assert fingerprint(replace(result, message="deaf for 12 s")) == fingerprint(
        replace(result, message="deaf for 9 s")
    )


def test_a_worse_status_ends_the_mute() -> None:
    host = Host()
    host.system.make_dir(LAYOUT.doctor)
    host.unit["UnitFileState"] = "disabled"
    report = _muted(host, "systemd.unit-disabled")
    (kept,) = load_mutes(host.system, LAYOUT)
    result = _of(report, "systemd.unit-disabled")
    assert kept.covers(result, NOW)
    worse = replace(result, status=_of(_sick().doctor()).status.FAIL)
    assert kept.is_ended_by(worse)
    assert not kept.covers(worse, NOW)


def test_a_mute_ends_with_its_time() -> None:
    host = _sick()
    assert _of(_muted(host, until=NOW - 1)).muted is None
    assert end_mutes(host.system, LAYOUT, host.doctor()) == []
    assert load_mutes(host.system, LAYOUT) == []


def test_what_was_well_for_a_while_and_is_as_before_is_still_muted() -> None:
    host = _sick()
    _muted(host)
    _piles(host, 0)
    end_mutes(host.system, LAYOUT, host.doctor())
    _piles(host, 1)
    assert _of(host.doctor()).muted == LATER


def test_where_nothing_can_be_written_the_doctor_still_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    host = _sick(2)
    _muted(host)
    _piles(host, 3)

    def refuse(*given: object, **named: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(host.system, "write_file", refuse)
    assert [one.code for one in end_mutes(host.system, LAYOUT, host.doctor())] == [CODE]


def test_unmuted_it_counts_again() -> None:
    host = _sick()
    _muted(host)
    assert [one.subject for one in remove_mutes(host.system, LAYOUT, CODE)] == ["coder"]
    assert _of(host.doctor()).muted is None
    assert remove_mutes(host.system, LAYOUT, CODE) == []


def test_muting_again_replaces() -> None:
    host = _sick()
    _muted(host)
    _muted(host, until=LATER + 5)
    assert [one.until for one in load_mutes(host.system, LAYOUT)] == [LATER + 5]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "swarmbus.mutes/1", "mutes": [{}]}'])
def test_mutes_that_cannot_be_read_hide_nothing(text: str) -> None:
    host = _sick()
    host.system.put(str(LAYOUT.doctor / "mutes.json"), text)
    assert _of(host.doctor()).muted is None
