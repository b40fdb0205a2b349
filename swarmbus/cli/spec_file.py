"""``--spec FILE``: what a host should be, as one document in TOML or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from swarmbus.errors import UsageError

if TYPE_CHECKING:
    from swarmbus.provision.request import Request

_LONGEST: Final = 1_000_000

option = click.option("--spec", metavar="FILE", help="What the host should be, in TOML or JSON; - is stdin.")
take = click.option(
    "--take",
    metavar="PATH",
    multiple=True,
    help="In a conflict, replace this file by ours; may be repeated.",
)


def request_of(name: str, taken: tuple[str, ...]) -> Request:
    """The request that a document makes.

    Args:
        name: Of a file; ``-`` for standard input.
        taken: Given by ``--take``.

    Raises:
        UsageError: If it cannot be read or parsed, or a key or value in it is wrong.
    """
    from swarmbus.provision.request import request_from_document  # noqa: PLC0415  # --help loads no engine

    where = "standard input" if name == "-" else name
    return replace(request_from_document(_parse(_read(name), where)), take=frozenset(taken))


def _read(name: str) -> str:
    try:
        with nullcontext(sys.stdin.buffer) if name == "-" else Path(name).expanduser().open("rb") as file:
            data = file.read(_LONGEST + 1)
        if len(data) > _LONGEST:
            raise UsageError(f"--spec {name}: longer than a spec can be ({_LONGEST} bytes)")
        return data.decode()
    except OSError as error:
        raise UsageError(f"--spec {name}: {error.strerror}", hint="name a file, or - for stdin") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--spec {name}: not UTF-8") from error


def _parse(text: str, where: str) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415  # --help has no use for it

    # A TOML document cannot begin with a brace, and a spec in JSON does.
    kind, parse = ("JSON", json.loads) if text.lstrip().startswith("{") else ("TOML", tomllib.loads)
    reader: Callable[[str], Any] = parse
    try:
        document: dict[str, Any] = reader(text)
    except ValueError as error:
        raise UsageError(f"the spec in {where} is no {kind}: {error}", hint="mend that line") from error
    return document
