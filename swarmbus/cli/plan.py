"""``swarmbus plan``: for programs, what ``swarmbus apply`` would do."""

from __future__ import annotations

import click

from swarmbus.cli import installing, options, output, spec_file
from swarmbus.errors import ExitStatus


@click.command("plan")
@spec_file.option
@spec_file.take
@options.as_json
def command(spec: str | None, take: tuple[str, ...], as_json: bool, verbose: int) -> ExitStatus:
    """Print what `swarmbus apply` would change on this host. Changes nothing.

    Without --spec: for what is set up here already. Exit status 0, whatever would be changed.
    """
    from swarmbus.provision.request import request_from_flags  # noqa: PLC0415  # --help loads no engine

    output.set_verbosity(verbose)
    request = spec_file.request_of(spec, take) if spec is not None else request_from_flags({"take": take})
    done = installing.install("swarmbus plan", request, dry_run=True, yes=True, as_json=as_json)
    return done if isinstance(done, ExitStatus) else done[1].exit_status
