"""Options that commands share. One that is named like a setting is that setting, from the flag.

::

    @click.command
    @options.with_settings
    @options.agent_id
    @options.connection
    @options.as_json
    def command(settings: Settings, as_json: bool) -> ExitStatus: ...
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, TypeVar

import click

from swarmbus import control
from swarmbus.cli import output
from swarmbus.config import Settings, load_settings
from swarmbus.errors import UsageError

Callback = TypeVar("Callback", bound=Callable[..., Any])

_SETTINGS: Final = [name for name in Settings.__slots__ if name != "sources"]


class Seconds(click.FloatRange):
    """A span of time, at most so many seconds."""

    def __init__(self, longest: float) -> None:
        super().__init__(0, longest)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Also refuses NaN, which is in no range and out of none."""
        seconds = super().convert(value, param, ctx)
        if seconds != seconds:  # noqa: PLR0124
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return float(seconds)


agent_id = click.option("--agent-id", metavar="ID", help="The agent this is for. [env: SWARMBUS_AGENT_ID]")
inbox = click.option(
    "--inbox", metavar="FILE", help="The inbox file. [default: ~/sync/<id>-inbox.md; env: SWARMBUS_INBOX]"
)
persistent = click.option(
    "--persistent/--no-persistent",
    default=None,
    help="Whether the broker keeps what arrives while nobody listens. [default: persistent]",
)

_CONSUMER: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CONNECTION: Final = (
    click.option(
        "--broker",
        metavar="HOST",
        help="The broker's name or address. [default: localhost; env: SWARMBUS_BROKER]",
    ),
    click.option(
        "--port",
        type=click.IntRange(1, 65_535),
        metavar="PORT",
        help="Its port. [default: 1883; env: SWARMBUS_PORT]",
    ),
    click.option(
        "--username", metavar="NAME", help="User name at the broker. [env: SWARMBUS_BROKER_USERNAME]"
    ),
    click.option(
        "--password",
        metavar="WORD",
        help="Password at the broker. Others can see it here: better [env: SWARMBUS_BROKER_PASSWORD].",
    ),
    click.option(
        "--ca-cert",
        metavar="FILE",
        help="CA certificates (PEM) to check the broker's by; means TLS. [env: SWARMBUS_BROKER_CA_CERT]",
    ),
    click.option(
        "--client-cert",
        metavar="FILE",
        help="Our certificate (PEM); means TLS. [env: SWARMBUS_BROKER_CLIENT_CERT]",
    ),
    click.option(
        "--client-key", metavar="FILE", help="Its key (PEM); means TLS. [env: SWARMBUS_BROKER_CLIENT_KEY]"
    ),
    click.option("--tls/--no-tls", default=None, help="Whether to use TLS. [env: SWARMBUS_BROKER_TLS]"),
)


verbose = click.option("-v", "--verbose", count=True, help="Say more on standard error; twice for all.")


def as_json(callback: Callback) -> Callback:
    """How to print; belongs at the end of a command's options."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(verbose(callback))


def _check_consumer(context: click.Context, option: click.Parameter, name: str) -> str:
    if _CONSUMER.fullmatch(name) is None:
        raise UsageError(
            f"--consumer: {name!r} is not a consumer name", hint="1 to 64 characters out of A-Z a-z 0-9 _ -"
        )
    return name


consumer = click.option(
    "--consumer",
    default="default",
    metavar="NAME",
    callback=_check_consumer,
    help="Who reads: each name has its own place. [default: default, the agent itself]",
)


def connection(callback: Callback) -> Callback:
    """How to reach the broker."""
    for option in reversed(_CONNECTION):
        callback = option(callback)
    return callback


def with_settings(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Hand the command ``settings`` in place of the options that are settings, and ``-v``; stands first."""

    @wraps(callback)
    def call(verbose: int, **given: Any) -> Any:
        output.set_verbosity(verbose)
        flags = {name: given.pop(name) for name in _SETTINGS if name in given}
        if flags.get("password") is not None:
            output.warn(
                "every user of this host can see a --password (ps); use SWARMBUS_BROKER_PASSWORD, "
                "or password_file in config.toml"
            )
        return callback(settings=load_settings(flags), **given)

    return call


def check_same_broker(settings: Settings, agent_id: str) -> None:
    """See that a broker named for this call is the one that the agent's listener is connected to.

    What goes through the listener goes to its broker, and what is kept in the mailbox too.

    Raises:
        Conflict: If it is another one.
        NoListener: If no listener runs.
    """
    if not {"flag", "environment"} & {settings.sources.get("broker"), settings.sources.get("port")}:
        return
    control.check_broker(agent_id, settings.broker, settings.port)
