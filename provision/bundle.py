"""Bundle: what a doctor's run has seen, in one readable file, for somebody to look at elsewhere.

::

    report, text = make_bundle(LocalSystem(), facts, run, hash_names=False)
    report = run(open_bundle(text).facts())     # the same report
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from swarmbus.config import Settings
from swarmbus.errors import UsageError
from swarmbus.provision.answers import from_json, to_json
from swarmbus.provision.facts import Facts
from swarmbus.provision.layout import Layout
from swarmbus.provision.recording import Tape, recording, replaying
from swarmbus.provision.redaction import Names, Redaction
from swarmbus.provision.report import Report

SCHEMA: Final = "swarmbus.bundle/1"

Run = Callable[[Facts], Report]


@dataclass(frozen=True)
class Bundle:
    """An opened one.

    Attributes:
        seconds: How long the run took that it was made by.
    """

    document: Mapping[str, Any]
    layout: Layout
    settings: Mapping[str, Settings]

    @property
    def seconds(self) -> float:
        """How long the run took that it was made by."""
        return float(self.document["seconds"])

    def facts(self) -> Facts:
        """As they were there and then."""
        said = self.document
        system, bus = replaying(Tape(said["answers"]))
        facts = Facts(
            system,
            bus,
            layout=self.layout,
            settings=self.settings,
            **{name: from_json(value) for name, value in said["inputs"].items()},
            fingerprint=lambda: str(said["fingerprint"]),
            clock=lambda: float(said["time"]),
        )
        facts.version = str(said["version"])
        return facts


def make_bundle(facts: Facts, run: Run, *, hash_names: bool) -> tuple[Report, str]:
    """Run the checks with a tape running.

    Args:
        facts: Fresh ones, of this host.

    Returns:
        The report, by what was kept, and the file's text.
    """
    redaction = Redaction.of(facts.system, facts.layout, facts.settings)
    tape = Tape()
    system, bus = recording(facts.system, facts.bus, tape, redaction, facts.settings)
    fingerprint, now = facts.fingerprint(), facts.now()
    told = Facts(
        system,
        bus,
        layout=facts.layout,
        settings={agent: redaction.settings(own) for agent, own in facts.settings.items()},
        **_inputs(facts),
        fingerprint=lambda: fingerprint,
        clock=lambda: now,
    )
    report = run(told)
    _ = system.user, system.hostname, system.environ  # whatever was asked, this belongs to a host
    document: Any = {
        "schema": SCHEMA,
        "version": facts.version,
        "fingerprint": fingerprint,
        "inputs": {name: to_json(value) for name, value in _inputs(facts).items()},
        "time": now,
        "seconds": report.seconds,
        "layout": _layout_to_json(facts.layout, redaction),
        "settings": {agent: _settings_to_json(own) for agent, own in told.settings.items()},
        "answers": tape.answers,
    }
    if hash_names:
        names = Names(_names(facts, tape), os.urandom(16))
        document["settings"] = {names.hide(agent): own for agent, own in document["settings"].items()}
        document["answers"] = {_hidden(key, names): given for key, given in tape.answers.items()}
        document = names.hide(document)
    return report, json.dumps(document, indent=1) + "\n"


def open_bundle(text: str) -> Bundle:
    """Open one; nothing in it is believed to be more than data.

    Raises:
        UsageError: If it is none, or of another version's making.
    """
    try:
        document = json.loads(text)
        if document["schema"] != SCHEMA:
            raise UsageError(f"a bundle of another kind: {document['schema']!r}, this reads {SCHEMA}")
        places = {name: Path(place) for name, place in document["layout"].items() if name != "environment"}
        moved = tuple((str(name), str(value)) for name, value in document["layout"]["environment"])
        settings = {agent: Settings(**own) for agent, own in document["settings"].items()}
        bundle = Bundle(document, Layout(**places, environment=moved), settings)
        bundle.facts()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"this is no bundle ({type(error).__name__}: {error})",
            hint="make one: swarmbus doctor --bundle FILE",
        ) from error
    return bundle


def examine(bundle: Bundle, run: Run) -> Report:
    """The report of the run that it was made by."""
    return replace(run(bundle.facts()), seconds=bundle.seconds)


def _inputs(facts: Facts) -> dict[str, Any]:
    """What `Facts` are made of besides the doors, and keep under the same name: the Python that runs us."""
    apart = {"self", "system", "bus", "layout", "settings", "fingerprint", "clock"}
    names = [name for name in inspect.signature(Facts.__init__).parameters if name not in apart]
    return {name: getattr(facts, name) for name in names}


def _settings_to_json(own: Settings) -> dict[str, Any]:
    return {**asdict(replace(own, sources={})), "sources": dict(own.sources)}


def _layout_to_json(layout: Layout, redaction: Redaction) -> dict[str, Any]:
    places = {name: str(place) for name, place in vars(layout).items() if name != "environment"}
    return {**places, "environment": redaction.walk([list(pair) for pair in layout.environment])}


def _hidden(key: str, names: Names) -> str:
    """A question that asks for nobody by name; what it is called stays."""
    question, *asked = json.loads(key)
    return json.dumps([question, *names.hide(asked)], sort_keys=True)


def _names(facts: Facts, tape: Tape) -> dict[str, set[str]]:
    """Whatever names somebody: of agents and hosts also those that answers speak of."""
    agents, hosts = set(facts.agents), {facts.system.hostname}
    hosts |= {own.broker for own in facts.settings.values() if not facts.is_here(own.broker)}
    users = {facts.system.user.name} | {own.username for own in facts.settings.values() if own.username}
    for given in tape.answers.values():
        _collect(given, agents, hosts)
    return {"user": users - {"root"}, "host": hosts, "agent": agents - {"broadcast"}}


def _collect(value: Any, agents: set[str], hosts: set[str]) -> None:
    if isinstance(value, list):
        if len(value) == 2 and value[0] in ("agent", "host") and isinstance(value[1], str):
            (agents if value[0] == "agent" else hosts).add(value[1])
        for one in value:
            _collect(one, agents, hosts)
    elif isinstance(value, dict):
        for name, one in value.items():
            if name in ("agent", "agent_id", "to") and isinstance(one, str):
                agents.add(one)
            elif name == "host" and isinstance(one, str):
                hosts.add(one)
            _collect(one, agents, hosts)
