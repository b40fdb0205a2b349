"""Recording: the two doors with a tape running, and the tape in place of the doors.

What checks ask for is kept with its answer, whatever it is; a new check, or a new method of a door, needs
nothing here. A question that was never asked is, later, one that could not be looked into.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from swarmbus.config import Settings
from swarmbus.errors import StorageError, SwarmbusError
from swarmbus.provision.answers import NotRecordable, from_json, to_json
from swarmbus.provision.bus import Bus
from swarmbus.provision.facts import CouldNotLook
from swarmbus.provision.redaction import Redaction
from swarmbus.provision.system import System


class NotOnTheTape(CouldNotLook, StorageError):
    """Nobody asked this where the tape was made."""

    def __init__(self, question: str) -> None:
        super().__init__(f"{question} is not in the bundle")
        self.message = str(self)
        self.hint = None


class Tape:
    """Questions and, for each, what was answered the first time it was asked, the second time, and so on."""

    def __init__(self, answers: Mapping[str, Sequence[Any]] | None = None) -> None:
        self.answers: dict[str, list[Any]] = {key: list(given) for key, given in (answers or {}).items()}
        self._played: dict[str, int] = {}
        self._lock = threading.Lock()

    def keep(self, key: str, answer: Any) -> None:
        """One more answer, in JSON."""
        with self._lock:
            self.answers.setdefault(key, []).append(answer)

    def play(self, key: str) -> Any:
        """The next answer; after the last one, that again.

        Raises:
            NotOnTheTape: If there is none.
        """
        with self._lock:
            given = self.answers.get(key)
            if not given:
                raise NotOnTheTape(key)
            turn = self._played.get(key, 0)
            self._played[key] = turn + 1
            return given[min(turn, len(given) - 1)]


def recording(
    system: System, bus: Bus, tape: Tape, redaction: Redaction, settings: Mapping[str, Settings]
) -> tuple[System, Bus]:
    """Both doors, with the tape running.

    Args:
        settings: With passwords, for whoever has to connect; checks have the redacted ones.
    """
    machine = _Recorder("system", system, tape, redaction, settings)
    network = _Recorder("bus", bus, tape, redaction, settings)
    return cast("System", machine), cast("Bus", network)


def replaying(tape: Tape) -> tuple[System, Bus]:
    """Both doors as they were."""
    return cast("System", _Player("system", tape)), cast("Bus", _Player("bus", tape))


class _Recorder:
    def __init__(
        self,
        name: str,
        door: System | Bus,
        tape: Tape,
        redaction: Redaction,
        settings: Mapping[str, Settings],
    ) -> None:
        self._name = name
        self._door = door
        self._tape = tape
        self._redaction = redaction
        self._settings = settings

    def __getattr__(self, question: str) -> Any:
        member = getattr(self._door, question)
        if not callable(member):
            return self._told(question, (), {}, lambda: member)

        def ask(*given: Any, **named: Any) -> Any:
            real, real_named = self._with_passwords(given), self._with_passwords(named)
            return self._told(question, given, named, lambda: member(*real, **real_named))

        return ask

    def _told(
        self, question: str, given: tuple[Any, ...], named: Mapping[str, Any], look: Callable[[], Any]
    ) -> Any:
        """What is answered, as it will be answered from the tape."""
        failure: BaseException | None = None
        try:
            answer = look()
        except (SwarmbusError, OSError) as error:
            answer = failure = error
        try:
            key = _key(self._name, question, given, named)
            told = self._redaction.answer(question, given, to_json(answer))
        except NotRecordable:
            if failure is not None:
                raise failure from None
            return answer
        self._tape.keep(key, told)
        return _given_back(told)

    def _with_passwords(self, value: Any) -> Any:
        if isinstance(value, Settings):
            return self._settings.get(value.agent_id or "", value)
        if isinstance(value, tuple):
            return tuple(self._with_passwords(one) for one in value)
        if isinstance(value, dict):
            return {name: self._with_passwords(one) for name, one in value.items()}
        return value


class _Player:
    def __init__(self, name: str, tape: Tape) -> None:
        self._name = name
        self._tape = tape

    def __getattr__(self, question: str) -> Any:
        if question in ("environ", "user", "hostname"):
            return _given_back(self._tape.play(_key(self._name, question, (), {})))

        def ask(*given: Any, **named: Any) -> Any:
            try:
                key = _key(self._name, question, given, named)
            except NotRecordable as error:
                raise NotOnTheTape(f"{self._name}.{question}") from error
            return _given_back(self._tape.play(key))

        return ask


_PLAIN = Redaction()


def _key(door: str, question: str, given: Sequence[Any], named: Mapping[str, Any]) -> str:
    """What is asked comes from what was answered, and is as clean; the rest goes by its patterns."""
    asked = _PLAIN.walk([to_json(list(given)), to_json(dict(sorted(named.items())))])
    return json.dumps([f"{door}.{question}", *asked], sort_keys=True)


def _given_back(told: Any) -> Any:
    answer = from_json(told)
    if isinstance(answer, BaseException):
        raise answer
    return answer
