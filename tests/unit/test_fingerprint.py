"""A fingerprint that changes with the code of the bus, and with nothing else."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

import swarmbus
from swarmbus.fingerprint import installed_fingerprint

PACKAGE = Path(swarmbus.__file__).parent


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "site-packages" / "swarmbus"
    shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_same_code_has_the_same_fingerprint_wherever_and_however_old(copy: Path) -> None:
    before = installed_fingerprint(copy)
    assert re.fullmatch(r"[0-9a-f]{16}", before)
    for path in copy.rglob("*.py"):
        os.utime(path, (0, 0))
    assert installed_fingerprint(copy) == before
    assert installed_fingerprint() == installed_fingerprint()


@pytest.mark.parametrize("name", ["spool.py", "mailbox/store.py", "handlers/base.py", "version.py"])
def test_change_of_what_the_listener_runs_changes_it(copy: Path, name: str) -> None:
    before = installed_fingerprint(copy)
    with (copy / name).open("a") as file:
        file.write("\n")
    assert installed_fingerprint(copy) != before


def test_file_that_comes_goes_or_is_renamed_changes_it(copy: Path) -> None:
    seen = {installed_fingerprint(copy)}
    (copy / "new.py").write_text("")
    seen.add(installed_fingerprint(copy))
    (copy / "new.py").rename(copy / "newer.py")
    seen.add(installed_fingerprint(copy))
    (copy / "spool.py").unlink()
    seen.add(installed_fingerprint(copy))
    assert len(seen) == 4


@pytest.mark.parametrize("name", ["cli/new.py", "provision/new.py", "__pycache__/x.py", "mailbox/notes.txt"])
def test_change_of_what_the_listener_does_not_run_does_not(copy: Path, name: str) -> None:
    before = installed_fingerprint(copy)
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_text("x = 1\n")
    assert installed_fingerprint(copy) == before
