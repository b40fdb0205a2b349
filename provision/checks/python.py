"""The Python that runs us."""

from __future__ import annotations

from collections.abc import Iterator

from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import Facts

_LEAST = (3, 11)


@check("python.version", "Python is new enough", scope="host")
def version(facts: Facts, _: str) -> Iterator[Finding]:
    """By the interpreter that runs this."""
    found = ".".join(map(str, facts.python))
    if facts.python < _LEAST:
        wanted = ".".join(map(str, _LEAST))
        yield Finding(Status.FAIL, f"Python {found} runs swarmbus, which needs {wanted}", {"version": found})
