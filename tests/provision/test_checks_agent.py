"""Checks of an agent's files and mail, over canned facts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from swarmbus.provision.mailbox_look import MailboxSeen, Pile, Stuck
from tests.provision.doctor_facts import NOW, Host, bad

Break = Callable[[Host], None]
INBOX = "/home/pi/sync/coder-inbox.md"


def _deny(*paths: str, what: str = "-w") -> Break:
    return lambda host: host.denied.update((what, path) for path in paths)


def _no_inbox_yet(host: Host) -> None:
    del host.system.files[Path(INBOX)]
    host.denied.add(("-w", "/home/pi/sync"))


def _folder_is_a_file(host: Host) -> None:
    del host.system.files[Path(INBOX)]
    host.system.put("/home/pi/sync", "not a folder")


def _inbox_is_a_folder(host: Host) -> None:
    host.system.put(f"{INBOX}/x")
    host.system.files[Path(INBOX)].data = None


def _outbox(host: Host) -> None:
    host.status["outbox"] = "/srv/out.md"
    host.denied.add(("-w", "/"))


def _invoke(command: str, *, there: bool = False) -> Break:
    def breaking(host: Host) -> None:
        host.status["invoke"] = command
        host.set(invoke=command, tls=True)
        if there:
            host.system.put(command, "not executable")

    return breaking


def _mailbox(seen: MailboxSeen) -> Break:
    return lambda host: host.bus.mailboxes.update(coder=seen)


def _failing(host: Host) -> None:
    host.status["handlers"][0].update(attempts=2, last_error="wake exited 1")


RUBBISH = Pile("unreadable", None, 3, NOW, "not JSON")
DEAD = Pile("dead-letter", "invoke", 1, NOW, "failed 5 times: wake exited 1")


@pytest.mark.parametrize(
    ("code", "breaking", "status", "words"),
    [
        ("agent.inbox-writable", _deny(INBOX), "fail", "is not writable for us"),
        ("agent.inbox-writable", _deny(INBOX, what="-r"), "fail", "is not writable for us"),
        ("agent.inbox-writable", _no_inbox_yet, "fail", "/home/pi/sync is not writable for us"),
        ("agent.inbox-writable", _folder_is_a_file, "fail", "/home/pi/sync is not a folder"),
        ("agent.inbox-writable", _inbox_is_a_folder, "fail", "is a folder"),
        ("agent.outbox-writable", _outbox, "fail", "its outbox /srv/out.md cannot be made"),
        ("agent.invoke-runnable", _invoke("wake coder"), "fail", "wake is not on the PATH"),
        ("agent.invoke-runnable", _invoke("/opt/wake coder"), "fail", "/opt/wake does not exist"),
        ("agent.invoke-runnable", _invoke("/opt/wake", there=True), "fail", "not an executable file"),
        ("agent.invoke-runnable", _invoke("./wake"), "fail", "is relative"),
        ("agent.invoke-runnable", _invoke("'wake"), "fail", "cannot be read"),
        ("agent.mailbox", _mailbox(MailboxSeen(present=False)), "info", "none yet"),
        ("agent.mailbox", _mailbox(MailboxSeen(damage="file is not a database")), "fail", "is damaged"),
        (
            "agent.mailbox",
            _mailbox(MailboxSeen(damage="has schema 9", newer_schema=True)),
            "fail",
            "schema 9",
        ),
        ("agent.quarantine", _mailbox(MailboxSeen(quarantine=(RUBBISH,))), "warn", "3 messages"),
        (
            "agent.dead-letters",
            _mailbox(MailboxSeen(quarantine=(DEAD,))),
            "warn",
            "invoke gave up on one message",
        ),
        (
            "agent.outbound-stuck",
            _mailbox(MailboxSeen(undelivered=(Stuck("codr", "no-subscriber", 1, NOW, "nobody listens"),))),
            "warn",
            "given up (no-subscriber): nobody listens",
        ),
        (
            "agent.outbound-stuck",
            _mailbox(MailboxSeen(undelivered=(Stuck("writer", "waiting", 2, NOW - 3600, None),))),
            "warn",
            "2 messages to writer not delivered for 60 min",
        ),
        ("agent.wake-failing", _failing, "warn", "failed 2 times on one message: wake exited 1"),
    ],
)
def test_what_is_amiss_is_told(code: str, breaking: Break, status: str, words: str) -> None:
    host = Host()
    assert host.ask(code).status == "ok"
    breaking(host)
    result = host.ask(code)
    assert (result.status, words in result.message) == (status, True), result.message


@pytest.mark.parametrize(
    "code", ["agent.mailbox", "agent.quarantine", "agent.dead-letters", "agent.outbound-stuck"]
)
def test_a_mailbox_that_cannot_be_opened_says_nothing(code: str) -> None:
    host = Host()
    host.bus.unreadable = True
    result = host.ask(code)
    assert (result.status, "cannot read" in result.message) == ("skip", True)


def test_a_program_that_cannot_be_asked_about_files_is_no_verdict() -> None:
    host = Host()
    host.system.programs = lambda system, argv, root: None
    assert host.ask("agent.inbox-writable").status == "skip"


def test_a_message_that_waits_for_a_moment_is_not_stuck() -> None:
    host = Host()
    _mailbox(MailboxSeen(undelivered=(Stuck("writer", "waiting", 1, NOW - 60, None),)))(host)
    assert host.ask("agent.outbound-stuck").status == "ok"


def test_kinds_of_quarantine_are_told_apart() -> None:
    host = Host()
    _mailbox(MailboxSeen(quarantine=(DEAD,)))(host)
    assert [code for code, _ in bad(host.doctor())] == ["agent.dead-letters"]


def test_a_handler_that_fails_because_its_command_is_missing_is_told_once() -> None:
    host = Host()
    _invoke("/opt/wake")(host)
    _failing(host)
    assert bad(host.doctor()) == [("agent.invoke-runnable", "fail")]


def test_a_listener_that_ended_because_of_its_mailbox_is_told_once() -> None:
    host = Host()
    host.without_listener()
    host.unit.update(ActiveState="failed", Result="exit-code", ExecMainStatus="2")
    _mailbox(MailboxSeen(damage="file is not a database"))(host)
    assert bad(host.doctor()) == [("agent.mailbox", "fail")]


@pytest.mark.parametrize(
    ("unit", "environment", "path"),
    [
        ("PATH=/opt/bin:/bin 'OTHER=a b'", "PATH=/usr/bin\n", "/opt/bin:/bin"),
        ("OTHER=1", "LANG=C\nPATH=/usr/bin\n", "/usr/bin"),
    ],
)
def test_the_path_is_the_units_or_else_its_managers(unit: str, environment: str, path: str) -> None:
    host = Host(environment=environment)
    host.unit["Environment"] = unit
    _invoke("wake")(host)
    assert host.ask("agent.invoke-runnable").evidence["PATH"] == path


def test_without_a_unit_the_path_is_that_of_the_running_listener() -> None:
    host = Host()
    host.without_systemd()
    host.system.put("/proc/4242/environ", "HOME=/home/pi\0PATH=/snap/bin\0")
    _invoke("wake")(host)
    assert host.ask("agent.invoke-runnable").evidence["PATH"] == "/snap/bin"


def test_before_its_first_start_the_path_is_that_of_whoever_will_start_it() -> None:
    host = Host()
    host.without_systemd()
    host.without_listener()
    host.system.environ = {"PATH": "/usr/games"}
    host.set(invoke="wake")
    assert host.ask("agent.invoke-runnable").evidence["PATH"] == "/usr/games"
