"""What one server has handed out no other hands out, for as long as the first one lives and cares."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from swarmbus.errors import StorageError
from swarmbus.mcp.holds import HOLD, Holds

OTHER = """
import sys, time
from pathlib import Path
from swarmbus.mcp.holds import Holds
holds = Holds(Path(sys.argv[1]))
with holds.turn() as taken:
    holds.hold([1, 2])
print(sorted(taken), flush=True)
sys.stdin.read()
"""


def taken_by_others(holds: Holds) -> set[int]:
    with holds.turn() as taken:
        return taken


def test_what_another_holds_is_taken_until_it_ends_however_it_ends(tmp_path: Path) -> None:
    with Holds(tmp_path / "mcp") as ours:
        with ours.turn():
            ours.hold([7])
        with subprocess.Popen(
            [sys.executable, "-c", OTHER, str(tmp_path / "mcp")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as other:
            assert other.stdout
            assert other.stdout.readline() == "[7]\n"
            assert taken_by_others(ours) == {1, 2}
            other.kill()
            other.wait()
        assert taken_by_others(ours) == set()
        assert len(list((tmp_path / "mcp").glob("*.holds"))) == 1
    assert list((tmp_path / "mcp").glob("*.holds")) == []


def test_released_is_nobodys(tmp_path: Path) -> None:
    with Holds(tmp_path) as one, Holds(tmp_path) as two:
        with one.turn():
            one.hold([1, 2])
        one.release([1, 99])
        assert (one.own, taken_by_others(two)) == ({2}, {2})


def test_hold_of_one_that_is_silent_for_too_long_is_over(tmp_path: Path) -> None:
    with Holds(tmp_path) as one, Holds(tmp_path) as two:
        with one.turn():
            one.hold([1])
        one._held[1] = time.time() - HOLD - 1
        one._write()
        assert taken_by_others(two) == set()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"holds": 1}', b'{"holds": {"x": 1}}', b"\xff"])
def test_file_of_a_living_server_that_cannot_be_read_holds_nothing(tmp_path: Path, text: bytes) -> None:
    with Holds(tmp_path) as one, Holds(tmp_path) as two:
        one._path.write_bytes(text)
        assert taken_by_others(two) == set()


def test_turn_that_is_never_given_up_is_an_error(tmp_path: Path) -> None:
    with Holds(tmp_path) as one, Holds(tmp_path, patience=0.1) as two:
        with one.turn(), pytest.raises(StorageError, match="another MCP server has held"):
            taken_by_others(two)
        assert taken_by_others(two) == set()


def test_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write in"):
        Holds(tmp_path / "file" / "mcp")
