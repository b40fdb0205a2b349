"""The code that runs, against the code that is installed."""

from __future__ import annotations

from collections.abc import Iterator

from swarmbus.provision.checks.commands import restart_listener
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import Facts


@check("code.stale-daemon", "the listener runs the installed code", after=("agent.listener-running",))
def stale_daemon(facts: Facts, agent: str) -> Iterator[Finding]:
    """The fingerprint the daemon took when it started, against one taken now."""
    status = facts.status(agent)
    evidence = {
        "running": status.get("fingerprint"),
        "installed": facts.fingerprint(),
        "running version": status.get("version"),
        "installed version": facts.version,
    }
    if evidence["running"] == evidence["installed"]:
        return
    if evidence["running version"] != evidence["installed version"]:
        old, new = evidence["running version"], evidence["installed version"]
        message = f"its listener still runs swarmbus {old}; {new} is installed"
    else:
        message = f"its listener runs other code than what is installed, both called {facts.version}"
    yield Finding(Status.FAIL, message, evidence, restart_listener(facts, agent))
