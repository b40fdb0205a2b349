"""The Pythons: the one that runs us, and those that run the listener daemons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from swarmbus.provision.checks.commands import init
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts

_LEAST = (3, 11)
_DEBIAN = Path("/var/lib/dpkg/info/python3-swarmbus.list")


@check("python.version", "Python is new enough", scope="host")
def version(facts: Facts, _: str) -> Iterator[Finding]:
    """By the interpreter that runs this."""
    found = ".".join(map(str, facts.python))
    if facts.python < _LEAST:
        wanted = ".".join(map(str, _LEAST))
        yield Finding(Status.FAIL, f"Python {found} runs swarmbus, which needs {wanted}", {"version": found})


@check("python.system-packages", "swarmbus has an environment of its own", scope="host")
def system_packages(facts: Facts, _: str) -> Iterator[Finding]:
    """By pyvenv.cfg beside the interpreter, and PEP 668's mark in its library."""
    if facts.pythons.environment(facts.interpreter) is not None or facts.stat(_DEBIAN) is not None:
        return
    real = facts.files.real(facts.interpreter)
    mark = real.parent.parent / "lib" / real.name / "EXTERNALLY-MANAGED" if real is not None else None
    if mark is not None and facts.stat(mark) is not None:
        message = f"swarmbus was forced into the distribution's {real}, whose next upgrade may break it"
        fix = ("pipx install swarmbus && ~/.local/bin/swarmbus init --yes",)
        yield Finding(Status.WARN, message, {"interpreter": str(real), "mark": str(mark)}, fix)


@check("python.interpreter-missing", "the listener's Python is there")
def interpreter_missing(facts: Facts, agent: str) -> Iterator[Finding]:
    """The links from its environment to the interpreter, followed to their end."""
    python = _program(facts, agent)
    environment = facts.pythons.environment(python)
    if environment is not None and environment.interpreter is None:
        seen = facts.stat(python)
        message = f"{python}, which runs the listener, leads to no Python any more"
        evidence = {"python": str(python), "link": seen.target if seen is not None else None}
        yield Finding(Status.FAIL, message, evidence, (init(agent),))


@check(
    "python.venv-version",
    "the listener's environment fits its Python",
    after=("python.interpreter-missing",),
)
def venv_version(facts: Facts, agent: str) -> Iterator[Finding]:
    """The version in the interpreter's name against the one that its packages were installed for."""
    python = _program(facts, agent)
    environment = facts.pythons.environment(python)
    if environment is None or environment.packages is None or not environment.version:
        return
    for_version = environment.packages.parent.name.removeprefix("python")
    if for_version != environment.version:
        message = (
            f"{python} is Python {environment.version} now, and its packages are for {for_version}:"
            " the distribution was upgraded"
        )
        evidence = {"interpreter": str(environment.interpreter), "packages": str(environment.packages)}
        yield Finding(Status.FAIL, message, evidence, (init(agent),))


def _program(facts: Facts, agent: str) -> Path:
    program = facts.program_of(agent)
    if program is None:
        raise CouldNotLook(f"there is no telling which program runs {agent}")
    return program
