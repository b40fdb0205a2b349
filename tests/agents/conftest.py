"""What is special about this folder: programs from npm, as users run them. `make test-agents` runs it."""

from __future__ import annotations

import shutil

import pytest

from tests.lab.npm_programs import npm_environment


@pytest.fixture(autouse=True)
def npm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their Node.js on the path."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    for name, value in npm_environment().items():
        monkeypatch.setenv(name, value)
