"""Machine: what systemctl, loginctl and apt-get do to a host, as far as the installer can tell.

Its state is a file of the machine itself, so it survives a SIGKILL of whoever changes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarmbus.provision.system import Result, System

STATE = Path("/machine.json")
_PASSWD = Path("/etc/passwd")
_STATUS = Path("/var/lib/dpkg/status")
_SYSTEMD = "Package: systemd\nStatus: install ok installed\nVersion: 252.39-1~deb12u2\n"
_MOSQUITTO_CONF = """\
pid_file /run/mosquitto/mosquitto.pid

persistence true
persistence_location /var/lib/mosquitto/

log_dest file /var/log/mosquitto/mosquitto.log

include_dir /etc/mosquitto/conf.d
"""


@dataclass
class Machine:
    """Answers for programs.

    Attributes:
        broken_units: Units that fail when they are started.
        refuse_linger: Whether logind says "Access denied" to users.
        loads: For each start of a unit the content of its file: what the process has read.
    """

    broken_units: frozenset[str] = frozenset()
    refuse_linger: bool = True
    log: list[str] = field(default_factory=list)

    def __call__(self, system: System, argv: tuple[str, ...], root: bool) -> Result | None:
        words = list(argv)
        if words[0] == "/usr/bin/env":
            words = [word for word in words[1:] if "=" not in word or word.startswith("-")]
        program = Path(words[0]).name
        command = getattr(self, "_" + program.replace("-", "_"), None)
        if command is None:
            return None
        state = self.state(system)
        before = json.dumps(state)
        status, output = command(system, state, words[1:], root)
        if json.dumps(state) != before:
            system.write_file(STATE, json.dumps(state).encode(), mode=0o644)
        return Result(
            argv, status, stdout=output if status == 0 else "", stderr="" if status == 0 else output
        )

    def state(self, system: System) -> dict[str, Any]:
        """``{"units": {"user:x.service": {"enabled":…, "active":…, "read":…}}, "packages": […]}``."""
        data = system.read(STATE)
        return json.loads(data) if data else {"units": {}, "packages": [], "linger": [], "launchd": []}

    def _systemctl(
        self, system: System, state: dict[str, Any], words: list[str], root: bool
    ) -> tuple[int, str]:
        manager = "user" if words[0] == "--user" else "system"
        words = [word for word in words if word not in ("--user", "--no-block", "--")]
        if manager == "system" and words[0] != "show" and not root:
            return 1, "Access denied"
        if words[0] == "show":
            return 0, "\n\n".join(self._show(system, state, manager, name) for name in words[3:])
        if words[0] in ("daemon-reload", "reset-failed"):
            self.log.append(f"{manager}:{words[0]}")
            if words[0] == "daemon-reload":
                self._forget(system, state, manager)
            return 0, ""
        verb, name = words
        text = system.read(self._file(system, manager, name))
        unit = state["units"].setdefault(f"{manager}:{name}", {"enabled": False, "active": False})
        if text is None:
            return 5, f"Unit {name} not found."
        if verb in ("enable", "disable"):
            unit["enabled"] = verb == "enable"
        elif verb == "stop":
            unit["active"] = False
        elif verb == "restart" or not unit["active"]:
            unit["active"] = name not in self.broken_units and self._conf_is_good(system)
            unit["read"] = self._read_by(system, name, text)
            self.log.append(f"{manager}:{verb}:{name}")
        return 0, ""

    def _forget(self, system: System, state: dict[str, Any], manager: str) -> None:
        """Units that are not there any more, and of which nothing runs."""
        for key in [
            key for key, unit in state["units"].items() if not unit["enabled"] and not unit["active"]
        ]:
            who, _, name = key.partition(":")
            if who == manager and system.read(self._file(system, manager, name)) is None:
                del state["units"][key]

    def _conf_is_good(self, system: System) -> bool:
        ours = system.read(Path("/etc/mosquitto/conf.d/50-swarmbus.conf")) or b""
        return b"nonsense" not in ours

    def _read_by(self, system: System, name: str, text: bytes) -> str:
        if name != "mosquitto.service":
            return text.decode()
        folder = Path("/etc/mosquitto/conf.d")
        return "".join((system.read(folder / file) or b"").decode() for file in system.list(folder))

    def _show(self, system: System, state: Mapping[str, Any], manager: str, name: str) -> str:
        known = system.read(self._file(system, manager, name)) is not None
        unit = state["units"].get(f"{manager}:{name}", {"enabled": False, "active": False})
        failed = name in self.broken_units and unit.get("read") is not None
        return (
            f"Id={name}\nLoadState={'loaded' if known else 'not-found'}\n"
            f"ActiveState={'active' if unit['active'] else 'failed' if failed else 'inactive'}\n"
            f"SubState={'running' if unit['active'] else 'dead'}\n"
            f"UnitFileState={('enabled' if unit['enabled'] else 'disabled') if known else ''}\n"
            f"Result={'exit-code' if failed else 'success'}"
        )

    def _file(self, system: System, manager: str, name: str) -> Path:
        if manager == "user":
            return system.user.home / ".config/systemd/user" / name
        ours = Path("/etc/systemd/system") / name
        return ours if system.read(ours) is not None else Path("/lib/systemd/system") / name

    def _useradd(
        self, system: System, state: dict[str, Any], words: list[str], root: bool
    ) -> tuple[int, str]:
        passwd = system.read(_PASSWD) or b""
        if not root:
            return 1, "useradd: Permission denied."
        line = f"{words[-1]}:x:999:999::{words[words.index('--home-dir') + 1]}:/usr/sbin/nologin\n"
        system.write_file(_PASSWD, passwd + line.encode(), mode=0o644)
        return 0, ""

    def _userdel(
        self, system: System, state: dict[str, Any], words: list[str], root: bool
    ) -> tuple[int, str]:
        lines = (system.read(_PASSWD) or b"").decode().splitlines(keepends=True)
        rest = "".join(line for line in lines if not line.startswith(f"{words[-1]}:"))
        system.write_file(_PASSWD, rest.encode(), mode=0o644)
        return (0, "") if root else (1, "userdel: Permission denied.")

    def _loginctl(
        self, system: System, state: dict[str, Any], words: list[str], root: bool
    ) -> tuple[int, str]:
        verb, user = [word for word in words if not word.startswith("--")]
        if self.refuse_linger and not root:
            return 1, "Could not enable linger: Access denied"
        path = Path("/var/lib/systemd/linger") / user
        if verb == "enable-linger":
            system.write_file(path, b"", mode=0o644)
            system.write_file(Path(f"/run/user/{system.user.uid}/bus"), b"", mode=0o600)
        else:
            system.remove(path)
        return 0, ""

    def _launchctl(
        self, system: System, state: dict[str, Any], words: list[str], root: bool
    ) -> tuple[int, str]:
        """``bootstrap`` refuses what is loaded (5), ``bootout`` and ``print`` what is not (3 and 113)."""
        verb, target = words[0], Path(words[-1])
        label, loaded = target.stem if verb == "bootstrap" else target.name, state["launchd"]
        if (verb == "bootstrap") == (label in loaded):
            return {"bootstrap": 5, "bootout": 3}.get(verb, 113), f"{verb}: Input/output error"
        if verb == "bootstrap":
            loaded.append(label)
            self.log.append(f"launchd:{verb}:{label}")
        elif verb == "bootout":
            loaded.remove(label)
            self.log.append(f"launchd:{verb}:{label}")
        return 0, ""

    def _apt_get(
        self, system: System, state: dict[str, Any], words: list[str], root: bool
    ) -> tuple[int, str]:
        verb = next(word for word in ("update", "install", "purge") if word in words)
        if verb == "update":
            system.write_file(Path("/var/lib/apt/lists/debian_main_Packages"), b"", mode=0o644)
            return (0, "") if root else (100, "are you root?")
        names = words[words.index(verb) + 1 :]
        if not system.list(Path("/var/lib/apt/lists")):
            return 100, "E: Unable to locate package mosquitto"
        missing = [name for name in ("libcjson1", *names) if name not in state["packages"]]
        if "-s" in words:
            act, which = ("Inst", missing) if verb == "install" else ("Purg", names)
            return 0, "".join(f"{act} {name} (1 Debian [amd64])\n" for name in which)
        if not root:
            return 100, "E: Could not open lock file"
        self.log.append(f"apt:{verb}")
        state["packages"] = (
            [*state["packages"], *missing]
            if verb == "install"
            else [name for name in state["packages"] if name not in names]
        )
        self._set_up_mosquitto(system, state, present="mosquitto" in state["packages"])
        stanzas = [
            f"Package: {name}\nStatus: install ok installed\nVersion: 1\n"
            + ("Depends: libcjson1 (>= 1.7), libc6\n" if name == "mosquitto" else "")
            for name in state["packages"]
        ]
        system.write_file(_STATUS, "\n".join([_SYSTEMD, *stanzas]).encode(), mode=0o644)
        return 0, ""

    def _set_up_mosquitto(self, system: System, state: dict[str, Any], *, present: bool) -> None:
        files = {
            "/etc/mosquitto/mosquitto.conf": _MOSQUITTO_CONF,
            "/lib/systemd/system/mosquitto.service": "[Service]\n",
            "/usr/sbin/mosquitto": "",
        }
        if present:
            system.make_dir(Path("/etc/mosquitto"))
            system.make_dir(Path("/etc/mosquitto/conf.d"))
            for path, text in files.items():
                system.write_file(Path(path), text.encode(), mode=0o644)
            state["units"].setdefault(
                "system:mosquitto.service", {"enabled": True, "active": True, "read": ""}
            )
        else:
            for path in files:
                system.remove(Path(path))
            system.remove_dir(Path("/etc/mosquitto/conf.d"))
            system.remove_dir(Path("/etc/mosquitto"))
            state["units"].pop("system:mosquitto.service", None)


FOLDERS = (
    "/etc/systemd/system",
    "/home/pi",
    "/lib/systemd/system",
    "/run/systemd/system",
    "/run/user",
    "/usr/sbin",
    "/var/lib/apt/lists",
    "/var/lib/dpkg",
    "/var/lib/systemd/linger",
)


def bare_debian(system: System) -> None:
    """Folders of a Debian host with systemd, on which nothing of ours is."""
    for folder in (*FOLDERS, f"/run/user/{system.user.uid}"):
        for path in (*reversed(Path(folder).parents), Path(folder)):
            if system.stat(path) is None:
                system.make_dir(path)
    system.write_file(_STATUS, _SYSTEMD.encode(), mode=0o644)
