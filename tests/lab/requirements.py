"""What the lab needs of the machine it runs on, each missing thing told in one sentence."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from tests.lab.cache import cache_folder

#: Program and the Debian package it comes in; `scripts/lab-setup.sh` installs the same packages.
PROGRAMS = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "nft": "nftables",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "git": "git",
    "nsenter": "util-linux",
    "mount": "mount",
}

_MASQUERADE = "table ip NAME { chain out { type nat hook postrouting priority srcnat; masquerade; }; }"


@cache
def missing() -> list[str]:
    """One sentence for each thing that keeps booted hosts from running here; empty when nothing does.

    What can be tried is tried (a mount, a bridge, a firewall rule), because a container often has the
    programs and the user id 0, and still not the rights.
    """
    if sys.platform != "linux":
        return [f"Booted hosts need Linux; this is {sys.platform}."]
    found = [
        f"The program {program} is missing (Debian package {package}); run scripts/lab-setup.sh."
        for program, package in PROGRAMS.items()
        if shutil.which(program) is None
    ]
    if importlib.util.find_spec("pip") is None:
        found.append("pip is missing in the environment of the tests; the wheelhouse is downloaded with it.")
    if os.geteuid() != 0:
        found.append("Booted hosts need root, for mounts and network namespaces; run the tests with sudo.")
    if not _cgroup2_is_mounted():
        found.append("No cgroup2 hierarchy is mounted; systemd in a host cannot start without one.")
    if not found:  # the trials below need all of the above
        found = [sentence for sentence in (_overlay(), _bridge(), _masquerade()) if sentence]
    return found


def _cgroup2_is_mounted() -> bool:
    return any(line.split(" - ")[1].startswith("cgroup2 ") for line in _mountinfo())


def _mountinfo() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def _overlay() -> str | None:
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="overlay-trial-") as folder:
        root = Path(folder)
        for name in ("lower", "upper", "work", "merged"):
            (root / name).mkdir()
        options = f"lowerdir={root}/lower,upperdir={root}/upper,workdir={root}/work"
        complaint = _complaint("mount", "-t", "overlay", "overlay", "-o", options, f"{root}/merged")
        if complaint is None:
            subprocess.run(["umount", f"{root}/merged"], check=True)
            return None
    place = f"in {cache_folder()}; point $SWARMBUS_TEST_CACHE elsewhere"
    return f"An overlay cannot be mounted ({complaint}) {place}."


def _bridge() -> str | None:
    name = f"sbtry{secrets.token_hex(3)}"
    complaint = _complaint("ip", "link", "add", name, "type", "bridge")
    if complaint is None:
        subprocess.run(["ip", "link", "delete", name], check=True)
        return None
    return f"A network bridge cannot be made here ({complaint})."


def _masquerade() -> str | None:
    rules = _MASQUERADE.replace("NAME", f"sbtry{secrets.token_hex(3)}")
    complaint = _complaint("nft", "--check", rules)
    return None if complaint is None else f"nftables cannot masquerade here ({complaint})."


def _complaint(*argv: str) -> str | None:
    """The first line a failing command wrote, or None when it worked."""
    result = subprocess.run(argv, capture_output=True, text=True)
    if result.returncode == 0:
        return None
    return (result.stderr.strip().splitlines() or [f"{argv[0]} ended with {result.returncode}"])[0]
