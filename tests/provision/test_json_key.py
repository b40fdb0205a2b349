"""One key in a JSON file of somebody else's: not another character moves, in either direction."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from swarmbus.errors import Conflict
from swarmbus.provision.local_system import LocalSystem
from swarmbus.provision.manifest import Entry
from swarmbus.provision.resources.base import ABSENT, Owned, Verb
from swarmbus.provision.resources.json_key import JsonKey
from swarmbus.provision.resources.json_text import NotEditableError, raw_at, value_at, with_raw, without
from tests.provision.fake_system import FakeSystem

PATH = Path("/home/pi/.claude/settings.json")
KEY = ("mcpServers", "swarmbus")
OWN = """\
{
\t"hooks" : [1,2,  3], "number": 1.50,
  "mcpServers": {
      "first": {"command": "x"},
      "swarmbus": {
        "command": "swarmbus"
      },
      "last": {}
  },
  "\\u00fc": "\\/"
}
"""


def gone(**more: Any) -> JsonKey:
    return JsonKey(group="adopted:planner", path=PATH, names=KEY, **more)


def having(value: str) -> JsonKey:
    return JsonKey(group="adopted:planner", path=PATH, names=KEY, value=value)


def on_disk(content: str, mode: int = 0o644) -> FakeSystem:
    system = FakeSystem()
    system.put(str(PATH), content, mode=mode)
    return system


def text(system: FakeSystem) -> str:
    return (system.read(PATH) or b"").decode()


@pytest.mark.parametrize(
    ("content", "after"),
    [
        (OWN, OWN.replace('"swarmbus": {\n        "command": "swarmbus"\n      },\n      ', "")),
        ('{"mcpServers":{"swarmbus":{},"b":1}}', '{"mcpServers":{"b":1}}'),
        ('{"mcpServers":{"a":1 , "swarmbus":{}}}', '{"mcpServers":{"a":1}}'),
        ('{"mcpServers": { "swarmbus" : {} } ,"x":1}', '{"mcpServers": {} ,"x":1}'),
        ('\n {"mcpServers": {"a": "swarmbus", "swarmbus": 1\n}}', '\n {"mcpServers": {"a": "swarmbus"\n}}'),
    ],
)
def test_it_is_taken_out_and_comes_back_as_it_was(content: str, after: str) -> None:
    system = on_disk(content, mode=0o640)
    before, original = gone().read(system), gone().original(system)
    assert gone().realise(system) == ABSENT
    assert text(system) == after
    assert system.files[PATH].mode == 0o640
    gone().undo(system, before, original)
    assert text(system) == content


@pytest.mark.parametrize(
    ("content", "after"),
    [
        ('{"mcpServers": {"a": 1}}', '{"mcpServers": {"a": 1, "swarmbus": 7}}'),
        (
            '{\n  "mcpServers": {\n    "a": 1\n  }\n}\n',
            '{\n  "mcpServers": {\n    "a": 1,\n    "swarmbus": 7\n  }\n}\n',
        ),
        ('{"mcpServers": {"swarmbus": [0], "z": 2}}', '{"mcpServers": {"swarmbus": 7, "z": 2}}'),
        ('{\n  "x": 1\n}\n', '{\n  "x": 1,\n  "mcpServers": {"swarmbus": 7}\n}\n'),
        ("{}", '{"mcpServers": {"swarmbus": 7}}'),
        ("", '{\n  "mcpServers": {"swarmbus": 7}\n}\n'),
    ],
)
def test_it_is_set_and_goes_again(content: str, after: str) -> None:
    system = on_disk(content)
    before, original = having("7").read(system), having("7").original(system)
    having("7").realise(system)
    assert text(system) == after
    having("7").undo(system, before, original)
    assert text(system) == content


def test_what_others_have_changed_since_stays() -> None:
    system = on_disk(OWN)
    resource = gone()
    before, original = resource.read(system), resource.original(system)
    resource.realise(system)
    system.put(str(PATH), text(system).replace("1.50", "2"))
    resource.undo(system, before, original)
    back = json.loads(text(system))
    assert back["mcpServers"]["swarmbus"] == {"command": "swarmbus"}
    assert back["number"] == 2


def test_a_file_that_was_not_there_is_gone_again() -> None:
    system = FakeSystem()
    system.make_dir(PATH.parent)
    having("7").realise(system)
    assert system.files[PATH].mode == 0o600
    having("7").undo(system, ABSENT, None)
    assert system.read(PATH) is None


def test_undo_from_the_manifest_needs_no_value() -> None:
    system = on_disk('{"a": 1}')
    resource = having('{"env": {"PASSWORD": "hidden"}}')
    before, original = resource.read(system), resource.original(system)
    state = resource.realise(system)
    assert "hidden" not in json.dumps([state, resource.record()])
    entry = Entry(resource.id, "json", resource.group, resource.record(), state, before)
    entry.resource().undo(system, before, original)
    assert text(system) == '{"a": 1}'


@pytest.mark.parametrize(
    "content",
    [
        '{"mcpServers": {"swarmbus": 1},}',
        '// my settings\n{"mcpServers": {"swarmbus": 1}}',
        '{"mcpServers": {"swarmbus": 1',
        "[]",
        '{"mcpServers": []}',
        '{"mcpServers": {"swarmbus": 1, "swarmbus": 2}}',
        '{"mcpServers": {"swarmbus": 1}, "mcpServers": {"swarmbus": 2}}',
    ],
)
def test_what_cannot_be_parsed_is_not_touched(content: str) -> None:
    system = on_disk(content)
    found = gone().compare(system, gone().read(system), None, take=True)
    assert (found.verb, found.blocking) == (Verb.CONFLICT, False)
    with pytest.raises(Conflict):
        gone().realise(system)
    assert text(system) == content


def test_a_secret_is_not_shown() -> None:
    system = on_disk('{"mcpServers": {"swarmbus": {"env": {"PASSWORD": "hidden"}}}}')
    shown = gone(secret=True).compare(system, gone().read(system), None, take=False)
    assert shown.verb is Verb.UPDATE
    assert "hidden" not in repr(shown)


def test_what_the_user_made_of_our_value_stays() -> None:
    system = on_disk('{"mcpServers": {"swarmbus": 8}}')
    wanted = having("9")
    owned = Owned(having("7").wanted(system))
    assert wanted.compare(system, wanted.read(system), owned, take=False).verb is Verb.KEEP
    assert wanted.compare(system, wanted.read(system), owned, take=True).verb is Verb.UPDATE


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "dotfiles.json").write_text('{"mcpServers": {"swarmbus": 1}}')
    link = tmp_path / "settings.json"
    link.symlink_to("dotfiles.json")
    JsonKey(group="", path=link, names=KEY).realise(LocalSystem())
    assert link.is_symlink()
    assert (tmp_path / "dotfiles.json").read_text() == '{"mcpServers": {}}'


_RANDOM = Random(7)


def _some(depth: int) -> Any:
    plain = [None, True, 0, -1.5e3, "", '"}', "a\\", "\u00fc{"]
    match _RANDOM.randrange(3 if depth else 1):
        case 0:
            return _RANDOM.choice(plain)
        case 1:
            return [_some(depth - 1) for _ in range(_RANDOM.randrange(4))]
        case _:
            return {name: _some(depth - 1) for name in _RANDOM.sample(["a", "b", '"', "\n", "{"], 3)}


@pytest.mark.parametrize("indent", [None, 1, 4])
def test_whatever_the_document(indent: int | None) -> None:
    changed = 0
    for _ in range(500):
        document = {name: _some(3) for name in ("a", "b")}
        names = _RANDOM.choices(["a", "b", '"', "\n", "new"], k=_RANDOM.randrange(1, 4))
        value = _some(2)
        before = json.dumps(document, indent=indent)
        try:
            had, old = value_at(before, names)
        except NotEditableError:
            continue  # something on the way is no object
        after = with_raw(before, names, json.dumps(value))
        assert value_at(after, names) == (True, value)
        assert raw_at(without(after, names), names) is None
        if had:
            assert json.loads(with_raw(after, names, json.dumps(old))) == document
        changed += 1
    assert changed > 100
