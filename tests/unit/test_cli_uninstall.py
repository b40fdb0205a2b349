"""``swarmbus uninstall`` and ``show`` as they are called: contradictions, hosts on which nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.command import swarmbus


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--all", "--keep-data", "--purge"], "--keep-data and --purge"),
        (["--all", "--agent-id=planner"], "--all and --agent-id"),
        (["--agent-id=B"], "'B' is not an agent id"),
        (["--agent-id=planner"], "agent 'planner' is not set up on this host"),
    ],
)
def test_a_wrong_call_changes_nothing(words: list[str], complaint: str, home: Path) -> None:
    ran = swarmbus("uninstall", "--yes", *words)
    assert (ran.status, ran.out) == (2, "")
    assert complaint in ran.err
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    "words", [["--all"], [], ["--all", "--purge"], ["--all", "--keep-data", "--dry-run"]]
)
def test_nothing_to_uninstall_is_no_error_and_the_command_itself_can_be_removed(
    words: list[str], home: Path
) -> None:
    ran = swarmbus("uninstall", "--yes", *words)
    assert ran.status == 0
    assert ran.err == "nothing of swarmbus is set up on this host for this user\n"
    assert "pip uninstall" in ran.out
    said = swarmbus("uninstall", "--yes", "--json", *words).json
    assert (said["schema"], said["changed"], said["failed"]) == ("swarmbus.plan/1", False, False)
    assert said["remove_command"] in ran.out
    assert list(home.iterdir()) == []


def test_it_asks_before_it_deletes_messages_that_stayed(home: Path) -> None:
    mailbox = home / ".local/state/swarmbus/planner/mailbox.db"
    mailbox.parent.mkdir(parents=True)
    mailbox.touch()
    ran = swarmbus("uninstall", "--all", "--purge")
    assert ran.status == 2
    assert f"deleted for good: what planner has in {mailbox.parent}" in ran.err
    assert "there is no terminal to ask on" in ran.err
    assert mailbox.exists()
    assert swarmbus("uninstall", "--all").status == 0
    assert mailbox.exists()
    assert swarmbus("uninstall", "--all", "--purge", "--yes").status == 0
    assert not (home / ".local/state/swarmbus").exists()


def test_show_of_a_damaged_manifest_is_an_error(home: Path) -> None:
    manifest = home / ".local/state/swarmbus/.provision/manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{")
    ran = swarmbus("show")
    assert (ran.status, ran.out) == (2, "")
    assert f"{manifest} is damaged" in ran.err
