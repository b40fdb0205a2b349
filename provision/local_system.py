"""LocalSystem: the machine we run on."""
# ruff: noqa: D102 - documented once, in System

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from swarmbus.provision.acting import is_acting, starting_a_child
from swarmbus.provision.foreign_hands import refuse_foreign_hands
from swarmbus.provision.local_files import LocalFiles
from swarmbus.provision.root import SYSTEM_PATH, RootStep
from swarmbus.provision.root_script import run_script
from swarmbus.provision.system import (
    NOT_FOUND,
    TIMED_OUT,
    ProcessSeen,
    Result,
    RootAccess,
    User,
)

_SUDO = "/usr/bin/sudo"
_PROMPT = "swarmbus needs root for the steps shown; password of %p: "
_ADMINISTRATORS = {"sudo", "wheel", "admin"}


class LocalSystem(LocalFiles):
    """`System` for this machine, as the user we are, or for whom we act (`swarmbus.provision.acting`)."""

    def __init__(self) -> None:
        account = pwd.getpwuid(os.geteuid())
        home = Path(os.environ.get("HOME") or account.pw_dir)
        super().__init__(User(account.pw_name, account.pw_uid, account.pw_gid, home))

    # who and where

    @property
    def environ(self) -> Mapping[str, str]:
        environ = dict(os.environ)
        # sudo, su and cron leave it out or leave the caller's; `systemctl --user` works only with our own.
        runtime = Path(f"/run/user/{self._user.uid}")
        given = environ.get("XDG_RUNTIME_DIR")
        if given is None or self._owner_of(Path(given)) != self._user.uid:
            environ.pop("XDG_RUNTIME_DIR", None)
            if self._owner_of(runtime) == self._user.uid:
                environ["XDG_RUNTIME_DIR"] = str(runtime)
        return environ

    @property
    def user(self) -> User:
        return self._user

    @property
    def hostname(self) -> str:
        return socket.gethostname()

    def which(self, program: str, path: str | None = None) -> Path | None:
        along = path if path is not None else f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"
        found = shutil.which(program, path=along)
        return Path(found).absolute() if found else None

    # programs

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        user, group, groups = self._whole_account()
        try:
            with starting_a_child():
                process = subprocess.Popen(
                    list(argv),
                    stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env={**self.environ, **(env or {})},
                    cwd="/",
                    user=user,
                    group=group,
                    extra_groups=groups,
                )
        except FileNotFoundError:
            return Result(tuple(argv), NOT_FOUND, stderr=f"{argv[0]}: no such program")
        except PermissionError:
            return Result(tuple(argv), NOT_FOUND, stderr=f"{argv[0]}: not executable")
        with process:
            try:
                out, err = process.communicate(stdin, timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                return Result(tuple(argv), TIMED_OUT, stderr=f"{argv[0]}: no answer in {timeout:g} s")
            except BaseException:
                process.kill()
                raise
        told, complained = out.decode(errors="replace"), err.decode(errors="replace")
        return Result(tuple(argv), process.returncode, told, complained)

    def root_access(self) -> RootAccess:
        if os.getuid() == 0:
            return "root"
        if not Path(_SUDO).exists():
            return "none"
        if self.run([_SUDO, "-n", "/usr/bin/true"], timeout=20).ok:
            return "sudo"
        on_terminal = sys.stdin.isatty() and sys.stderr.isatty()
        return "ask" if on_terminal and _is_administrator() else "none"

    def run_as_root(self, steps: Sequence[RootStep], tell: Callable[[RootStep], None]) -> None:
        shell = ["/bin/sh", "-s"]
        match self.root_access():
            case "root":
                run_script(shell, steps, tell)
            case "ask":
                run_script([_SUDO, "-p", _PROMPT, "--", *shell], steps, tell)
            case "sudo" | "none":
                run_script([_SUDO, "-n", "--", *shell], steps, tell)

    def _whole_account(self) -> tuple[int | None, int | None, list[int] | None]:
        """For `subprocess`: a child of ours that acts for somebody must not find its way back to root."""
        if not is_acting():
            return None, None, None
        groups = os.getgrouplist(self._user.name, self._user.gid)
        return self._user.uid, self._user.gid, groups

    # processes

    def spawn(self, argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> int:
        refuse_foreign_hands(log, uid=self._user.uid, root=False)
        # posix_spawn and not Popen: nobody waits for it, it is to outlive us.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        if is_acting():
            become = (f"--reuid={self._user.uid}", f"--regid={self._user.gid}", "--init-groups")
            argv = ("/usr/bin/setpriv", *become, "--", *argv)
        output = os.open(log, flags, 0o600)  # and not by the child, which may be root's at first
        try:
            with starting_a_child():
                return os.posix_spawn(
                    argv[0],
                    list(argv),
                    {**self.environ, **(env or {})},
                    file_actions=[
                        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                        (os.POSIX_SPAWN_DUP2, output, 1),
                        (os.POSIX_SPAWN_DUP2, output, 2),
                    ],
                    setsid=True,
                )
        finally:
            os.close(output)

    def process(self, pid: int) -> ProcessSeen | None:
        folder = Path(f"/proc/{pid}")
        try:
            # proc(5): the name in parentheses may hold anything; state is field 3, start time field 22
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            argv = (folder / "cmdline").read_bytes().split(b"\0")[:-1]
            uid = folder.stat().st_uid
        except OSError:
            return None
        if fields[0] in ("Z", "X"):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # one that we spawned ourselves
            return None
        return ProcessSeen(pid, int(fields[19]), tuple(os.fsdecode(word) for word in argv), uid)

    def signal(self, process: ProcessSeen, number: int) -> None:
        try:
            handle = os.pidfd_open(process.pid)
        except OSError:
            return
        try:
            seen = self.process(process.pid)
            if seen is not None and seen.start_ticks == process.start_ticks:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)

    def boot_id(self) -> str:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    # the rest

    def dial(self, host: str, port: int, data: bytes, timeout: float = 2.0) -> bytes | None:
        try:
            connection = socket.create_connection((host, port), timeout=timeout)
        except OSError:
            return None
        with connection:
            try:
                connection.sendall(data)
                return connection.recv(256)
            except OSError:
                return b""

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="swarmbus-") as folder:
            yield Path(folder)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    @staticmethod
    def _owner_of(path: Path) -> int | None:
        try:
            return path.lstat().st_uid
        except OSError:
            return None


def _is_administrator() -> bool:
    """Whether sudo would probably take our password; sudo itself tells only after it was given."""
    names = set()
    for gid in os.getgroups():
        with contextlib.suppress(KeyError):
            names.add(grp.getgrgid(gid).gr_name)
    return bool(names & _ADMINISTRATORS)
