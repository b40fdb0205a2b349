"""``swarmbus doctor``: what is wrong on this host, and how to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from swarmbus.cli import options, output
from swarmbus.config import Settings
from swarmbus.errors import ExitStatus, SwarmbusError, UsageError

if TYPE_CHECKING:
    from swarmbus.cli.doctor_look import Asked

_FORMATS: Final = ("text", "short", "json", "junit", "nagios", "prometheus")
_ACTIONS: Final = {
    "watch": "--watch",
    "fix": "--fix",
    "mute": "--mute",
    "unmute": "--unmute",
    "bundle": "--bundle",
    "source": "--from",
    "health": "--health",
    "history": "--history",
}
"""What is to be done, if not just looked: one of them at a time."""

_BELONGS_TO: Final = {
    "dry_run": ("--dry-run", "fix"),
    "yes": ("--yes", "fix"),
    "lasting": ("--for", "mute"),
    "hash_names": ("--hash-names", "bundle"),
    "since": ("--since", "history"),
}
_MUTE: Final = "7d"


def _words(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> list[str]:
    return [word for text in given for word in text.split(",") if word]


@click.command("doctor")
@options.with_settings
@options.agent_id
@click.option("--all", "every", is_flag=True, help="All agents of this host, whatever the environment says.")
@options.connection
@click.option(
    "--only", multiple=True, metavar="CODE,…", callback=_words, help="Run these checks or categories."
)
@click.option("--skip", multiple=True, metavar="CODE,…", callback=_words, help="Leave these out.")
@click.option("--category", multiple=True, metavar="C,…", callback=_words, help="Stay within these.")
@click.option(
    "--fail-on", type=click.Choice(["warn", "fail"]), default="fail", help="What is status 1. [default: fail]"
)
@click.option("--format", "style", type=click.Choice(_FORMATS), help="How to print. [default: text]")
@click.option(
    "--wake", "through_wake", is_flag=True, help="Have the canary go on as a wake does; none is woken."
)
@click.option("--explain", metavar="CODE", help="Print what a check means and how to mend it; run nothing.")
@click.option("--watch", is_flag=True, help="Look again and again, and print what changes; Ctrl-C ends it.")
@click.option("--fix", is_flag=True, help="Put in order what init's engine can, and look again.")
@click.option("--dry-run", is_flag=True, help="With --fix: print what would be done, and do nothing.")
@click.option("--yes", is_flag=True, help="With --fix: do not ask.")
@click.option("--mute", metavar="CODE[:SUBJECT]", help="What this finds now shall not count for a while.")
@click.option("--for", "lasting", metavar="TIME", help="With --mute: how long: 12h, 7d. [default: 7d]")
@click.option("--unmute", metavar="CODE[:SUBJECT]", help="It shall count again.")
@click.option("--bundle", metavar="FILE", help="Keep what is seen, without secrets, in this file.")
@click.option("--hash-names", is_flag=True, help="With --bundle: nor names of agents, hosts and users.")
@click.option("--from", "source", metavar="FILE", help="Look at such a file instead of this host.")
@click.option("--health", is_flag=True, help="As the timer does: keep what changed, tell the broker.")
@click.option("--history", is_flag=True, help="Print what --health has seen change; run nothing.")
@click.option("--since", metavar="TIME", help="With --history: from then on: 2d, 2026-04-14.")
@options.as_json
def command(
    settings: Settings,
    every: bool,
    only: list[str],
    skip: list[str],
    category: list[str],
    fail_on: str,
    style: str | None,
    through_wake: bool,
    explain: str | None,
    as_json: bool,
    **given: Any,
) -> ExitStatus:
    """Say what is wrong with the agents of this host, and how to mend it. Changes nothing without --fix.

    Without --agent-id: all agents that are set up or run here. A message of its own is sent through broker,
    listener and mailbox; no reader ever sees it. Exit status 1: something is wrong; 2: could not look; 3: a
    check is at fault. With --format nagios: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.
    """
    if explain is not None:
        _explain(explain, as_json=as_json or style == "json")
        return ExitStatus.DONE
    if as_json and style not in (None, "json"):
        raise UsageError(f"--json and --format {style}", hint="one of them")
    action = _action(given)
    from swarmbus.cli.doctor_look import Asked  # noqa: PLC0415  # --help loads none of it
    from swarmbus.provision.checks import Status  # noqa: PLC0415

    form = "json" if as_json else style or "text"
    asked = Asked(settings, every, only, skip, category, Status(fail_on), form, through_wake)
    try:
        return _act(action, asked, given)
    except SwarmbusError as error:
        if form != "nagios":
            raise
        from swarmbus.cli.doctor_nagios import unknown  # noqa: PLC0415

        text, status = unknown(error)
        output.write(text)
        return status


def _action(given: dict[str, Any]) -> str | None:
    """The one thing to do."""
    chosen = [name for name in _ACTIONS if given[name]]
    if len(chosen) > 1:
        named = " and ".join(_ACTIONS[name] for name in chosen)
        raise UsageError(f"{named}: two things at once", hint="one after the other")
    for name, (option, needed) in _BELONGS_TO.items():
        if given[name] and not given[needed]:
            raise UsageError(f"{option} without {_ACTIONS[needed]}", hint=f"add {_ACTIONS[needed]}")
    return chosen[0] if chosen else None


def _act(action: str | None, asked: Asked, given: dict[str, Any]) -> ExitStatus:
    match action:
        case "watch":
            from swarmbus.cli.doctor_watch import watch  # noqa: PLC0415  # each by itself

            return watch(asked)
        case "fix":
            from swarmbus.cli.doctor_fix import fix  # noqa: PLC0415

            return fix(asked, dry_run=given["dry_run"], yes=given["yes"])
        case "mute":
            from swarmbus.cli.doctor_mute import mute_it  # noqa: PLC0415

            return mute_it(asked, given["mute"], given["lasting"] or _MUTE)
        case "unmute":
            from swarmbus.cli.doctor_mute import unmute  # noqa: PLC0415

            return unmute(given["unmute"])
        case "bundle":
            from swarmbus.cli.doctor_bundle import write_bundle  # noqa: PLC0415

            return write_bundle(asked, given["bundle"], hash_names=given["hash_names"])
        case "source":
            from swarmbus.cli.doctor_bundle import look_at_bundle  # noqa: PLC0415

            return look_at_bundle(asked, given["source"])
        case "health":
            from swarmbus.cli.doctor_health import keep_health  # noqa: PLC0415

            return keep_health(asked)
        case "history":
            from swarmbus.cli.doctor_health import show_history  # noqa: PLC0415

            return show_history(asked, given["since"])
        case _:
            from swarmbus.cli.doctor_look import look  # noqa: PLC0415

            return look(asked)


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
