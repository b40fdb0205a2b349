"""``swarmbus apply``: for programs, what ``swarmbus init`` is for people."""

from __future__ import annotations

import click

from swarmbus.cli import installing, options, output, spec_file
from swarmbus.errors import ExitStatus


@click.command("apply")
@spec_file.option
@spec_file.take
@options.as_json
def command(spec: str | None, take: tuple[str, ...], as_json: bool, verbose: int) -> ExitStatus:
    """Make this host what a spec says, without asking. As `swarmbus init --yes` in everything else.

    Without --spec: what is set up here already is put right. A second run changes nothing.

    Exit status 1: failed, and taken back. 3: somebody else's change is in the way. 4: root is needed.
    """
    from swarmbus.provision.request import request_from_flags  # noqa: PLC0415  # --help loads no engine

    output.set_verbosity(verbose)
    request = spec_file.request_of(spec, take) if spec is not None else request_from_flags({"take": take})
    done = installing.install("swarmbus apply", request, dry_run=False, yes=True, as_json=as_json)
    return done if isinstance(done, ExitStatus) else done[1].exit_status
