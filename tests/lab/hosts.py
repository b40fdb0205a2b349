"""Throw-away machines: a booted Debian host, and a container in which systemd is not process 1.

with Lab() as lab, Host(lab, "bookworm") as host:
    host.copy_checkout()
    host.ssh("systemctl --user is-system-running")
    host.reboot()
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import time
from collections.abc import Sequence
from typing import ClassVar

from tests.lab.machine import CommandFailed, DidNotStart, Machine
from tests.lab.network import ip

__all__ = ["CommandFailed", "Container", "DidNotStart", "Host"]

_BOOT_TIMEOUT = 90.0


class Host(Machine):
    """A Debian host with systemd as process 1, sshd, and two users: `pi` with `sudo` and `guest` without."""

    payload: ClassVar[list[str]] = ["--boot"]

    def start(self) -> None:
        """The same as `boot`."""
        self.boot()

    def boot(self, *, timeout: float = _BOOT_TIMEOUT) -> None:
        """Switch it on and wait until systemd has finished starting and sshd lets `pi` in.

        Units that failed are no reason to give up: what a host does with them is for the test to say.

        Args:
            timeout: In seconds.

        Raises:
            DidNotStart: If it was not ready in time.
        """
        deadline = time.monotonic() + timeout
        self._spawn()
        self._wait_for_leader(deadline)
        state = "no answer from systemd"
        while self.running and time.monotonic() < deadline:
            with contextlib.suppress(subprocess.TimeoutExpired):
                ask = ["systemctl", "is-system-running", "--wait"]
                left = max(1.0, deadline - time.monotonic())
                asked = self.run_as_root(ask, check=False, timeout=left)
                state = asked.stdout.strip() or asked.stderr.strip()
                if state in ("running", "degraded") and self._lets_in("pi"):
                    return
            time.sleep(0.1)
        raise self._did_not_start(f"not ready after {timeout:.0f} s ({state})")

    def shutdown(self, *, timeout: float = _BOOT_TIMEOUT) -> None:
        """Switch it off cleanly, by ``systemctl poweroff``; what it has written stays for the next `boot`.

        Raises:
            subprocess.TimeoutExpired: If it was not off after ``timeout`` seconds.
        """
        self.run_as_root(["systemctl", "poweroff"])
        self.wait_until_off(timeout=timeout)

    def wait_until_off(self, *, timeout: float = _BOOT_TIMEOUT) -> None:
        """Wait for the end of a shutdown begun inside, as by ``host.ssh("sudo poweroff", check=False)``.

        A reboot begun inside ends the same way, switched off, because systemd-nspawn with ``--keep-unit``
        leaves the restart to its caller (its exit status is 133); `boot` then does the other half of it.

        Raises:
            subprocess.TimeoutExpired: If it was not off after ``timeout`` seconds.
        """
        self._wait_for_end(timeout)

    def reboot(self) -> None:
        """`shutdown` and `boot`."""
        self.shutdown()
        self.boot()

    def power_cut(self) -> None:
        """Take its power away; `boot` starts it again from the same disk.

        Its peers get no farewell: the cable is cut first, so that no FIN or RST of a dying process arrives.
        What was written but not synced to disk survives, as the kernel with its caches is the outer one.
        """
        if self.running:
            self.partition(silent=True)
        self._kill()

    def ssh(
        self,
        command: str | Sequence[str],
        *,
        user: str = "pi",
        check: bool = True,
        timeout: float = 300.0,
        input: str | None = None,  # noqa: A002, subprocess's word
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a user by real ssh: a PAM session, so that ``systemctl --user`` works.

        As with any ssh command the shell is no login shell: ``~/.profile`` is not read and ``~/.local/bin``
        not in ``PATH``; say ``bash -lc '...'`` where that matters.

        Args:
            command: Text for the user's shell, or an argument list that is quoted for it.
            user: ``pi``, ``guest``, or one the test has made a key for.
            check: Whether a status other than 0 raises. ssh's own failures are status 255.
            timeout: In seconds.
            input: Standard input; None is empty input.

        Raises:
            CommandFailed: If ``check`` and the command failed.
            subprocess.TimeoutExpired: If it took longer than ``timeout``; the command inside may go on.
        """
        text = command if isinstance(command, str) else shlex.join(command)
        result = subprocess.run(
            [*self.ssh_command(user), text],
            input=input or "",
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and result.returncode != 0:
            raise CommandFailed(result.returncode, text, result.stdout, result.stderr)
        return result

    def ssh_command(self, user: str = "pi") -> list[str]:
        """The ssh command line up to the address, for tests that need a process of their own."""
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "ControlMaster": "no",
            "ControlPath": "none",
            "IdentitiesOnly": "yes",
            "LogLevel": "ERROR",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
        }
        pairs = [f"-o{name}={value}" for name, value in options.items()]
        return ["ssh", "-F", "none", "-i", str(self.lab.ssh_key), *pairs, f"{user}@{self.address}"]

    def _lets_in(self, user: str) -> bool:
        return self.ssh("true", user=user, check=False, timeout=20).returncode == 0


class Container(Machine):
    """The same root without a boot: `systemctl` is there, but process 1 is nspawn's stub, and no sshd runs.

    Processes in the background live on between two calls of `run`, until the container is closed.
    """

    payload: ClassVar[list[str]] = ["--as-pid2", "sleep", "infinity"]

    def start(self) -> None:
        """Start the stub, and give it the network that no networkd sets up here."""
        deadline = time.monotonic() + 30
        self._spawn()
        self._wait_for_leader(deadline)
        enter = ["nsenter", f"--target={self.leader}", "--net", "ip"]
        for words in (
            ["link", "set", "lo", "up"],
            ["address", "add", f"{self.address}/24", "dev", "host0"],
            ["link", "set", "host0", "up"],
            ["route", "add", "default", "via", self.lab.gateway],
        ):
            subprocess.run([*enter, *words], check=True)
        ip("link", "set", self.interface, "up")

    def run(
        self,
        command: str | Sequence[str],
        *,
        user: str = "pi",
        check: bool = True,
        timeout: float = 300.0,
        input: str | None = None,  # noqa: A002, subprocess's word
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a user, in the user's home.

        Args:
            command: An argument list, or text for ``bash -c``.
            user: ``pi``, ``guest`` or ``root``.
            check: Whether a status other than 0 raises.
            timeout: In seconds.
            input: Standard input; None is empty input.

        Raises:
            CommandFailed: If ``check`` and the command failed.
            subprocess.TimeoutExpired: If it took longer than ``timeout``.
        """
        argv = ["bash", "-c", command] if isinstance(command, str) else list(command)
        home = "/root" if user == "root" else f"/home/{user}"
        environment = {"HOME": home, "USER": user, "LOGNAME": user, "SHELL": "/bin/bash"}
        switch = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "env", f"--chdir={home}"]
        return self._enter([*switch, *argv], environment, check=check, timeout=timeout, input=input)
