"""One look of ``swarmbus doctor``: what was asked for, the checks run on this host, the report printed."""

from __future__ import annotations

from dataclasses import dataclass

from swarmbus.cli import output
from swarmbus.config import Settings
from swarmbus.errors import ExitStatus, UsageError
from swarmbus.inbox_file import one_line
from swarmbus.provision.checks import CHECKS, Status
from swarmbus.provision.doctor import Observer, choose, gather_facts, run_checks
from swarmbus.provision.facts import Facts
from swarmbus.provision.layout import Layout
from swarmbus.provision.local_system import LocalSystem
from swarmbus.provision.mutes import end_mutes
from swarmbus.provision.report import Report


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for, apart from what is to be done with it.

    Attributes:
        every: All agents, whatever the environment says.
        fail_on: From which status on a finding counts.
        wake: Whether canaries go on through the wake commands.
    """

    settings: Settings
    every: bool
    only: list[str]
    skip: list[str]
    categories: list[str]
    fail_on: Status
    format: str
    wake: bool = False

    @property
    def agent_ids(self) -> list[str] | None:
        """Which agents; None for all.

        Raises:
            UsageError: If one is named and all are asked for.
        """
        source = self.settings.sources.get("agent_id")
        if self.every and source == "flag":
            raise UsageError("--all and --agent-id", hint="one of them")
        named = source in ("flag", "environment") and not self.every
        return [self.settings.require_agent_id()] if named else None


def look(asked: Asked) -> ExitStatus:
    """Look, and print the report."""
    report = examine(asked)
    for mute in end_mutes(LocalSystem(), Layout.of_this_user(), report):
        output.say(f"{mute.code} {one_line(mute.subject)}: got worse, and is no longer muted")
    return show(report, asked)


def examine(asked: Asked, observer: Observer | None = None) -> Report:
    """Run the checks on this host."""
    facts = gather_facts(LocalSystem(), asked.settings, agent_ids=asked.agent_ids)
    return check(facts, asked, observer)


def check(facts: Facts, asked: Asked, observer: Observer | None = None) -> Report:
    """Run the checks over these facts."""
    chosen = choose(CHECKS, asked.only, asked.skip, asked.categories, wake=asked.wake)
    return run_checks(chosen, facts, observer=observer)


def show(report: Report, asked: Asked) -> ExitStatus:
    """Print it as was asked for, and say what to end with."""
    match asked.format:
        case "json":
            output.write_json(report.as_json())
        case "short":
            from swarmbus.cli.doctor_short import as_short  # noqa: PLC0415  # each by itself

            output.write(as_short(report))
        case "junit":
            from swarmbus.cli.doctor_junit import as_junit  # noqa: PLC0415

            output.write(as_junit(report, asked.fail_on))
        case "nagios":
            from swarmbus.cli.doctor_nagios import as_nagios  # noqa: PLC0415

            text, status = as_nagios(report, asked.fail_on)
            output.write(text)
            return status
        case "prometheus":
            from swarmbus.cli.doctor_prometheus import as_prometheus  # noqa: PLC0415

            output.write(as_prometheus(report))
        case _:
            from swarmbus.cli.doctor_text import as_text  # noqa: PLC0415

            output.write(as_text(report, verbose=output.verbosity() > 0))
    return report.ending(asked.fail_on)
