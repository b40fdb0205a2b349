"""What a rehearsal looks at in place of running a wake command, compared with what running it says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from swarmbus.handlers import stand_in

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a program into the one folder of the PATH."""

    def write(text: str | bytes, *, name: str = "wake", mode: int = 0o755) -> Path:
        program = tmp_path / name
        program.write_bytes(text if isinstance(text, bytes) else text.encode())
        program.chmod(mode)
        return program

    return write


def said(program: str | Path, path: str | Path) -> tuple[int, str]:
    argv = [sys.executable, "-I", "-S", stand_in.__file__, str(program)]
    ran = subprocess.run(argv, env={"PATH": str(path)}, capture_output=True, text=True)
    return ran.returncode, ran.stderr


def runs(program: Path | str, path: Path) -> bool:
    """Whether the kernel, or env(1), starts it."""
    try:
        return subprocess.run([str(program)], env={"PATH": str(path)}, capture_output=True).returncode != 127
    except OSError:
        return False


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#!/bin/sh\n", None),
        ("#! /bin/sh -e\n", None),
        ("#!/usr/bin/env -S A=1 /bin/sh\n", None),
        (Path("/bin/true").read_bytes(), None),
        ("#!/no/such/sh\n", "names '/no/such/sh' as interpreter, which cannot be executed"),
        ("#!/bin/sh\r\n", r"names '/bin/sh\r' as interpreter"),
        ("#!/usr/bin/env no-such-node\n", "needs no-such-node, which is not on the PATH"),
        ("echo hello\n", "names no interpreter"),
        ("", "names no interpreter"),
    ],
)
def test_a_program_is_judged_as_the_kernel_does(
    make: Make, tmp_path: Path, text: str | bytes, reason: str | None
) -> None:
    program = make(text)
    status, why = said(program, tmp_path)
    assert runs(program, tmp_path) == (reason is None)
    assert status == (0 if reason is None else stand_in.CANNOT_START)
    assert (reason or "") in why
    assert said("wake", tmp_path)[0] == status


def test_it_is_looked_for_along_the_path_of_the_wake(make: Make, tmp_path: Path) -> None:
    program = make("#!/bin/sh\n")
    assert said("wake", f"/no/such/folder:{tmp_path}")[0] == 0
    assert said("wake", "/no/such/folder")[1] == "wake is not on the PATH of a wake, /no/such/folder\n"
    program.chmod(0o644)
    assert "is not on the PATH" in said("wake", tmp_path)[1]
    assert said(program, tmp_path)[1] == f"{program} is not an executable file\n"
    program.unlink()
    assert "does not exist" in said(program, tmp_path)[1]


def test_nothing_is_started(make: Make, tmp_path: Path) -> None:
    program = make(f"#!/bin/sh\necho started >{tmp_path}/started\n")
    assert said(program, os.defpath) == (0, "")
    assert not (tmp_path / "started").exists()
