"""A healthy host for the doctor, made of canned facts, to be broken one thing at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from swarmbus.config import Settings
from swarmbus.errors import SwarmbusError, TimedOut
from swarmbus.presence import Presence
from swarmbus.provision.bus import Visit
from swarmbus.provision.canary import HOPS, CanaryResult
from swarmbus.provision.checks import CHECKS
from swarmbus.provision.doctor import Report, Result, choose, run_checks
from swarmbus.provision.facts import Facts
from swarmbus.provision.health_state import TIMER
from swarmbus.provision.layout import Layout
from swarmbus.provision.mailbox_look import MailboxSeen
from swarmbus.provision.manifest import Entry, Manifest
from swarmbus.provision.mosquitto import OUR_FILE
from swarmbus.provision.resources.base import ABSENT
from swarmbus.provision.resources.file import File
from swarmbus.provision.resources.unit import SYSTEM_UNITS
from swarmbus.provision.system import ProcessSeen
from swarmbus.provision.system import Result as Ran
from swarmbus.provision.tls_look import CertificateSeen
from tests.provision.fake_system import FakeSystem

NOW = 1_800_000_000.0
HOME = Path("/home/pi")
LAYOUT = Layout.under(HOME)
LOCK = LAYOUT.state / "coder/listener.lock"
UNIT = "swarmbus-coder.service"
WAKE = "swarmbus-wake-coder-0123456789.service"
PID = 4242
BROKER_PID = 500
INBOX = "/home/pi/sync/coder-inbox.md"
PYTHON = "/home/pi/venv/bin/python"
PACKAGES = "/home/pi/venv/lib/python3.11/site-packages"
LOG = "/var/log/mosquitto/mosquitto.log"

SYS = {
    "version": "mosquitto version 2.0.11",
    "clients/connected": "3",
    "clients/disconnected": "1",
    "publish/messages/dropped": "0",
    "load/publish/dropped/15min": "0.00",
}
TAILSCALE = {
    "BackendState": "Running",
    "Self": {"TailscaleIPs": ["100.101.102.103"], "KeyExpiry": "2027-12-01T00:00:00+00:00"},
    "Peer": {"k": {"HostName": "hub", "DNSName": "hub.tail1.ts.net.", "Online": True, "Relay": "fra"}},
}


@dataclass
class FakeBus:
    """A `Bus` that says what it was told to.

    Attributes:
        silent: Agents whose control socket accepts and does not answer.
        unreadable: Whether mailboxes cannot be opened.
        flown: The agents whose canaries were sent, a call a list.
        told: Topics and what was left there.
        rehearsal: How a wake goes that a listener rehearses; an error is raised.
    """

    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    seen: Visit = field(default_factory=Visit)
    results: dict[str, CanaryResult] = field(default_factory=dict)
    mailboxes: dict[str, MailboxSeen] = field(default_factory=dict)
    unreadable: bool = False
    flown: list[list[str]] = field(default_factory=list)
    told: list[tuple[str, bytes]] = field(default_factory=list)
    rehearsal: dict[str, Any] | SwarmbusError | None = None
    tls: CertificateSeen | None = None

    def status(self, agent_id: str) -> Mapping[str, Any] | None:
        if agent_id in self.silent:
            raise TimedOut("no answer")
        return self.statuses.get(agent_id)

    def visit(self, settings: Settings, agent_ids: Sequence[str]) -> Visit:
        return self.seen

    def certificate(self, settings: Settings) -> CertificateSeen | None:
        return self.tls

    def canaries(self, settings: Mapping[str, Settings]) -> Mapping[str, CanaryResult]:
        self.flown.append(list(settings))
        return {agent: self.results[agent] for agent in settings}

    def rehearse(self, agent_id: str) -> Mapping[str, Any] | None:
        if isinstance(self.rehearsal, SwarmbusError):
            raise self.rehearsal
        return self.rehearsal

    def clear_presence(self, settings: Settings, agent_id: str) -> None:
        raise AssertionError("a doctor changes nothing")

    def tell(self, words: Sequence[tuple[Settings, str, bytes]]) -> list[str | None]:
        self.told += [(topic, word) for _, topic, word in words]
        return [None for _ in words]

    def mailbox(self, path: Path) -> MailboxSeen:
        if self.unreadable:
            raise PermissionError(f"cannot read {path}")
        return self.mailboxes[path.parent.name]


@dataclass
class Host:
    """A Raspberry Pi with one agent, ``coder``, set up by init under the user's systemd: all is well.

    Attributes:
        unit: What ``systemctl show`` says of its unit; of the system's mosquitto, ``mosquitto``; of the
            timer of the health, ``timer``.
        denied: What test(1) says no to: ``("-w", path)``.
        answers: What other programs print, by their command line.
        manager: False: ``systemctl --user`` cannot reach the user's systemd.
    """

    system: FakeSystem = field(default_factory=FakeSystem)
    bus: FakeBus = field(default_factory=FakeBus)
    settings: dict[str, Settings] = field(
        default_factory=lambda: {"coder": Settings(agent_id="coder", inbox=INBOX, tls=True)}
    )
    unit: dict[str, str] = field(default_factory=dict)
    mosquitto: dict[str, str] = field(default_factory=dict)
    timer: dict[str, str] = field(default_factory=dict)
    environment: str = "PATH=/home/pi/.local/bin:/usr/bin:/bin\nLANG=C.UTF-8\n"
    denied: set[tuple[str, str]] = field(default_factory=set)
    manager: bool = True
    python: tuple[int, ...] = (3, 11, 2)
    installed: str = "f1"
    answers: dict[str, Ran] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path in ("/run/systemd/system/x", "/var/lib/systemd/linger/pi", "/run/user/1000/bus"):
            self.system.put(path)
        self.system.put(str(LAYOUT.units / UNIT), "[Unit]")
        self.system.put(str(HOME / "sync/coder-inbox.md"))
        self.looked_at_health(NOW - 60)
        self.system.put(f"/proc/{PID}/status", "Name:\tpython3\nState:\tS (sleeping)\n")
        self.system.held[LOCK] = json.dumps({"pid": PID, "role": "listener"}).encode()
        self.system.processes[PID] = ProcessSeen(PID, 7700, (PYTHON, "-m", "swarmbus", "start"), 1000)
        self.system.programs = self._program
        self.system.hostname = "pi4"
        self.unit = {
            "Id": UNIT,
            "LoadState": "loaded",
            "ActiveState": "active",
            "SubState": "running",
            "UnitFileState": "enabled",
            "Result": "success",
            "NeedDaemonReload": "no",
            "ExecMainStatus": "0",
            "Environment": "PATH=/home/pi/.local/bin:/usr/bin:/bin",
            "ExecStart": f"{{ path={PYTHON} ; argv[]={PYTHON} -m swarmbus start ; ignore_errors=no }}",
            "FragmentPath": str(LAYOUT.units / UNIT),
            "NRestarts": "0",
            "MainPID": str(PID),
            "ControlGroup": f"/user.slice/{UNIT}",
            "MemoryMax": "infinity",
            "TasksCurrent": "3",
            "TasksMax": "500",
        }
        self.timer = {**self.unit, "Id": TIMER, "SubState": "waiting"}
        self.mosquitto = {
            **self.unit,
            "Id": "mosquitto.service",
            "MainPID": str(BROKER_PID),
            "Restart": "on-failure",
            "StartLimitIntervalUSec": "10s",
            "After": "network.target basic.target",
        }
        self.bus.statuses["coder"] = {
            "broker": "localhost",
            "port": 1883,
            "connected": True,
            "last_error": None,
            "instance": "i1",
            "version": self._version(),
            "fingerprint": "f1",
            "heard": NOW - 5,
            "inbox": str(HOME / "sync/coder-inbox.md"),
            "handlers": [{"name": "invoke", "lag": 0, "attempts": 0, "last_error": None, "dead": 0}],
        }
        self.bus.seen = Visit(
            protocol=5,
            milliseconds=3.0,
            presences={"coder": presence()},
            round_trip=0.5,
            sys={f"$SYS/broker/{name}": value for name, value in SYS.items()},
            writes=(0x10, 0x10),
        )
        self.status["wakes"] = {"wake": "high", "today": 3, "daily": 100, "pause": None, "held": None}
        self.bus.rehearsal = {
            "milliseconds": 90.0,
            "failure": None,
            "unit": WAKE,
            "refused": None,
            "held": None,
        }
        self.bus.tls = CertificateSeen(expires=NOW + 90 * 86_400)
        self.bus.results["coder"] = CanaryResult("coder", dict.fromkeys(HOPS, 1.0), total=4.0)
        self.bus.mailboxes["coder"] = MailboxSeen()
        self.status.update(persistent=True, connections=1, session_present=True)
        furnish(self.system)
        self.answers |= ANSWERS
        self._record()

    def _record(self) -> None:
        """What init has left in its manifest."""
        entries = {}
        for group, path in (("agent:coder", LAYOUT.units / UNIT), ("broker", OUR_FILE)):
            file = File(group=group, path=path, content="", root=group == "broker")
            entries[file.id] = Entry(file.id, "file", group, file.record(), file.read(self.system), ABSENT)
        Manifest(entries).save(self.system, LAYOUT.provision)
        self.system.writes.clear()

    def other(self, **changed: Any) -> None:
        """Another visit than the healthy one."""
        self.bus.seen = replace(self.bus.seen, **changed)

    def sys(self, **values: str | None) -> None:
        """Other values below $SYS/broker; ``__`` stands for the slash, None takes one away."""
        topics = dict(self.bus.seen.sys)
        for name, value in values.items():
            topic = f"$SYS/broker/{name.replace('__', '/')}"
            if value is None:
                topics.pop(topic)
            else:
                topics[topic] = value
        self.other(sys=topics)

    def mosquitto_says(self, *lines: str) -> None:
        """More lines of its configuration, in a file of somebody else's."""
        self.system.put("/etc/mosquitto/conf.d/70-other.conf", "\n".join(lines) + "\n", uid=0)

    def mosquitto_without(self, option: str) -> None:
        """No line with that option."""
        for name in ("mosquitto.conf", "conf.d/50-swarmbus.conf"):
            path = f"/etc/mosquitto/{name}"
            text = (self.system.files[Path(path)].data or b"").decode()
            kept = [line for line in text.splitlines() if not line.startswith(f"{option} ")]
            self.system.put(path, "\n".join(kept) + "\n", uid=0)

    @property
    def status(self) -> dict[str, Any]:
        """What the listener of ``coder`` says of itself."""
        return self.bus.statuses["coder"]

    def set(self, **settings: Any) -> None:
        """Other settings of ``coder``."""
        self.settings["coder"] = Settings(agent_id="coder", **{"inbox": INBOX, **settings})

    def under_the_system(self) -> None:
        """Its unit is one of the system's, as ``--scope system`` has it: no linger, no user manager."""
        self.system.files[SYSTEM_UNITS / UNIT] = self.system.files.pop(LAYOUT.units / UNIT)
        self.system.put(str(SYSTEM_UNITS / UNIT), "[Service]\nUser=pi\n")
        self.unit["FragmentPath"] = str(SYSTEM_UNITS / UNIT)
        del self.system.files[Path("/var/lib/systemd/linger/pi")]
        del self.system.files[Path("/run/user/1000/bus")]
        self.manager = False

    def looked_at_health(self, at: float, **more: Any) -> None:
        """When the timer has last done so."""
        said = {"schema": "swarmbus.health/1", "time": at, "version": "1.0.0", "states": [], **more}
        self.system.put(str(LAYOUT.doctor / "health.json"), json.dumps(said))
        self.system.files[LAYOUT.doctor] = replace(self.system.files[LAYOUT.doctor], uid=1000, gid=1000)

    def without_systemd(self) -> None:
        """As in a container."""
        for path in [path for path in self.system.files if path.is_relative_to("/run/systemd")]:
            del self.system.files[path]

    def without_listener(self) -> None:
        """It has ended."""
        self.system.held.clear()
        self.system.processes.pop(PID)
        del self.bus.statuses["coder"]

    def facts(self) -> Facts:
        return Facts(
            self.system,
            self.bus,
            layout=LAYOUT,
            settings=self.settings,
            python=self.python,
            fingerprint=lambda: self.installed,
            clock=lambda: NOW,
            interpreter=PYTHON,
        )

    def doctor(self) -> Report:
        return run_checks(choose(CHECKS, [], []), self.facts())

    def ask(self, code: str) -> Result:
        """One check alone."""
        check = next(check for check in CHECKS if check.code == code)
        (result,) = run_checks([check], self.facts()).results
        return result

    def _program(self, system: FakeSystem, argv: tuple[str, ...], root: bool) -> Ran | None:
        match argv:
            case ("test", what, path):
                return Ran(argv, int((what, path) in self.denied))
            case ("systemctl", "--user", *_) if not self.manager:
                return Ran(argv, 1, stderr="Failed to connect to bus: No medium found\n")
            case ("systemctl", "--user", "show-environment"):
                return Ran(argv, 0, self.environment)
            case ("systemctl", "--user", "show", "--property", _, "--", *names):
                known = {UNIT: self.unit, TIMER: self.timer}
                blocks = [known.get(name, {**NOT_FOUND, "Id": name}) for name in names]
                return Ran(argv, 0, _shown(blocks))
            case ("/usr/bin/systemctl", "show", "--property", _, "--", name):
                return Ran(argv, 0, _shown([self.unit if name == UNIT else self.mosquitto]))
            case _:
                answer = self.answers.get(" ".join(argv))
                return replace(answer, argv=argv) if answer is not None else None

    @staticmethod
    def _version() -> str:
        from swarmbus.version import __version__

        return __version__


NOT_FOUND = {
    "LoadState": "not-found",
    "ActiveState": "inactive",
    "SubState": "dead",
    "UnitFileState": "",
    "Result": "success",
    "NeedDaemonReload": "no",
    "ExecMainStatus": "0",
    "Environment": "",
}


def presence(**changed: Any) -> Presence:
    """Of ``coder``, as its listener gives it."""
    return Presence(
        **{"agent": "coder", "status": "online", "wire": 1, "instance": "i1", "host": "pi4", **changed}
    )


def bad(report: Report) -> list[tuple[str, str]]:
    """Code and status of all that is amiss."""
    return [
        (result.check.code, str(result.status))
        for result in report.results
        if result.status in ("warn", "fail", "crash")
    ]


def _shown(blocks: Iterable[Mapping[str, str]]) -> str:
    return (
        "\n\n".join("\n".join(f"{name}={value}" for name, value in block.items()) for block in blocks) + "\n"
    )


def furnish(system: FakeSystem) -> None:
    """What a Raspberry Pi with Debian 12 and swarmbus has besides: files, programs, processes."""
    for path, text in FILES.items():
        system.put(path, text, uid=0)
    for path in ("/usr/bin/python3.11", "/home/pi/venv/bin/swarmbus"):
        system.put(path, mode=0o755)
    system.link(PYTHON, "python3.11")
    system.link("/home/pi/venv/bin/python3.11", "/usr/bin/python3.11")
    system.link("/home/pi/.local/bin/swarmbus", "/home/pi/venv/bin/swarmbus")
    for path, uid, mode in SPECIAL:
        system.files[Path(path)].uid, system.files[Path(path)].mode = uid, mode
    for entry in system.files.values():
        entry.modified = entry.changed = NOW - 86_400
    for name in ("tailscale", "vcgencmd", "mosquitto_pub"):
        system.installed = {**system.installed, name: f"/usr/bin/{name}"}
    system.environ = {**system.environ, "PATH": "/home/pi/.local/bin:/usr/bin:/bin"}
    system.processes[BROKER_PID] = ProcessSeen(BROKER_PID, 500, ("mosquitto",), 110)


_BOOTED = int(NOW) - 3600

FILES = {
    "/etc/passwd": "root:x:0:0::/root:/bin/sh\nmosquitto:x:110:117::/var/lib/mosquitto:/usr/sbin/nologin\n",
    "/etc/mosquitto/mosquitto.conf": "pid_file /run/mosquitto/mosquitto.pid\n\npersistence true\n"
    f"persistence_location /var/lib/mosquitto/\n\nlog_dest file {LOG}\n\n"
    "include_dir /etc/mosquitto/conf.d\n",
    "/etc/mosquitto/conf.d/50-swarmbus.conf": "# written by swarmbus 1.0.0\nlistener 1883\n"
    "bind_interface lo\nallow_anonymous false\npassword_file /etc/mosquitto/passwd\n"
    "acl_file /etc/mosquitto/acl\nautosave_on_changes true\nautosave_interval 100\n"
    "max_queued_messages 100000\npersistent_client_expiration 2m\n",
    "/etc/mosquitto/conf.d/README": "",
    "/etc/mosquitto/passwd": "coder:$7$101$c2FsdA==$aGFzaA==\n",
    "/etc/mosquitto/acl": "user coder\ntopic readwrite agents/#\n",
    "/var/lib/mosquitto/mosquitto.db": "x",
    LOG: "",
    "/var/lib/dpkg/status": "Package: mosquitto\nStatus: install ok installed\nVersion: 2.0.11-1.2+deb12u2\n",
    "/usr/lib/python3.11/EXTERNALLY-MANAGED": "",
    "/home/pi/venv/pyvenv.cfg": "home = /usr/bin\nversion = 3.11.2\n",
    f"{PACKAGES}/paho_mqtt-2.1.0.dist-info/RECORD": "",
    "/home/pi/.claude/settings.json": "{}",
    "/home/pi/.config/swarmbus/config.toml": 'broker = "localhost"\n',
    "/home/pi/.local/state/swarmbus/coder/mailbox.db": "x",
    "/home/pi/.local/state/swarmbus/.provision/spec.json": "{}",
    "/var/log/journal/x": "",
    "/sys/class/net/lo/operstate": "unknown",
    "/proc/stat": f"cpu 1 2 3\nbtime {_BOOTED}\n",
    "/proc/meminfo": "MemTotal:  4000000 kB\nMemAvailable:  2000000 kB\n",
    "/proc/self/mounts": "/dev/mmcblk0p2 / ext4 rw,noatime 0 0\ntmpfs /run tmpfs rw 0 0\n",
    "/proc/sys/fs/inotify/max_user_instances": "128\n",
    "/proc/sys/net/ipv4/ip_nonlocal_bind": "0\n",
    "/proc/net/tcp": "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
    "   0: 0100007F:075B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1\n",
    f"/proc/{BROKER_PID}/limits": "Max open files            524288            524288          files\n",
    f"/proc/{PID}/limits": "Max open files            1024                 524288               files\n",
    f"/proc/{PID}/status": "Name:\tpython3\nState:\tS (sleeping)\nVmRSS:\t   40000 kB\n",
    f"/proc/{PID}/maps": "7f00-7f01 r-xp 00000000 08:01 99 /usr/bin/python3.11\n",
    f"/proc/{PID}/fd/0": "",
}

SPECIAL = [
    ("/etc/mosquitto/passwd", 110, 0o600),
    ("/etc/mosquitto/acl", 110, 0o600),
    ("/var/lib/mosquitto", 110, 0o755),
    (f"/proc/{PID}", 1000, 0o555),
    (str(LAYOUT.state), 1000, 0o700),
    (str(LAYOUT.provision), 1000, 0o700),
    (str(LAYOUT.provision / "spec.json"), 1000, 0o600),
    (str(LAYOUT.state / "coder"), 1000, 0o700),
    (str(LAYOUT.state / "coder/mailbox.db"), 1000, 0o600),
]

_ADDRESSES = "1: lo    inet 127.0.0.1/8 scope host lo\n2: eth0    inet 192.168.1.5/24 brd 192.168.1.255\n"

ANSWERS = {
    "timedatectl show --property=NTPSynchronized --value": Ran((), 0, "yes\n"),
    "/usr/bin/vcgencmd get_throttled": Ran((), 0, "throttled=0x0\n"),
    "/usr/bin/tailscale status --json": Ran((), 0, json.dumps(TAILSCALE)),
    "/usr/bin/tailscale serve status --json": Ran((), 0, "{}"),
    "ip -o addr show": Ran((), 0, _ADDRESSES),
    f"tail -c 65536 {LOG}": Ran((), 0, ""),
    "getent ahosts hub": Ran((), 0, "192.168.1.9 STREAM hub\n"),
    "journalctl --no-pager --output=json --since=-24h --lines=500"
    " MESSAGE_ID=d9b373ed55a64feb8242e02dbe79a49c": Ran((), 0, ""),
}
