"""Pages of documentation taken apart: their code blocks with what the tests shall do, headings and links.

A block in ``sh``, ``console`` or ``python`` carries a directive, an HTML comment on a line of its own before
it; this holds for the blocks after it, to the next directive or the end of the page::

    <!-- test: run -->                   every command must end with status 0
    <!-- test: run status=1 -->          the last command of the next block must end with this status
    <!-- test: skip needs a Mac -->      not run, for this reason

All blocks of a page are run in order, in one shell with one home. In a ``console`` block the lines that begin
with ``$ `` are commands (``> `` continues one), and the lines after them are what they print, where ``...``
stands for anything; a command with no lines after it may print what it likes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

RUNNABLE = ("sh", "console", "python")

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[\w+-]*)\s*$")
_DIRECTIVE = re.compile(r"^\s*<!-- test: (?P<verb>run|skip)(?: (?P<rest>.+?))? -->\s*$")
_HEADING = re.compile(r"^#{1,6} +(?P<text>.+?)\s*#*$")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)(?: \"[^\"]*\")?\)")


@dataclass(frozen=True)
class Directive:
    """What to do with a block.

    Attributes:
        run: False skips it.
        reason: Why it is skipped.
        status: What its last command must end with.
    """

    run: bool
    reason: str = ""
    status: int = 0


@dataclass(frozen=True)
class Block:
    """A fenced block, where it begins, and its directive; None if the page has none before it."""

    page: Path
    line: int
    language: str
    text: str
    directive: Directive | None

    def commands(self) -> Iterator[tuple[str, list[str] | None]]:
        """Each command of a ``console`` block and the lines it shall print; None where none are given."""
        command: list[str] = []
        printed: list[str] = []
        for line in [*self.text.splitlines(), "$ "]:
            if line.startswith("$ "):
                if command:
                    yield "\n".join(command), printed or None
                command, printed = [line[2:]], []
            elif line.startswith("> ") and command and not printed:
                command.append(line[2:])
            else:
                assert command, f"{self.page}:{self.line}: a console block begins with '$ '"
                printed.append(line)


@dataclass
class Page:
    """One file of Markdown."""

    path: Path
    blocks: list[Block] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    links: list[tuple[int, str]] = field(default_factory=list)

    @property
    def anchors(self) -> set[str]:
        """The names that links to its headings have on GitHub."""
        return {
            re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).replace(" ", "-")
            for heading in self.headings
        }


def parse(path: Path) -> Page:
    """Take one file apart."""
    page = Page(path)
    directive: Directive | None = None
    lines = enumerate(path.read_text().splitlines(), 1)
    for number, line in lines:
        if told := _DIRECTIVE.match(line):
            directive = _directive(told, f"{path}:{number}")
        elif fence := _FENCE.match(line):
            body = _body(lines, fence)
            page.blocks.append(Block(path, number, fence["language"], body, directive))
            if directive is not None and directive.status:
                directive = Directive(run=True)  # a status is for one block
        elif heading := _HEADING.match(line):
            page.headings.append(heading["text"])
        else:
            page.links += [
                (number, found["target"]) for found in _LINK.finditer(re.sub(r"`[^`]*`", "", line))
            ]
    return page


def _body(lines: Iterator[tuple[int, str]], fence: re.Match[str]) -> str:
    body = []
    for _, line in lines:
        if line.strip() == fence["ticks"]:
            break
        body.append(line.removeprefix(fence["indent"]))
    return "".join(f"{line}\n" for line in body)


def _directive(told: re.Match[str], place: str) -> Directive:
    rest = told["rest"] or ""
    if told["verb"] == "skip":
        assert rest, f"{place}: say why it is skipped"
        return Directive(run=False, reason=rest)
    status = re.fullmatch(r"(?:status=(\d+))?", rest)
    assert status, f"{place}: {rest!r} is none of: status=N"
    return Directive(run=True, status=int(status[1] or 0))


def matches(printed: str, wanted: list[str]) -> bool:
    """Whether lines are as a page shows them; ``...`` in a line is anything, alone on a line any lines."""
    pattern = ""
    for line in wanted:
        if line.strip() == "...":
            pattern += r"(?:.*\n)*"
        else:
            pattern += ".*".join(re.escape(part) for part in line.rstrip().split("...")) + r"[ \t]*\n"
    return re.fullmatch(pattern, f"{printed.rstrip()}\n") is not None
