"""``swarmbus doctor``: what is wrong on this host, and how to mend it."""

from __future__ import annotations

import click

from swarmbus.cli import options, output
from swarmbus.config import Settings
from swarmbus.errors import ExitStatus, UsageError


def _words(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> list[str]:
    return [word for text in given for word in text.split(",") if word]


@click.command("doctor")
@options.with_settings
@options.agent_id
@options.connection
@click.option(
    "--only", multiple=True, metavar="CODE,…", callback=_words, help="Run these checks or categories."
)
@click.option("--skip", multiple=True, metavar="CODE,…", callback=_words, help="Leave these out.")
@click.option("--explain", metavar="CODE", help="Print what a check means and how to mend it; run nothing.")
@options.as_json
def command(
    settings: Settings, only: list[str], skip: list[str], explain: str | None, as_json: bool
) -> ExitStatus:
    """Say what is wrong with the agents of this host, and how to mend it. Changes nothing.

    Without --agent-id: all agents that are set up or run here. A message of its own is sent through broker,
    listener and mailbox; no reader ever sees it. Exit status 1: something is wrong; 3: a check is at fault.
    """
    if explain is not None:
        _explain(explain, as_json=as_json)
        return ExitStatus.DONE
    from swarmbus.cli.doctor_text import as_text  # noqa: PLC0415  # --help loads none of it
    from swarmbus.provision.doctor import run_doctor  # noqa: PLC0415
    from swarmbus.provision.local_system import LocalSystem  # noqa: PLC0415

    named = settings.sources.get("agent_id") in ("flag", "environment")
    report = run_doctor(
        LocalSystem(),
        settings,
        agent_ids=[settings.require_agent_id()] if named else None,
        only=only,
        skip=skip,
    )
    if as_json:
        output.write_json(report.as_json())
    else:
        output.write(as_text(report, verbose=output.verbosity() > 0))
    return report.exit_status


def _explain(code: str, *, as_json: bool) -> None:
    from swarmbus.provision.checks import CHECKS, page  # noqa: PLC0415

    codes = [check.code for check in CHECKS]
    if code not in codes:
        close = output.near(code, codes)
        raise UsageError(
            f"there is no check {code!r}",
            hint=f"did you mean {close}?" if close else f"codes: {', '.join(codes)}",
        )
    if as_json:
        output.write_json({"code": code, "page": page(code)})
    else:
        output.write(page(code))
