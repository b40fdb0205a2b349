"""Looking once: what was seen is remembered, and so is that it could not be seen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from swarmbus.errors import StorageError
from swarmbus.provision.system import System

P = ParamSpec("P")
T = TypeVar("T")

_PAUSE = 0.05
"""Seconds between two looks at whether whoever is looking has been left behind."""


class CouldNotLook(Exception):
    """A fact that is not to be had, which is neither good nor bad; the text says why."""


class Rememberer(Protocol):
    """Whatever has a place to remember in."""

    seen: dict[tuple[object, ...], object]


S = TypeVar("S", bound=Rememberer)


class Source:
    """One place that facts come from.

    Args:
        system: The door to the machine; only asked, never told to change anything.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        self.seen: dict[tuple[object, ...], object] = {}


class Looker(threading.Thread):
    """A thread in which a check looks.

    Attributes:
        left_behind: Whether nobody waits for it any longer: it hangs.
    """

    left_behind = False


class _Failed:
    def __init__(self, reason: str) -> None:
        self.reason = reason


class _UnderWay:
    """Some thread is looking; the others wait for it, and do not look too."""

    def __init__(self) -> None:
        self._by = threading.current_thread()
        self.done = threading.Event()

    def wait(self) -> None:
        while not self.done.wait(_PAUSE):
            hangs = isinstance(self._by, Looker) and self._by.left_behind
            if hangs or self._by is threading.current_thread():
                raise CouldNotLook("another check still waits for this")


def probe(look: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Remember what was seen, or that it could not be; arguments have to be hashable."""

    @wraps(look)
    def remembered(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        key = (look.__name__, *args)
        mine = _UnderWay()
        known = self.seen.setdefault(key, mine)
        if known is not mine:
            if isinstance(known, _UnderWay):
                known.wait()
                known = self.seen[key]
            if isinstance(known, _Failed):
                raise CouldNotLook(known.reason)
            return known  # type: ignore[return-value]  # what `look` returned for this key
        try:
            found = look(self, *args, **kwargs)
        except (CouldNotLook, StorageError) as error:
            self.seen[key] = _Failed(str(error))
            raise CouldNotLook(str(error)) from error
        except BaseException as error:
            self.seen[key] = _Failed(f"this could not be found out ({type(error).__name__})")
            raise
        else:
            self.seen[key] = found
            return found
        finally:
            mine.done.set()

    return remembered
