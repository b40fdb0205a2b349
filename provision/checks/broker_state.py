"""This machine's broker as it runs: its unit, its process, its log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from swarmbus.provision.checks.commands import init, leave_out, start_broker, systemctl_user
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts
from swarmbus.provision.sources.local_broker import LocalBroker
from swarmbus.provision.sources.versions import older

_SECURE: Final = "2.0.11-1.2+deb12u2"
_LIMIT: Final = 4  # DefaultStartLimitBurst= is 5 starts
_FIGHT: Final = 3
_FIGHT_WITHIN: Final = 300.0
_CONFIG_ERROR: Final = "3"
_FILE_ERROR: Final = "13"


def _systemctl(broker: LocalBroker, *words: str) -> str:
    if broker.is_systems:
        return " ".join(["sudo systemctl", *words, "mosquitto.service"])
    return systemctl_user(*words, "swarmbus-broker.service")


@check("broker.installed", "the broker that init chose is installed", scope="host")
def installed(facts: Facts, _: str) -> Iterator[Finding]:
    """By dpkg's own record."""
    spec = facts.spec()
    if spec is None or spec.chosen.get("broker") != "system":
        return
    if facts.dpkg("mosquitto") is None:
        message = "init chose Debian's mosquitto as broker, and it is not installed any more"
        yield Finding(Status.FAIL, message, {"package": "mosquitto"}, (init(facts.agents[0]),))


@check("broker.version-known-bad", "no known hole in the broker's version", scope="host")
def version_known_bad(facts: Facts, _: str) -> Iterator[Finding]:
    """By the package's version: Debian mends old numbers."""
    broker = facts.local_broker()
    version = broker.package() if broker.is_systems else None
    if version is None:
        raise CouldNotLook("the broker is no package of the distribution")
    fix = ("sudo apt-get update && sudo apt-get install --only-upgrade mosquitto",)
    if version.startswith("2.0.11-1.2") and older(version, _SECURE):
        message = f"mosquitto {version} lacks security updates up to {_SECURE} (CVE-2024-8376 and others)"
        yield Finding(Status.FAIL, message, {"version": version, "mended": _SECURE}, fix)
    elif older(version, "2.0"):
        message = (
            f"mosquitto {version}: without a listener this version serves every machine, without passwords"
        )
        yield Finding(Status.WARN, message, {"version": version, "least": "2.0"}, fix)


@check("broker.unit-masked", "the broker's unit is not masked", scope="host")
def unit_masked(facts: Facts, _: str) -> Iterator[Finding]:
    """By LoadState; a masked unit is one that systemd refuses to start."""
    # Masked, it is not loaded, so that local_broker() does not know it.
    unit = facts.mosquitto_unit()
    if unit["LoadState"] == "masked" and facts.dpkg("mosquitto") is not None:
        fix = ("sudo systemctl unmask mosquitto.service && sudo systemctl start mosquitto.service",)
        message = "mosquitto.service is masked: systemd refuses to start it"
        yield Finding(Status.FAIL, message, {"LoadState": "masked"}, fix)


@check("broker.unit-disabled", "the broker starts at boot", scope="host", after=("broker.unit-masked",))
def unit_disabled(facts: Facts, _: str) -> Iterator[Finding]:
    """By UnitFileState."""
    broker, unit = facts.local_broker(), facts.broker_unit()
    state = unit["UnitFileState"]
    if state not in ("enabled", "static", "alias", "linked", "generated"):
        message = f"{unit['Id']} is {state or 'not enabled'}: after a reboot there is no broker"
        yield Finding(Status.WARN, message, {"UnitFileState": state}, (_systemctl(broker, "enable"),))


def _down(facts: Facts) -> dict[str, str]:
    """Its unit, which does not run."""
    unit = dict(facts.broker_unit())
    if unit["ActiveState"] == "active":
        return {}
    return unit


@check(
    "broker.config-invalid",
    "mosquitto takes its configuration",
    scope="host",
    after=("broker.config-duplicate",),
)
def config_invalid(facts: Facts, _: str) -> Iterator[Finding]:
    """Exit status 3, and the line that mosquitto's own words name."""
    broker, unit = facts.local_broker(), _down(facts)
    if not unit or unit["ExecMainStatus"] != _CONFIG_ERROR:
        return
    look = "journalctl --unit mosquitto.service -n 20 --no-pager"
    fix: tuple[str, ...] = (f"sudo {look}",) if broker.is_systems else ()
    why, evidence = "", {"ExecMainStatus": _CONFIG_ERROR}
    try:
        said = "\n".join(one.text for one in (broker.journal() if broker.is_systems else broker.log()))
    except CouldNotLook as error:
        evidence["log"] = str(error)
    else:
        places = re.findall(r"Error found at (/\S+):(\d+)", said)
        reasons = re.findall(r"^Error: (.+)", said, re.MULTILINE)
        if reasons:
            why = f": {reasons[-1]}"
        lines = {(str(one.path), str(one.number)): one for one in broker.configuration().lines}
        # Behind the line itself mosquitto names the one that includes its file.
        line = next((lines[place] for place in reversed(places) if place in lines), None)
        if line is not None:
            evidence["line"] = f"{line.path}:{line.number}"
            fix = (*leave_out(broker, line), *fix)
    place = f" at {evidence['line']}" if "line" in evidence else ""
    yield Finding(
        Status.FAIL, f"mosquitto does not start: its configuration is wrong{place}{why}", evidence, fix
    )


@check(
    "broker.files-unreadable",
    "mosquitto can read its files",
    scope="host",
    consequence_of=("broker.pwfile-perms", "broker.aclfile-perms"),
)
def files_unreadable(facts: Facts, _: str) -> Iterator[Finding]:
    """Exit status 13."""
    broker, unit = facts.local_broker(), _down(facts)
    if unit and unit["ExecMainStatus"] == _FILE_ERROR:
        message = "mosquitto does not start: it cannot read its password or access file"
        look = "sudo journalctl --unit mosquitto.service -n 20 --no-pager"
        yield Finding(
            Status.FAIL, message, {"ExecMainStatus": _FILE_ERROR}, (look,) if broker.is_systems else ()
        )


@check(
    "broker.start-limit",
    "systemd has not given up on the broker",
    scope="host",
    consequence_of=(
        "broker.config-duplicate",
        "broker.config-invalid",
        "broker.files-unreadable",
        "broker.listener-address",
    ),
)
def start_limit(facts: Facts, _: str) -> Iterator[Finding]:
    """By the unit's result; systemd 252 leaves that of the last failure in its place."""
    broker, unit = facts.local_broker(), _down(facts)
    tries = unit.get("Restart") in ("always", "on-failure", "on-abnormal")
    gave_up = unit.get("ActiveState") == "failed" and tries and int(unit.get("NRestarts") or 0) >= _LIMIT
    if unit and (unit["Result"] == "start-limit-hit" or gave_up):
        message = f"{unit['Id']} failed too often in a row, and systemd does not try any more"
        evidence = {name: unit.get(name, "") for name in ("Result", "NRestarts", "ExecMainStatus")}
        yield Finding(Status.FAIL, message, evidence, (start_broker(broker),))


@check("broker.foreign", "the broker on the port is ours", scope="broker", after=("broker.running",))
def foreign(facts: Facts, broker: str) -> Iterator[Finding]:
    """The owner of the socket, against whom the broker of this installation runs as."""
    settings = facts.settings_at(broker)
    if not facts.serves_here(broker):
        raise CouldNotLook("it is another machine's")
    local = facts.local_broker()
    sockets = facts.sockets.on_port(settings.port)
    if not sockets:
        raise CouldNotLook(f"the kernel shows nobody on port {settings.port}")
    # Debian's starts as root, opens its sockets, and becomes mosquitto.
    owners = {0, facts.files.uid("mosquitto")} if local.is_systems else {facts.system.user.uid}
    strangers = sorted({one.uid for one in sockets if one.uid not in owners})
    if strangers and not ({one.uid for one in sockets} & owners):
        message = (
            f"what answers on port {settings.port} belongs to user {strangers[0]}, and not to"
            f" {local.kept if local.kept != 'process' else 'the broker that swarmbus started'}"
        )
        fix = (f"sudo ss -ltnp 'sport = {settings.port}'",)
        yield Finding(Status.FAIL, message, {"owner": strangers[0], "port": settings.port}, fix)


@check("broker.clientid-fight", "no two clients share an id", scope="host")
def clientid_fight(facts: Facts, _: str) -> Iterator[Finding]:
    """Lines of mosquitto's log, of the last five minutes."""
    log = facts.local_broker().log()
    for agent in facts.agents:
        words = f"Client swarmbus-{agent} already connected, closing old connection."
        times = [one.at for one in log if one.text == words and facts.now() - one.at < _FIGHT_WITHIN]
        if len(times) >= _FIGHT:
            message = f"two clients fight for the id swarmbus-{agent}: {len(times)} times in five minutes"
            from_ = [one.text for one in log if f" as swarmbus-{agent} " in one.text][-2:]
            addresses = {found[1] for text in from_ if (found := re.search(r"connected from (\S+)", text))}
            evidence = {"times": len(times), "from": ", ".join(sorted(addresses))}
            yield Finding(Status.FAIL, message, evidence, (), agent)
