"""What a booted host and a container have in common: an overlay over an image, systemd-nspawn, a way in."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tests.lab import outside
from tests.lab.images import USERS
from tests.lab.network import ip
from tests.lab.parcel import pack, pack_checkout, pack_text
from tests.lab.runs import Lab
from tests.lab.traces import cgroup_hierarchies, children, clear_after, kill_machine
from tests.lab.wheelhouse import CHECKOUT, wheelhouse

#: What PAM would give a login; ours comes in without one and must not bring this machine's environment.
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class CommandFailed(subprocess.CalledProcessError):
    """A command in a host ended with another status than 0; its message has everything it wrote."""

    def __str__(self) -> str:
        return f"{super().__str__()}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


class DidNotStart(Exception):
    """A machine was not ready in time; the message has its console and, if it can be had, its journal."""


class Machine:
    """A throw-away root file system and the systemd-nspawn process that runs it.

    A context manager: entering starts it, leaving ends it and removes all it has written.

    Attributes:
        name: Its host name, unique in the run.
        address: Its IPv4 address on the lab's bridge.
        root: Its root file system as seen from outside, also while it is off. Mind absolute symbolic links.
    """

    payload: ClassVar[list[str]]

    def __init__(self, lab: Lab, suite: str, *, name: str | None = None, index: bool = True) -> None:
        """Describe the machine; entering it makes it.

        Args:
            lab: The run it belongs to.
            suite: ``bookworm`` or ``trixie``.
            name: Its host name; None takes one from the suite and the run, such as ``bookworm-sb3f9c-01``.
            index: Whether pip asks its index. False has it take all from the wheelhouse: faster, and no
                network is needed, but nothing can be installed that is not a requirement of ours.
        """
        self.lab = lab
        self.suite = suite
        self.machine, self.address = lab.take_seat()
        self.name = name or f"{suite}-{self.machine}"
        self.folder = lab.folder / self.machine
        self.root = self.folder / "root"
        self.index = index
        self._machine_id = uuid.uuid4().hex
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader: int | None = None

    def __enter__(self) -> Self:
        try:
            self._lay_root()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start it and return when it can be used."""
        raise NotImplementedError

    @property
    def running(self) -> bool:
        """Whether its systemd-nspawn process lives."""
        return self._nspawn is not None and self._nspawn.poll() is None

    @property
    def leader(self) -> int:
        """The process id, as seen from outside, of its process 1."""
        assert self._leader is not None, f"{self.name} is off"
        return self._leader

    @property
    def interface(self) -> str:
        """The bridge's end of its cable; there is one only while it runs."""
        return f"vb-{self.machine}"

    def close(self) -> None:
        """End it at once and remove its file system."""
        self._kill()
        if os.path.ismount(self.root):
            subprocess.run(["umount", "--lazy", str(self.root)], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def partition(self, *, silent: bool = False) -> None:
        """Cut it off the network until `heal`.

        Args:
            silent: False pulls the cable, which the host notices (no carrier, so networkd drops the address);
                True loses the packets behind a cable that stays plugged in, which only time-outs show.
        """
        if silent:
            ip("link", "set", self.interface, "nomaster")
        else:
            ip("link", "set", self.interface, "down")

    def heal(self) -> None:
        """Undo `partition`."""
        ip("link", "set", self.interface, "master", self.lab.run_id)
        ip("link", "set", self.interface, "up")

    def run_as_root(
        self,
        command: str | Sequence[str],
        *,
        check: bool = True,
        timeout: float = 300.0,
        input: str | None = None,  # noqa: A002, subprocess's word
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside by way of the kernel, also when the network or sshd is down.

        It belongs to no session and to none of the machine's control groups; what a user would do goes
        through `Host.ssh`.

        Args:
            command: An argument list, or text for ``sh -c``.
            check: Whether a status other than 0 raises.
            timeout: In seconds.
            input: Standard input; None is empty input.

        Raises:
            CommandFailed: If ``check`` and the command failed.
            subprocess.TimeoutExpired: If it took longer than ``timeout``; the command inside may go on.
        """
        argv = ["sh", "-c", command] if isinstance(command, str) else list(command)
        return self._enter(argv, {"HOME": "/root", "USER": "root"}, check=check, timeout=timeout, input=input)

    def put(self, local: Path, remote: str, *, owner: str = "root", mode: int | None = None) -> None:
        """Copy a file or folder into it as ``remote``, keeping modes and symbolic links.

        Args:
            local: A file, or a folder with all that is in it.
            remote: The absolute path it gets; missing folders above it are made.
            owner: User and group it belongs to inside.
            mode: Permission bits of the file itself; None keeps the local ones.
        """
        parcel = pack(local, Path(remote).name, owner=owner, mode=mode)
        self._unpack(parcel, str(Path(remote).parent), owner)

    def write(self, remote: str, text: str, *, owner: str = "root", mode: int = 0o644) -> None:
        """Write a text file inside; missing folders above it are made."""
        parcel = pack_text(text, Path(remote).name, owner=owner, mode=mode)
        self._unpack(parcel, str(Path(remote).parent), owner)

    def read(self, remote: str) -> str:
        """The text of a file inside, whoever may read it there."""
        return self.run_as_root(["cat", "--", remote]).stdout

    def journal(self, *, lines: int = 80) -> str:
        """The last lines of the journal since it was switched on, for the eyes of who reads a failure."""
        show = ["journalctl", "--boot", "--no-pager", f"--lines={lines}"]
        try:
            return self.run_as_root(show, check=False, timeout=10).stdout
        except (AssertionError, subprocess.SubprocessError) as error:
            return f"(none: {error})"

    def copy_checkout(
        self, dest: str = "/home/pi/swarmbus", *, owner: str = "pi", checkout: Path = CHECKOUT
    ) -> None:
        """Copy the working tree as it is now: what git follows and what it would, not what it ignores."""
        self._unpack(pack_checkout(checkout, owner=owner), dest, owner)

    def _unpack(self, parcel: bytes, folder: str, owner: str) -> None:
        # Made by the owner where the owner may, so that a new ~/.config/x belongs to its user.
        make = [
            "setpriv",
            f"--reuid={owner}",
            f"--regid={owner}",
            "--init-groups",
            "mkdir",
            "-p",
            "--",
            folder,
        ]
        if self.run_as_root(make, check=False).returncode != 0:
            self.run_as_root(["mkdir", "-p", "--", folder])
        argv = self._nsenter(["tar", "-x", "--same-owner", "-p", "-C", folder], {})
        result = subprocess.run(argv, input=parcel, capture_output=True)
        if result.returncode != 0:
            raise CommandFailed(result.returncode, argv, "", result.stderr.decode(errors="replace"))

    def _enter(
        self,
        argv: Sequence[str],
        environment: dict[str, str],
        *,
        check: bool,
        timeout: float,
        input: str | None,  # noqa: A002
        flags: Iterable[str] = (),
    ) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            self._nsenter(argv, environment, flags),
            input=input or "",
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and result.returncode != 0:
            raise CommandFailed(result.returncode, list(argv), result.stdout, result.stderr)
        return result

    def _nsenter(
        self, argv: Sequence[str], environment: dict[str, str], flags: Iterable[str] = ()
    ) -> list[str]:
        pairs = [
            f"{name}={value}" for name, value in (_ENVIRONMENT | outside.proxies() | environment).items()
        ]
        enter = [
            "nsenter",
            f"--target={self.leader}",
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--cgroup",
        ]
        return [*enter, "--root", "--wd", *flags, "env", "--ignore-environment", *pairs, *argv]

    def _lay_root(self) -> None:
        lower, upper, work = self.lab.image(self.suite), self.folder / "upper", self.folder / "work"
        for folder in (upper, work, self.root):
            folder.mkdir(parents=True)
        # "volatile" leaves out the syncing to disk: the mount outlives every power cut of the host, so that
        # nothing is lost by it, and dpkg is several times as fast.
        options = f"lowerdir={lower},upperdir={upper},workdir={work},volatile"
        subprocess.run(["mount", "-t", "overlay", self.machine, "-o", options, str(self.root)], check=True)
        etc = self.root / "etc"
        (etc / "machine-id").write_text(f"{self._machine_id}\n")
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "hosts").write_text(f"127.0.0.1\tlocalhost\n127.0.1.1\t{self.name}\n")
        (etc / "resolv.conf").write_text(outside.resolv_conf())
        (etc / "systemd/network/10-lab.network").write_text(
            f"[Match]\nName=host0\n[Network]\nAddress={self.address}/24\nGateway={self.lab.gateway}\n"
        )
        public_key = self.lab.ssh_key.with_suffix(".pub").read_text()
        for user, uid in USERS.items():
            keys = self.root / "home" / user / ".ssh" / "authorized_keys"
            keys.write_text(public_key)
            os.chown(keys, uid, uid)
            keys.chmod(0o600)
        house = self.root / outside.WHEELHOUSE.lstrip("/")
        shutil.copytree(wheelhouse(), house, dirs_exist_ok=True)
        if not self.index:
            with (etc / "pip.conf").open("a") as settings:
                settings.write("no-index = true\n")  # its only section is [global]

    def _spawn(self) -> None:
        assert not self.running, f"{self.name} is already running"
        self._wait_for_end(0)  # it may have been switched off from inside
        argv = [
            "systemd-nspawn",
            "--quiet",
            f"--directory={self.root}",
            f"--machine={self.machine}",
            f"--hostname={self.name}",
            f"--network-bridge={self.lab.run_id}",
            "--console=passive",
            "--keep-unit",  # the control group it is started in is its own, as made below
            "--register=no",  # needs systemd-machined outside
            "--link-journal=no",
            "--resolv-conf=off",
            "--timezone=off",
            "--settings=no",
            *self.payload,
        ]
        # Started in one control group, two hosts would share its child `payload`, and the stop of a unit in
        # one would kill in the other.
        join = None
        if Path("/run/systemd/system").is_dir():
            scope = ["--scope", "--quiet", "--collect", "--property=Delegate=yes", f"--unit={self.machine}"]
            argv = ["systemd-run", *scope, *argv]  # with --scope it becomes the command, with the same pid
        else:
            join = _joiner([hierarchy / self.machine for hierarchy in cgroup_hierarchies()])
        with (self.folder / "console").open("ab") as console:
            self._nspawn = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=_ENVIRONMENT | {"UNIFIED_CGROUP_HIERARCHY": "1"},  # cgroup2 inside, whatever is outside
                preexec_fn=join,  # noqa: PLW1509, it only writes its process id to two files
                start_new_session=True,  # Ctrl-C is for pytest, which ends the hosts itself
            )

    def _wait_for_leader(self, deadline: float) -> None:
        """Wait until process 1 has the machine's root, by the machine id it sees there."""
        assert self._nspawn is not None
        while time.monotonic() < deadline and self.running:
            for pid in children(self._nspawn.pid):
                with contextlib.suppress(OSError):
                    status = Path(f"/proc/{pid}/status").read_text()
                    numbers = status.partition("NSpid:")[2].partition("\n")[0].split()
                    seen = Path(f"/proc/{pid}/root/etc/machine-id").read_text().strip()
                    if numbers[-1:] == ["1"] and seen == self._machine_id:
                        self._leader = pid
                        return
            time.sleep(0.05)
        raise self._did_not_start("no process 1 with its root file system came up")

    def _kill(self) -> None:
        if self.running:
            assert self._nspawn is not None
            kill_machine(self._nspawn.pid)
        self._wait_for_end(10)

    def _wait_for_end(self, timeout: float) -> None:
        """Wait for the end of nspawn, if it was ever started, and clear away what it leaves."""
        if self._nspawn is not None:
            self._nspawn.wait(timeout)
        self._nspawn = self._leader = None
        clear_after(self.machine)

    def _did_not_start(self, reason: str) -> DidNotStart:
        console = (self.folder / "console").read_text(errors="replace")[-4000:]
        return DidNotStart(f"{self.name}: {reason}\n--- console\n{console}\n--- journal\n{self.journal()}")


def _joiner(groups: list[Path]) -> Callable[[], None]:
    """A function that puts the process calling it into the control groups, which it makes first."""
    for group in groups:
        group.mkdir(exist_ok=True)

    def join() -> None:
        for group in groups:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    return join
