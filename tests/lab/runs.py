"""One run of the lab: its folder, its bridge and subnet, and the key to its hosts."""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from tests.lab.cache import cache_folder, try_lock
from tests.lab.images import hold, image
from tests.lab.network import chains_that_drop_forwarded, free_network, ip, nft
from tests.lab.traces import demolish, sweep


class Lab:
    """A network of its own for the hosts of one test run; a context manager.

    Several may be open at the same time, also of different checkouts and users' caches.

    Attributes:
        run_id: ``sb`` and four hexadecimal digits; also the bridge's name.
        network: The subnet; its first address is this machine's end of the bridge.
        folder: Where the hosts' own folders are.
        ssh_key: Private key that opens every host of this run.
    """

    def __init__(self) -> None:
        self._runs = cache_folder() / "runs"
        self._runs.mkdir(exist_ok=True)
        sweep(self._runs)
        self.run_id, self._lock = self._claim()
        self.folder = self._runs / self.run_id
        self.folder.mkdir()
        self.ssh_key = self.folder / "ssh_key"
        self.network = free_network()
        self._seats = 0
        self._images: dict[str, tuple[Path, TextIO]] = {}

    def __enter__(self) -> Self:
        try:
            keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.ssh_key)]
            subprocess.run(keygen, check=True)
            self._connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what still runs and remove all traces of this run, whatever state it is in."""
        demolish(self.folder)
        for _, handle in self._images.values():
            handle.close()
        self._images.clear()
        (self._runs / f"{self.run_id}.lock").unlink(missing_ok=True)
        self._lock.close()

    @property
    def gateway(self) -> str:
        """This machine's address on the bridge."""
        return str(self.network[1])

    def image(self, suite: str) -> Path:
        """The base root file system of ``suite``, which is not removed while this run lasts."""
        if suite not in self._images:
            root = image(suite)
            self._images[suite] = root, hold(root)
        return self._images[suite][0]

    def take_seat(self) -> tuple[str, str]:
        """A machine name and an address that nothing else in this run has had."""
        self._seats += 1
        return f"{self.run_id}-{self._seats:02d}", str(self.network[10 + self._seats])

    def _claim(self) -> tuple[str, TextIO]:
        while True:
            run_id = f"sb{secrets.token_hex(2)}"
            lock = try_lock(self._runs / f"{run_id}.lock")
            if lock is not None:
                if not (self._runs / run_id).exists() and not Path("/sys/class/net", run_id).exists():
                    return run_id, lock
                lock.close()

    def _connect(self) -> None:
        address = f"{self.gateway}/{self.network.prefixlen}"
        ip("link", "add", self.run_id, "type", "bridge")
        ip("address", "add", address, "dev", self.run_id)
        ip("link", "set", self.run_id, "up")
        # Left on at the end: another run, or the machine's own containers, may need it by then.
        forward = Path("/proc/sys/net/ipv4/ip_forward")
        if forward.read_text() != "1\n":
            forward.write_text("1\n")
        rule = f'ip saddr {self.network} oifname != "{self.run_id}" masquerade;'
        chain = f"chain out {{ type nat hook postrouting priority srcnat; {rule} }}"
        nft(f"table ip {self.run_id} {{ {chain}; }}")
        # An accept in a table of our own does not help against a drop in another one (Docker's, ufw's).
        for family, table, chain in chains_that_drop_forwarded():
            for direction in ("iifname", "oifname"):
                nft(f'insert rule {family} {table} {chain} {direction} "{self.run_id}" accept')
