"""The machine: its clock, its power, and the kernel's limits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Final

from swarmbus.provision.checks.commands import restart_listener
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts
from swarmbus.provision.supervisors.units import agent_unit

_SKEW_WARNS: Final = 5.0
_SKEW_FAILS: Final = 60.0
_INOTIFY: Final = Path("/proc/sys/fs/inotify/max_user_instances")
_MUCH: Final = 0.8


@check("host.clock-unsynced", "the clock is kept right", scope="host")
def clock_unsynced(facts: Facts, _: str) -> Iterator[Finding]:
    """By the kernel's own word, through timedatectl; a Raspberry Pi has no clock of its own."""
    if not facts.has_systemd():
        raise CouldNotLook("systemd does not run here")
    if facts.stat(Path("/run/systemd/container")) is not None:
        raise CouldNotLook("the clock belongs to the machine around this container")
    shown = facts.system.run(["timedatectl", "show", "--property=NTPSynchronized", "--value"], timeout=3.0)
    word = shown.stdout.strip()
    if not shown.ok or word not in ("yes", "no"):
        raise CouldNotLook(f"timedatectl: {shown.stderr.strip() or 'no answer'}")
    if word == "no":
        message = "the clock is set by nobody: times of messages, and certificates, may be judged wrongly"
        yield Finding(Status.WARN, message, {"NTPSynchronized": word}, ("sudo timedatectl set-ntp true",))


@check(
    "host.clock-skew", "this clock and those of other hosts agree", scope="broker", after=("mqtt.connect",)
)
def clock_skew(facts: Facts, broker: str) -> Iterator[Finding]:
    """By presence of other hosts that was given at a time which is still to come."""
    presences = facts.visit(broker).presences
    if presences is None:
        raise CouldNotLook("the broker does not let us read presence")
    here = facts.system.hostname
    ahead = {}
    for one in presences.values():
        if one.ts is not None and one.host not in (None, here):
            ahead[one.host] = datetime.fromisoformat(one.ts).timestamp() - facts.now()
    early = {host: seconds for host, seconds in ahead.items() if seconds > _SKEW_WARNS}
    if not early:
        return
    much = median(early.values())
    evidence = {f"{host}_ahead_s": round(seconds, 1) for host, seconds in early.items()}
    whose = (
        "this clock is slow"
        if len(early) == len(ahead)
        else f"the clock of {', '.join(map(str, early))} is fast"
    )
    message = f"{len(early)} of {len(ahead)} other hosts are {much:.0f} s ahead: {whose}"
    status = Status.FAIL if much > _SKEW_FAILS else Status.WARN
    yield Finding(status, message, evidence, ("sudo systemctl restart systemd-timesyncd.service",))


@check("host.undervoltage", "the power supply is strong enough", scope="host")
def undervoltage(facts: Facts, _: str) -> Iterator[Finding]:
    """The Raspberry Pi's firmware: bit 0 is now, bit 16 since boot."""
    program = facts.system.which("vcgencmd")
    if program is None:
        raise CouldNotLook("this is no Raspberry Pi, or vcgencmd is not installed")
    shown = facts.system.run([str(program), "get_throttled"], timeout=3.0)
    found = re.match(r"throttled=(0x[0-9a-fA-F]+)", shown.stdout)
    if found is None:
        raise CouldNotLook(f"vcgencmd: {shown.stderr.strip() or shown.stdout.strip() or 'no answer'}")
    bits = int(found[1], 16)
    if bits & 0x10001:
        when = "now" if bits & 1 else "since boot"
        message = f"the power supply was too weak {when}: the machine slows down, and SD cards get damaged"
        yield Finding(Status.WARN, message, {"throttled": found[1]})


@check("host.oom-kill", "there is memory enough", consequence_of=("systemd.unit-missing",))
def oom_kill(facts: Facts, agent: str) -> Iterator[Finding]:
    """By the unit's result, and what the kernel has counted in its control group."""
    if not facts.supervision(agent).startswith("systemd"):
        raise CouldNotLook(f"{agent} has no unit")
    unit, name = facts.unit(agent), agent_unit(agent)
    events = facts.files.text(Path(f"/sys/fs/cgroup{unit.get('ControlGroup', '')}/memory.events")) or ""
    found = re.search(r"^oom_kill (\d+)", events, re.MULTILINE)
    killed = int(found[1]) if found and unit.get("ControlGroup") else 0
    if killed or unit["Result"] == "oom-kill":
        message = f"the kernel has killed a process of {name} because there was no memory left"
        evidence = {"Result": unit["Result"], "oom_kill": killed, "MemoryMax": unit.get("MemoryMax", "")}
        yield Finding(Status.FAIL, message, evidence, restart_listener(facts, agent))


@check("host.inotify", "files can be watched", scope="host")
def inotify(facts: Facts, _: str) -> Iterator[Finding]:
    """Instances of this user against the kernel's limit."""
    text = facts.files.text(_INOTIFY)
    if text is None:
        raise CouldNotLook(f"there is no {_INOTIFY}")
    used, most = facts.processes.inotify_instances(), int(text)
    if used > most * _MUCH:
        message = (
            f"{facts.system.user.name} has {used} of {most} inotify instances: `tail` and `watch` will fail"
        )
        setting = "fs.inotify.max_user_instances=1024"
        fix = f"echo {setting} | sudo tee /etc/sysctl.d/60-inotify.conf && sudo sysctl {setting}"
        yield Finding(Status.WARN, message, {"used": used, "limit": most}, (fix,))


@check("host.fd-limit", "the broker may have connections enough", scope="host", timeout=25.0)
def fd_limit(facts: Facts, _: str) -> Iterator[Finding]:
    """Its limit of open files against the clients that it has."""
    pid = facts.broker_pid()
    if pid is None:
        raise CouldNotLook("the broker does not run")
    limit = facts.processes.open_files_limit(pid)
    here = [broker for broker in facts.brokers() if facts.serves_here(broker)]
    counts = [
        count for one in here if (count := facts.sys_topics(one).number("clients/connected")) is not None
    ]
    if not counts:
        raise CouldNotLook("the broker does not tell how many clients it has")
    clients = int(max(counts))
    if limit < 2 * clients + 64:
        message = f"the broker may have {limit} open files, and has {clients} clients already"
        edit = "sudo mkdir -p /etc/systemd/system/mosquitto.service.d"
        lines = r"printf '[Service]\nLimitNOFILE=65536\n'"
        write = f"{lines} | sudo tee /etc/systemd/system/mosquitto.service.d/limit.conf"
        again = "sudo systemctl daemon-reload && sudo systemctl restart mosquitto.service"
        fix = (f"{edit} && {write} && {again}",) if facts.local_broker().is_systems else ()
        yield Finding(Status.WARN, message, {"limit": limit, "clients": clients}, fix)


@check("host.journal-volatile", "logs outlive a reboot", scope="host")
def journal_volatile(facts: Facts, _: str) -> Iterator[Finding]:
    """journald keeps its files in /var/log/journal if that is there, else in memory."""
    if not facts.has_systemd():
        raise CouldNotLook("systemd does not run here")
    kept = Path("/var/log/journal")
    if facts.stat(kept) is None:
        make = f"sudo mkdir -p {kept} && sudo systemd-tmpfiles --create --prefix {kept}"
        fix = f"{make} && sudo systemctl restart systemd-journald.service"
        message = f"there is no {kept}: after a crash and a reboot no log tells why"
        yield Finding(Status.INFO, message, {"folder": str(kept)}, (fix,))


@check("host.memory", "there is memory left", scope="host")
def memory(facts: Facts, _: str) -> Iterator[Finding]:
    """What the kernel says could be had without swapping."""
    text = facts.files.text(Path("/proc/meminfo")) or ""
    values = {name: int(value) for name, value in re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE)}
    if not values.get("MemTotal") or "MemAvailable" not in values:
        raise CouldNotLook("/proc/meminfo does not say how much memory there is")
    total, free = values["MemTotal"] >> 10, values["MemAvailable"] >> 10
    if free < 32 or free < total * 0.03:
        message = f"{free} of {total} MiB of memory are left: the next wake command may be killed"
        yield Finding(
            Status.WARN,
            message,
            {"free_mib": free, "total_mib": total},
            ("ps -eo rss,args --sort -rss | head",),
        )
