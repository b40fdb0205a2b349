"""One key in a file of somebody else's: nothing but it moves, in either direction."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmbus.provision.resources.base import ABSENT, Verb
from swarmbus.provision.resources.toml_key import TomlKey
from tests.provision.fake_system import FakeSystem

PATH = Path("/home/pi/.config/swarmbus/config.toml")
OWN = """\
# my bus
broker = "hub"   # in the cellar

[agents.coder]     # the other one
inbox_keep = 9
"""


def key(name: str = "port", value: str | int = 1883, table: tuple[str, ...] = ()) -> TomlKey:
    return TomlKey(group="host", path=PATH, table=table, key=name, value=value)


@pytest.fixture
def system() -> FakeSystem:
    fake = FakeSystem()
    fake.put(str(PATH), OWN, mode=0o640)
    return fake


def text(system: FakeSystem) -> str:
    return (system.read(PATH) or b"").decode()


@pytest.mark.parametrize(
    ("resource", "line"),
    [
        (key(), "port = 1883\n"),
        (key("broker", "localhost"), 'broker = "localhost"   # in the cellar\n'),
        (key("inbox", "~/x.md", ("agents", "coder")), 'inbox = "~/x.md"\n'),
        (key("inbox", "~/x.md", ("agents", "planner")), '[agents.planner]\ninbox = "~/x.md"\n'),
    ],
)
def test_the_key_is_set_and_everything_else_stays(system: FakeSystem, resource: TomlKey, line: str) -> None:
    before = resource.read(system)
    original = resource.original(system)
    resource.realise(system)
    after = text(system)
    assert line in after
    assert [
        kept for kept in OWN.splitlines() if "broker" not in kept and kept not in after.splitlines()
    ] == []
    assert system.files[PATH].mode == 0o640
    resource.undo(system, before, original)
    assert text(system) == OWN


def test_undo_after_later_edits_takes_only_the_key(system: FakeSystem) -> None:
    resource = key("inbox", "~/x.md", ("agents", "planner"))
    original = resource.original(system)
    resource.realise(system)
    system.put(str(PATH), text(system).replace("# my bus", "# our bus"))
    resource.undo(system, ABSENT, original)
    assert text(system).rstrip() == OWN.replace("# my bus", "# our bus").rstrip()


def test_a_file_that_was_not_there_is_gone_again() -> None:
    system = FakeSystem()
    system.make_dir(PATH.parent)
    keys = [
        key(),
        key("inbox", "~/x.md", ("agents", "planner")),
        key("invoke", "/bin/wake", ("agents", "planner")),
    ]
    originals = []
    for resource in keys:
        originals.append(resource.original(system))
        resource.realise(system)
    assert system.files[PATH].mode == 0o600
    for resource, original in zip(reversed(keys), reversed(originals), strict=True):
        resource.undo(system, ABSENT, original)
    assert system.read(PATH) is None


def test_the_diff_shows_no_neighbour() -> None:
    system = FakeSystem()
    system.put(str(PATH), 'password = "hidden"\nbroker = "hub"\n')
    resource = key("broker", "localhost")
    shown = resource.compare(system, resource.read(system), None, take=False)
    assert shown.verb is Verb.UPDATE
    assert "hidden" not in (shown.diff or "")
    assert '+broker = "localhost"' in (shown.diff or "")


@pytest.mark.parametrize("content", ["a = [1,", "agents = 3", "[agents]\nplanner = 3", "\ufffe\x00"])
def test_what_cannot_be_parsed_blocks(content: str) -> None:
    system = FakeSystem()
    system.put(str(PATH), content)
    resource = key("inbox", "x", ("agents", "planner"))
    found = resource.compare(system, resource.read(system), None, take=False)
    assert (found.verb, found.blocking) == (Verb.CONFLICT, True)


def test_only_if_missing_leaves_any_value() -> None:
    system = FakeSystem()
    system.put(str(PATH), 'agent_id = "own"\n')
    resource = TomlKey(
        group="host", path=PATH, table=(), key="agent_id", value="planner", only_if_missing=True
    )
    assert resource.compare(system, resource.read(system), None, take=False).verb is Verb.KEEP
