"""What the configuration of this machine's mosquitto says, whether it runs or not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from swarmbus.provision.checks.commands import leave_out, set_option, start_broker
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts
from swarmbus.provision.mosquitto import CONF_D, MAIN_CONFIG, OUR_FILE, Line
from swarmbus.provision.sources.versions import older

# Set twice, these end mosquitto with status 3 (2.0.11, 2.0.21: "Duplicate … value in configuration").
_ONCE: Final = ("persistence_location", "persistence_file", "pid_file", "user", "acl_file", "password_file")
_LISTENERS_OWN: Final = ("acl_file", "password_file")
_LONGEST_WINDOW: Final = 60
_LEAST_MESSAGE: Final = 131_072
_FEW: Final = 1000
_EXPIRY: Final = {"h": 1 / 24, "d": 1, "w": 7, "m": 30, "y": 365}


def _where(line: Line) -> str:
    return f"{line.path}:{line.number}"


@check("broker.config-duplicate", "no option is said twice", scope="host")
def config_duplicate(facts: Facts, _: str) -> Iterator[Finding]:
    """Options that mosquitto takes once, over all the files that it reads."""
    broker = facts.local_broker()
    found: dict[str, list[Line]] = {}
    for line in broker.configuration().lines:
        option = line.option
        if option == "log_dest" and line.value.startswith("file "):
            option = "log_dest file"
        elif option not in _ONCE or (option in _LISTENERS_OWN and broker.on("per_listener_settings")):
            continue
        found.setdefault(option, []).append(line)
    for option, lines in found.items():
        if len(lines) > 1:
            places = " and ".join(map(_where, lines))
            message = f"{option} stands in {places}: mosquitto refuses to start with both"
            ours = next((line for line in lines if line.path == OUR_FILE), lines[-1])
            yield Finding(Status.FAIL, message, {option: places}, leave_out(broker, ours), option)


@check("broker.conf-ignored", "all files in conf.d are read", scope="host")
def conf_ignored(facts: Facts, _: str) -> Iterator[Finding]:
    """Names that do not end in .conf."""
    names = [one for one in facts.local_broker().conf_d() if not one.endswith(".conf") and one != "README"]
    if names:
        message = f"mosquitto does not read {', '.join(names)} in {CONF_D}: only names in .conf"
        yield Finding(Status.INFO, message, {"files": names})


@check("broker.conf-d-unread", "mosquitto reads what we have written", scope="host")
def conf_d_unread(facts: Facts, _: str) -> Iterator[Finding]:
    """Whether the main file includes the folder of ours."""
    broker = facts.local_broker()
    if (
        broker.is_systems
        and facts.stat(OUR_FILE) is not None
        and CONF_D not in broker.configuration().folders
    ):
        message = f"{MAIN_CONFIG} does not include {CONF_D}: nothing in {OUR_FILE} counts"
        add = f"echo 'include_dir {CONF_D}' | sudo tee -a {MAIN_CONFIG} && {start_broker(broker)}"
        yield Finding(Status.FAIL, message, {"file": str(OUR_FILE)}, (add,))


@check("broker.per-listener-settings", "listeners share their rules", scope="host")
def per_listener_settings(facts: Facts, _: str) -> Iterator[Finding]:
    """By the option of that name, which 2.1 deprecates."""
    broker = facts.local_broker()
    line = broker.line("per_listener_settings")
    if line is not None and broker.on("per_listener_settings"):
        message = (
            f"{_where(line)} switches per_listener_settings on: rules outside of a listener count for none"
        )
        yield Finding(Status.WARN, message, {"line": _where(line)}, leave_out(broker, line))


@check("broker.persistence-off", "the broker keeps what it has over a restart", scope="host")
def persistence_off(facts: Facts, _: str) -> Iterator[Finding]:
    """By the option persistence, which mosquitto leaves off where nothing says otherwise."""
    broker = facts.local_broker()
    if broker.configuration().lines and not broker.on("persistence"):
        message = "persistence is off: a restart of the broker forgets sessions, queues and presence"
        evidence = {"persistence": line.value if (line := broker.line("persistence")) else None}
        yield Finding(Status.FAIL, message, evidence, set_option(broker, "persistence", "true"))


@check(
    "broker.autosave-window", "the broker saves often enough", scope="host", after=("broker.persistence-off",)
)
def autosave_window(facts: Facts, _: str) -> Iterator[Finding]:
    """autosave_interval in seconds, unless autosave_on_changes makes it a number of changes."""
    broker = facts.local_broker()
    interval = broker.number("autosave_interval", 1800)
    if broker.on("autosave_on_changes") or 0 < interval <= _LONGEST_WINDOW:
        return
    much = f"what came in the last {interval} s" if interval else "all since its start"
    message = f"a broker that is killed forgets {much}, sessions too"
    fix = set_option(broker, "autosave_interval", "30")
    yield Finding(Status.WARN, message, {"autosave_interval": interval}, fix)


@check("broker.session-expiry", "sessions outlive a weekend", scope="host")
def session_expiry(facts: Facts, _: str) -> Iterator[Finding]:
    """By persistent_client_expiration: a number and a letter."""
    broker = facts.local_broker()
    line = broker.line("persistent_client_expiration")
    found = re.fullmatch(r"(\d+)([hdwmy])", line.value) if line is not None else None
    if line is not None and found is not None and (days := int(found[1]) * _EXPIRY[found[2]]) < 3:
        message = f"an agent that is away for {line.value} ({days:.1f} days) loses what is queued for it"
        fix = set_option(broker, line.option, "2m")
        yield Finding(Status.WARN, message, {line.option: line.value, "line": _where(line)}, fix)


@check("broker.queue-limit", "the broker queues enough", scope="host")
def queue_limit(facts: Facts, _: str) -> Iterator[Finding]:
    """By max_queued_messages; mosquitto's own default is 1000 a client."""
    broker = facts.local_broker()
    limit = broker.number("max_queued_messages", _FEW)
    version = (broker.package() or "") if broker.is_systems else ""
    # 2.0.17 to 2.0.21 count nothing as unlimited (ChangeLog.txt of 2.0.22)
    misread = limit == 0 and not older(version, "2.0.17") and older(version, "2.0.22")
    if 0 < limit < _FEW or misread:
        much = "none, in this version," if misread else f"{limit} messages"
        message = f"the broker queues {much} for an agent that is away, and drops what comes then"
        fix = set_option(broker, "max_queued_messages", "100000")
        yield Finding(Status.WARN, message, {"max_queued_messages": limit, "version": version}, fix)


@check("broker.size-limit", "the broker takes a message of full length", scope="host")
def size_limit(facts: Facts, _: str) -> Iterator[Finding]:
    """By message_size_limit and max_packet_size; a body of 64 KiB grows when it is written as JSON."""
    broker = facts.local_broker()
    for option in ("message_size_limit", "max_packet_size"):
        limit = broker.number(option, 0)
        if 0 < limit < _LEAST_MESSAGE:
            message = f"{option} is {limit} bytes: long messages are refused"
            fix = set_option(broker, option, "0" if option == "message_size_limit" else "2000000")
            yield Finding(Status.WARN, message, {option: limit}, fix, option)


@check("broker.config-stale", "the broker runs with its configuration as it is", scope="host")
def config_stale(facts: Facts, _: str) -> Iterator[Finding]:
    """The newest of its files against its start."""
    broker, pid = facts.local_broker(), facts.broker_pid()
    if pid is None:
        raise CouldNotLook("the broker does not run")
    started = facts.processes.started(pid)
    times = {path: _modified(facts, path) for path in {line.path for line in broker.configuration().lines}}
    newer = sorted(str(path) for path, at in times.items() if at > started + 1.0)
    if newer:
        message = f"{', '.join(newer)} was changed after the broker had started"
        ago = round(facts.now() - max(times.values()))
        yield Finding(Status.WARN, message, {"changed_s_ago": ago}, (start_broker(broker),))


def _modified(facts: Facts, path: Path) -> float:
    seen = facts.files.followed(path)
    return seen.modified if seen is not None else 0.0
