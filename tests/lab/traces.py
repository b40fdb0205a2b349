"""What a run of the lab leaves on this machine, found without any record, and how it is cleared away.

All of it carries the run id (``sb3f9c``): the interfaces ``sb3f9c`` and ``vb-sb3f9c-01``, the nftables table
``sb3f9c``, control groups or scopes ``sb3f9c-01``; and systemd-nspawn's arguments name the run's folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.lab.cache import locked, try_lock
from tests.lab.network import delete_rules_naming, remove_link

#: Where systemd-nspawn mounts into running machines from.
_PROPAGATE = Path("/run/systemd/nspawn/propagate")


def sweep(runs: Path) -> None:
    """Clear away the runs in this folder whose process is gone."""
    with locked(runs / "sweep.lock", timeout=120):
        for path in runs.glob("sb*.lock"):
            if (lock := try_lock(path)) is not None:
                with lock:
                    demolish(path.with_suffix(""))
                    path.unlink()


def demolish(folder: Path) -> None:
    """Remove all that the run with this folder has made; what is not there (any more) is passed over."""
    run_id = folder.name
    assert re.fullmatch(r"sb[0-9a-f]{4}", run_id), f"not a run's folder: {folder}"
    for pid in _nspawn_processes(folder):
        kill_machine(pid)
    for point in _mount_points_below(folder):
        subprocess.run(["umount", "--lazy", point], check=True)
    for machine in _machines_of(run_id):
        clear_after(machine)
    remove_link(run_id)
    if shutil.which("nft"):
        subprocess.run(["nft", "delete", "table", "ip", run_id], capture_output=True)
        delete_rules_naming(run_id)
    if folder.exists():
        shutil.rmtree(folder)


def kill_machine(nspawn: int) -> None:
    """End all that runs in a machine at once, as by a power cut, and then its systemd-nspawn process.

    The kernel kills the rest of a process namespace with its process 1. nspawn notices, clears its locks and
    mounts away and ends; only if it does not is it killed as well.
    """
    for pids, patience in ((children(nspawn), 5.0), ([nspawn], 10.0)):
        for pid in pids if _is_alive(nspawn) else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + patience
        while _is_alive(nspawn) and time.monotonic() < deadline:
            time.sleep(0.02)


def clear_after(machine: str) -> None:
    """Remove what a machine that has ended leaves outside its folder."""
    remove_link(f"vb-{machine}")
    for hierarchy in cgroup_hierarchies():
        _remove_cgroup(hierarchy / machine)
    # Where /run is no tmpfs nspawn refuses to do it itself: "Attempted to remove disk file system".
    with contextlib.suppress(OSError):
        (_PROPAGATE / machine).rmdir()


def _machines_of(run_id: str) -> set[str]:
    """The machines of a run that have left anything for `clear_after`."""
    links = {path.name.removeprefix("vb-") for path in Path("/sys/class/net").glob(f"vb-{run_id}-*")}
    folders = (*cgroup_hierarchies(), _PROPAGATE)
    return links.union(path.name for folder in folders for path in folder.glob(f"{run_id}-*"))


def children(pid: int) -> list[int]:
    """The direct children of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError):  # it may end while we look
                stat = (entry / "stat").read_text(errors="replace")
                if int(stat.rpartition(")")[2].split()[1]) == pid:
                    found.append(int(entry.name))
    return found


def _is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not, it waits for its parent to ask."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _nspawn_processes(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                argv = (entry / "cmdline").read_text(errors="replace").split("\0")
                inside = any(word.startswith(f"--directory={folder}/") for word in argv)
                if inside and Path(argv[0]).name == "systemd-nspawn":
                    found.append(int(entry.name))
    return found


def _mount_points_below(folder: Path) -> list[str]:
    """Innermost first, as they must be unmounted."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted((point for point in points if point.startswith(f"{folder}/")), reverse=True)


def cgroup_hierarchies() -> list[Path]:
    """The hierarchies a host's systemd keeps its units in: cgroup2, and version 1's ``name=systemd``."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            found.append(Path(fields.split()[4]))
    return found


def _remove_cgroup(group: Path) -> None:
    """Remove a control group and those in it, once the kernel has let go of the processes in them."""
    deadline = time.monotonic() + 5
    while group.exists():
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)  # noqa: PTH106, the same call
        if time.monotonic() > deadline:
            return  # an empty group costs nothing, and the next sweep tries again
        time.sleep(0.02)
