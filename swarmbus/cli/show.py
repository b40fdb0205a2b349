"""``swarmbus show``: what is installed on this host, and what of it is ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from swarmbus.cli import options, output
from swarmbus.errors import ExitStatus
from swarmbus.inbox_file import one_line

if TYPE_CHECKING:
    from swarmbus.provision.installed import Installed, Thing

_BROKERS: Final = {
    "system": "mosquitto of this host",
    "private": "a mosquitto of this user's own",
    "as-it-is": "the one that was here already",
    "none": "not set up here",
}


@click.command("show")
@options.as_json
def command(as_json: bool, verbose: int) -> ExitStatus:
    """Say what is installed on this host, and what of it is ours. Changes nothing, and asks no broker.

    Of each thing: whether it is as `swarmbus init` left it, was changed since, or is gone; what was there
    before and stays; files that wait for you to look at them; a run that was interrupted.
    """
    from swarmbus.provision.installation import Interpreter, detect  # noqa: PLC0415  # --help loads no engine
    from swarmbus.provision.installed import look  # noqa: PLC0415
    from swarmbus.provision.layout import Layout  # noqa: PLC0415
    from swarmbus.provision.local_system import LocalSystem  # noqa: PLC0415

    output.set_verbosity(verbose)
    system = LocalSystem()
    installed = look(system, Layout.of_this_user(), detect(system, Interpreter.this()))
    if as_json:
        output.write_json(installed.as_json())
    else:
        output.write_lines(_text(installed))
    return ExitStatus.DONE


def _text(installed: Installed) -> Iterator[str]:
    facts = installed.as_json()
    here = facts["installation"]
    rows = [["swarmbus", f"{facts['version']}, {here['way']}, in {here['prefix']}"]]
    if installed.spec is not None:
        broker, choice = facts["broker"], facts["choices"].get("broker", "none")
        where = f"{broker['host']}, port {broker['port']}"
        rows.append(["agents", ", ".join(agent["id"] for agent in facts["agents"]) or "none"])
        rows.append(["broker", f"{where}: {_BROKERS.get(choice, choice)}"])
        rows.append(["run by", facts["choices"].get("supervisor", "nothing yet")])
    rows.append(["config", facts["config"]])
    rows.append(["state", facts["state"]])
    yield from output.columns(rows)
    if installed.spec is None and not installed.things:
        yield "nothing is set up on this host for this user"
    yield from _things(installed.things)
    mark = output.paint("!", output.RED)
    for path in installed.conflicts:
        yield f"{mark} {one_line(str(path))} waits for you: compare it, then swarmbus init --dry-run"
    if installed.interrupted is not None:
        yield f"{mark} a run was interrupted: call it again, or take it back with swarmbus init --rollback"


def _things(things: tuple[Thing, ...]) -> Iterator[str]:
    """By whose they are; what is not ours last."""
    groups = dict.fromkeys(thing.entry.group for thing in things if not thing.entry.adopted)
    for group in groups:
        yield ""
        yield f"of {group.replace(':', ' ', 1)}"
        for thing in things:
            if thing.entry.group == group and not thing.entry.adopted:
                yield f"  {_marked(thing)}"
    if found := [thing for thing in things if thing.entry.adopted]:
        yield ""
        yield "was here before, and stays"
        for thing in found:
            yield f"  {_marked(thing)}"


def _marked(thing: Thing) -> str:
    words = []
    if thing.condition != "as-left":
        words.append("changed since" if thing.condition == "changed" else "not there any more")
    if thing.has_original:
        words.append("the original is kept")
    name = one_line(thing.entry.id.replace(":", " ", 1))
    return f"{name}  ({output.paint(', '.join(words), output.YELLOW)})" if words else name
