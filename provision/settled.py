"""Settled: what was asked of this host when nothing had to be changed on it, to be asked again the next time.

Planning is reading and then deciding, without chance: the same code, the same request and the same answers
give the same plan. So what a run that changed nothing has asked is kept with the digest of each answer, as
``.provision/settled.json``. The next run with the same request asks all of it again, and where every answer
is the same it has its plan without rendering or parsing anything.

Only what is quick to import is imported here: this is read before the engine is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from swarmbus import version

if TYPE_CHECKING:
    from swarmbus.provision.system import System

_NAME: Final = "settled.json"
_ASKING: Final = frozenset(
    {"which", "run", "stat", "read", "list", "may_write", "dial", "lock_holder", "process", "boot_id"}
    | {"root_access"}
)
_KNOWN: Final = frozenset({"environ", "user", "hostname"})
"""What goes into the key, for it is the same throughout a run."""


class Noting:
    """Notes what is asked of the `System` behind it; `as_system` is handed on in that one's place."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._noted: dict[str, str] = {}
        self._more = False

    @property
    def as_system(self) -> System:
        """Itself: it has all that a `System` has."""
        return cast("System", self)

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._system, name)
        if name in _KNOWN:
            return member
        if name not in _ASKING:
            self._more = True  # it does more than to look, or answers differently each time
            return member

        def ask(*given: Any, **named: Any) -> Any:
            answer = member(*given, **named)
            self._noted[_question(name, given, named)] = _digest(answer)
            return answer

        return ask

    @property
    def noted(self) -> Mapping[str, str] | None:
        """Each question and the digest of its answer; None if more was done than looking."""
        return None if self._more else dict(self._noted)


def remember(
    system: System, folder: Path, request: object, noted: Mapping[str, str], document: Mapping[str, Any]
) -> None:
    """Keep what was asked.

    Args:
        request: What the run was for, in anything that has a stable ``repr``.
        noted: By a `Noting` system.
        document: What it said, to be said again.
    """
    kept = {"key": _key(system, request), "asked": dict(noted), "document": dict(document)}
    system.write_file(folder / _NAME, json.dumps(kept).encode(), mode=0o600)


def recall(system: System, folder: Path, request: object) -> dict[str, Any] | None:
    """What the run before said, if everything is as it was then; None if not, or if nobody knows."""
    data = system.read(folder / _NAME)
    try:
        kept = json.loads(data) if data is not None else {}
        if kept.get("key") != _key(system, request):
            return None
        questions: dict[str, str] = kept["asked"]
        programs = [question for question in questions if question.startswith('["run"')]
        # What waits for other processes is asked at once; files afterwards: see `acting.starting_a_child`.
        with ThreadPoolExecutor(max(1, len(programs))) as pool:
            answers = list(pool.map(lambda question: _ask_again(system, question), programs))
        if [questions[question] for question in programs] != answers:
            return None
        for question in questions.keys() - programs:
            if _ask_again(system, question) != questions[question]:
                return None
    except Exception:
        return None  # whatever cannot be asked is not as it was; the long way says what is the matter
    document: dict[str, Any] = kept["document"]
    return document


def _ask_again(system: System, question: str) -> str:
    name, given, named = json.loads(question)
    ask: Callable[..., Any] = getattr(system, name)
    return _digest(ask(*_back(given), **_back(named)))


def _key(system: System, request: object) -> str:
    environ = {
        name: value
        for name, value in system.environ.items()
        if name.startswith(("SWARMBUS_", "XDG_", "SUDO_")) or name in ("HOME", "PATH", "NO_COLOR")
    }
    parts = (repr(request), sorted(environ.items()), system.user, system.hostname, sys.executable, _code())
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _code() -> list[tuple[str, int, int, int]]:
    """What is installed, by what the file system says of each file; no installer can choose ``ctime``."""
    files = []
    for folder, _, names in os.walk(Path(version.__file__).parent, followlinks=True):
        for name in names:
            if name.endswith((".py", ".j2", ".sh")):
                seen = os.stat(f"{folder}/{name}")  # noqa: PTH116  # a hundred and fifty of them
                files.append((f"{folder}/{name}", seen.st_size, seen.st_ino, seen.st_ctime_ns))
    return sorted(files)


def _question(name: str, given: Sequence[Any], named: Mapping[str, Any]) -> str:
    return json.dumps([name, _plain(list(given)), _plain(dict(named))], sort_keys=True)


def _plain(value: Any) -> Any:
    """In JSON."""
    match value:
        case Path():
            return {"path": str(value)}
        case bytes():
            return {"bytes": value.decode("latin-1")}
        case list() | tuple():
            return [_plain(one) for one in value]
        case dict():
            return {"dict": [[key, _plain(one)] for key, one in value.items()]}
        case _:
            return value


def _back(value: Any) -> Any:
    match value:
        case {"path": str(path)}:
            return Path(path)
        case {"bytes": str(text)}:
            return text.encode("latin-1")
        case {"dict": list(pairs)}:
            return {key: _back(one) for key, one in pairs}
        case list():
            return [_back(one) for one in value]
        case _:
            return value


def _digest(answer: object) -> str:
    return hashlib.sha256(repr(answer).encode("utf-8", "surrogateescape")).hexdigest()
