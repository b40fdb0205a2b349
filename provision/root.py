"""Steps that need root: as commands, which become one script, to be run through sudo or read by a human.

::

    # for root: 2 steps
    steps() {
    echo '==> install the package mosquitto'
    /usr/bin/apt-get … install mosquitto
    echo '==> restart mosquitto.service'
    /usr/bin/systemctl restart mosquitto.service
    echo '==> done'
    }
    steps </dev/null

It runs programs of the system only, never Python and nothing that a user could have changed. A shell reads a
function to its end before it runs any of it, so a script that was cut off does nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from swarmbus.errors import NeedsRoot
from swarmbus.provision.command import Command

SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs that run as root come from; nothing of the caller's PATH."""

MARK = "==> "
"""Begins a line that says which step is begun."""

_LONGEST_HINT = 100


@dataclass(frozen=True, slots=True)
class RootStep:
    """What root does for one resource or handler.

    Attributes:
        id: Of the resource or handler.
    """

    id: str
    title: str
    commands: tuple[Command, ...]


class RootStepsNeeded(NeedsRoot):
    """Some steps need root, and there is no way to become it.

    Attributes:
        script: POSIX shell text that, run by root, does exactly these steps.
    """

    def __init__(self, message: str, *, steps: Sequence[RootStep]) -> None:
        commands = [command for step in steps for command in step.commands]
        told = " && ".join(f"sudo {shlex.join(command.argv)}" for command in commands)
        if any(command.stdin is not None for command in commands) or len(told) > _LONGEST_HINT:
            told = "the script that was printed"
        super().__init__(message, hint=f"an administrator can run: {told}")
        self.script = shell_script(steps)


def shell_script(steps: Sequence[RootStep], *, hide_secrets: bool = False) -> str:
    """The steps as a script for root: it stops at the first command that fails, and says which step is begun.

    Args:
        hide_secrets: For the eyes only: such a script could not be run.
    """
    lines = [f"# for root: {len(steps)} {'step' if len(steps) == 1 else 'steps'}", "set -eu"]
    lines += [f"export PATH={SYSTEM_PATH} LC_ALL=C.UTF-8 HOME=/root", "umask 022", "cd /", "steps() {"]
    for step in steps:
        lines.append(f"echo {shlex.quote(MARK + step.title)}")
        for command in step.commands:
            lines += _lines(command, hide_secrets=hide_secrets)
    return "\n".join([*lines, f"echo '{MARK}done'", "}", "steps </dev/null"]) + "\n"


def _lines(command: Command, *, hide_secrets: bool) -> list[str]:
    text = shlex.join(command.argv)
    if command.may_fail:
        return [f"{text} || :"]
    if command.otherwise:
        rescue = [line for one in command.otherwise for line in _lines(one, hide_secrets=hide_secrets)]
        return [f"{text} || {{", *rescue, "}"]
    if command.stdin is None:
        return [text]
    content = "(not shown)" if command.secret and hide_secrets else command.stdin.decode()
    mark = "END"
    while mark in content.splitlines():
        mark += "_"
    ending = "" if content.endswith("\n") or not content else "\n"
    return [f"{text} <<'{mark}'", f"{content}{ending}{mark}"]
