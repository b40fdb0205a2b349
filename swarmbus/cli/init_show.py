"""What ``swarmbus init`` shows: the plan before, and each step while it is done."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from swarmbus.cli import moments, output
from swarmbus.inbox_file import one_line
from swarmbus.provision.plan import Action, Plan
from swarmbus.provision.resources.base import Verb
from swarmbus.provision.run import Event

_MARKS: Final = {
    Verb.CREATE: ("+", output.GREEN),
    Verb.UPDATE: ("~", output.YELLOW),
    Verb.DELETE: ("-", output.RED),
    Verb.ADOPT: ("=", output.DIM),
    Verb.KEEP: ("=", output.DIM),
    Verb.CONFLICT: ("!", output.RED),
}

_LONG: Final = 80
"""Lines of a new file that are not printed unless asked for: units and settings are shorter."""

_WORDS: Final = {
    "done": ("ok", "green"),
    "declined": ("declined", "yellow"),
    "failed": ("failed", "red"),
    "undone": ("taken back", "yellow"),
    "left": ("left", "yellow"),
}
"""How a step that has come to its end is called, and its colour."""


def show_plan(plan: Plan, write: Callable[[str], None]) -> None:
    """Print the plan: a line a step, and under it the diff of what a file gains and loses."""
    for action in plan.actions:
        if action.verb.changes_host or action.verb is Verb.CONFLICT:
            write(f"{_heading(action)}\n")
            write("".join(f"      {line}\n" for line in _diff(action)))
    for handler in plan.handlers:
        write(f"  {output.paint('>', output.YELLOW)} {one_line(handler.title)}\n")
    if not plan.changed and not plan.conflicts and not plan.unfinished:
        write("everything is as it should be\n")
    for note in plan.notes:
        write(f"note: {one_line(note)}\n")


def _diff(action: Action) -> list[str]:
    lines = (action.comparison.diff or "").splitlines()
    if action.verb is Verb.CREATE and len(lines) > _LONG and not output.verbosity():
        return [f"a new file of {len(lines) - 3} lines; -v prints it"]  # without the three of the heading
    return [_painted(line) for line in lines]


def _heading(action: Action) -> str:
    mark, colour = _MARKS[action.verb]
    root = " (root)" if action.scope == "root" else ""
    reason = ""
    if action.verb not in (Verb.CREATE, Verb.DELETE) and action.comparison.reason:
        reason = f": {one_line(action.comparison.reason)}"
    return f"  {output.paint(mark, colour)} {one_line(action.title)}{root}{reason}"


def _painted(line: str) -> str:
    colour = {"+": output.GREEN, "-": output.RED}.get(line[:1])
    text = one_line(line)
    return output.paint(text, colour) if colour else text


class Progress:
    """An observer of a `swarmbus.provision.run`: alive on a terminal, a line a step elsewhere.

    Args:
        stream: Where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False, no_color=not output.has_colour(stream))
        self._live: Live | None = None
        self._is_live = self._console.is_terminal

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hush()

    def tell(self, event: Event) -> None:
        """Show a step as it begins (on a terminal only), and how it ended."""
        if event.stage in _WORDS:
            self.hush()
            self._print(_ended(event))
        elif event.step == "gate" and event.stage == "begun" and not self._is_live:
            self._print(Text(f"  ...  {_name(event)} {one_line(event.detail or '')}".rstrip()))
        elif event.stage == "begun" and self._is_live:
            self.hush()
            spinner = Spinner("dots", text=_name(event))
            live = Live(spinner, console=self._console, transient=True, refresh_per_second=10)
            with suppress(OSError):
                live.start()
            self._live = live

    def hush(self) -> None:
        """Stop drawing."""
        if self._live is not None:
            with suppress(OSError):
                self._live.stop()
            self._live = None

    def _print(self, text: Text) -> None:
        with suppress(OSError):  # whoever hung up; what is under way, or taken back, goes on
            self._console.print(text, soft_wrap=True)


def _ended(event: Event) -> Text:
    word, colour = _WORDS[event.stage]
    reason = f": {one_line(event.detail)}" if event.detail and event.stage != "done" else ""
    return Text.assemble(
        "  ", (word, colour), f"  {_name(event)}{reason}", (f"  {moments.lasting(event.seconds)}", "dim")
    )


def _name(event: Event) -> str:
    count = f"[{event.number}/{event.total}] " if event.number else ""
    return f"{count}{one_line(event.title)}"
