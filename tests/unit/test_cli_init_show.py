"""What ``swarmbus init`` shows: the plan with its diffs, and the steps while they are done."""

from __future__ import annotations

import io
import os
import pty
import select
from pathlib import Path

import pytest

from swarmbus.cli import output
from swarmbus.cli.init_show import Progress, show_plan
from swarmbus.provision.handlers import Handler
from swarmbus.provision.plan import Action, Plan
from swarmbus.provision.resources.base import ABSENT, Comparison, Verb
from swarmbus.provision.resources.file import File
from swarmbus.provision.run import Event


def action(name: str, verb: Verb, reason: str = "", diff: str | None = None, *, root: bool = False) -> Action:
    resource = File(group="g", path=Path(f"/srv/{name}"), content="", root=root)
    return Action(resource, Comparison(verb, reason, diff), ABSENT, None)


def plan_of(*actions: Action, handlers: tuple[Handler, ...] = (), notes: tuple[str, ...] = ()) -> Plan:
    changes = tuple(action for action in actions if action.verb.changes_host)
    return Plan(actions, (*changes, *handlers), notes)


def shown(plan: Plan) -> list[str]:
    said: list[str] = []
    show_plan(plan, said.append)
    return "".join(said).splitlines()


def test_plan_has_a_line_a_change_with_its_diff_and_nothing_of_what_stays() -> None:
    plan = plan_of(
        action("new", Verb.CREATE, "is missing", "--- /dev/null\n+++ /srv/new\n@@ -0,0 +1 @@\n+text\n"),
        action("same", Verb.KEEP, "as it should be"),
        action("there", Verb.ADOPT),
        action("old", Verb.UPDATE, "differs", root=True),
        action("gone", Verb.DELETE, "is not wanted any more"),
        handlers=(Handler("user:restart:swarmbus-planner.service", Path("/srv/processes")),),
        notes=("a sentence",),
    )
    lines = shown(plan)
    assert lines[0].startswith("  + ")
    assert "/srv/new" in lines[0]
    assert lines[1:5] == [
        f"      {text}" for text in ("--- /dev/null", "+++ /srv/new", "@@ -0,0 +1 @@", "+text")
    ]
    assert lines[5].startswith("  ~ ")
    assert lines[5].endswith("/srv/old (root): differs")
    assert lines[6].startswith("  - ")
    assert lines[7].startswith("  > ")
    assert "swarmbus-planner.service" in lines[7]
    assert lines[8:] == ["note: a sentence"]


def test_a_long_new_file_is_counted_and_with_v_printed() -> None:
    text = "--- /dev/null\n+++ /srv/x\n@@ -0,0 +1,147 @@\n" + "+line\n" * 147
    plan = plan_of(action("x", Verb.CREATE, "is missing", text))
    assert shown(plan)[1:] == ["      a new file of 147 lines; -v prints it"]
    assert len(shown(plan_of(action("x", Verb.UPDATE, "differs", text)))) == 151, "a change is shown whole"
    output.set_verbosity(1)
    try:
        assert len(shown(plan)) == 151
    finally:
        output.set_verbosity(0)


def test_plan_without_a_change_says_so() -> None:
    assert shown(plan_of(action("same", Verb.KEEP))) == ["everything is as it should be"]


def test_plan_after_an_interrupted_run_does_not_say_that_all_is_well() -> None:
    plan = Plan((action("same", Verb.KEEP),), notes=("an earlier run was interrupted",), unfinished=True)
    assert shown(plan) == ["note: an earlier run was interrupted"]


def test_the_wait_for_the_canary_is_announced_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with Progress(stream) as progress:
        progress.tell(Event("gate", "send a canary", "begun", detail="through planner"))
    assert stream.getvalue() == "  ...  send a canary through planner\n"


def test_a_terminal_that_has_gone_stops_nothing() -> None:
    stream = open("/dev/full", "w", buffering=1)  # noqa: PTH123, SIM115
    with Progress(stream) as progress:
        progress.tell(Event("file:/x", "write a file", "undone"))
    with pytest.raises(OSError, match="No space"):
        stream.close()


def test_conflict_is_shown_with_its_reason() -> None:
    lines = shown(plan_of(action("theirs", Verb.CONFLICT, "was changed by somebody")))
    assert lines[0].startswith("  ! ")
    assert lines[0].endswith("/srv/theirs: was changed by somebody")


def test_content_of_files_does_nothing_to_the_terminal() -> None:
    (_, line) = shown(plan_of(action("x", Verb.UPDATE, "differs", "+\x1b[31m\u202e")))
    assert line == "      +\\x1b[31m\\u202e"


@pytest.mark.parametrize(
    ("stage", "detail", "line"),
    [
        ("done", "created", "  ok  [1/2] write a file  12 ms\n"),
        ("failed", "no space", "  failed  [1/2] write a file: no space  12 ms\n"),
        ("declined", "polkit says no", "  declined  [1/2] write a file: polkit says no  12 ms\n"),
        ("undone", None, "  taken back  [1/2] write a file  12 ms\n"),
        ("left", "was changed since", "  left  [1/2] write a file: was changed since  12 ms\n"),
        ("begun", None, ""),
        ("changed", None, ""),
    ],
)
def test_steps_are_plain_lines_where_there_is_no_terminal(stage: str, detail: str | None, line: str) -> None:
    stream = io.StringIO()
    with Progress(stream) as progress:
        progress.tell(Event("file:/x", "write a file", stage, 0.012, detail, 1, 2))  # type: ignore[arg-type]
    assert stream.getvalue() == line


def test_long_steps_are_not_broken_into_lines_and_brackets_are_no_markup() -> None:
    stream = io.StringIO()
    with Progress(stream) as progress:
        progress.tell(Event("file:/x", "write " + "x" * 200 + "[red]", "done", 0.0, None, 10, 10))
    assert stream.getvalue() == f"  ok  [10/10] write {'x' * 200}[red]  0 ms\n"


def test_terminal_is_left_alone_after_a_hush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, Progress(terminal) as progress:
        progress.tell(Event("file:/x", "write a file", "begun", 0.0, None, 1, 1))
        progress.hush()
        said = _heard(ours)
        assert b"write a file" in said
        assert said.rfind(b"\x1b[?25h") > said.rfind(b"\x1b[?25l"), "the cursor is back"
        assert _heard(ours) == b""
    os.close(ours)


def _heard(descriptor: int) -> bytes:
    """All that comes, until nothing comes for a third of a second: three pictures of the spinner."""
    said = b""
    while select.select([descriptor], [], [], 0.35)[0]:
        said += os.read(descriptor, 65_536)
    return said
