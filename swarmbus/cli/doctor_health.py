"""``swarmbus doctor --health`` and ``--history``: what the timer does, and what it has seen change."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Final

from swarmbus.cli import moments, output
from swarmbus.cli.doctor_look import Asked, check
from swarmbus.errors import ExitStatus
from swarmbus.inbox_file import one_line
from swarmbus.provision.bus import LocalBus
from swarmbus.provision.doctor import gather_facts
from swarmbus.provision.health import OWN_CHECK, history, watch_over
from swarmbus.provision.layout import Layout
from swarmbus.provision.local_system import LocalSystem

_COLOURS: Final = {"ok": output.GREEN, "warn": output.YELLOW, "fail": output.RED, "crash": output.RED}


def keep_health(asked: Asked) -> ExitStatus:
    """Look, keep what changed, tell the broker; each change is a line on standard error, for the journal."""
    system, layout = LocalSystem(), Layout.of_this_user()
    facts = gather_facts(system, asked.settings, agent_ids=asked.agent_ids)
    report = check(facts, replace(asked, skip=[*asked.skip, OWN_CHECK]))
    for change in watch_over(system, layout, LocalBus(), facts, report):
        subject = f" {one_line(change.subject)}" if change.subject else ""
        words = f": {one_line(change.message)}" if change.message else ""
        output.say(f"{change.code}{subject}: {change.before} -> {change.after}{words}")
    return report.ending(asked.fail_on)


def show_history(asked: Asked, since: str | None) -> ExitStatus:
    """What has changed, oldest first."""
    changes = history(LocalSystem(), Layout.of_this_user(), moments.since(since) if since else None)
    if asked.format == "json":
        output.write_json_array(change.as_json() for change in changes)
        return ExitStatus.DONE
    for change in changes:
        at = datetime.fromtimestamp(change.time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        subject = f" {one_line(change.subject)}" if change.subject else ""
        after = output.paint(change.after, _COLOURS.get(change.after, output.DIM))
        words = f": {one_line(change.message)}" if change.message else ""
        output.write_lines([f"{at}  {change.code}{subject}  {change.before} -> {after}{words}"])
    return ExitStatus.DONE
