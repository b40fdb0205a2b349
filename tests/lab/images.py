"""Base root file systems, built once by debootstrap into the cache and shared read-only by all hosts.

root = image("bookworm")          # 60 to 90 s the first time, then nothing
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TextIO

from tests.lab import outside
from tests.lab.cache import cache_folder, locked, try_lock

#: Suites and the Python each brings.
SUITES = {"bookworm": "3.11", "trixie": "3.13"}

#: A Raspberry Pi OS Lite that has been reached by ssh, and no more: no mosquitto, no python3-venv, no polkit.
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "dbus-user-session",
    "libpam-systemd",
    "python3",
    "sudo",
    "ca-certificates",
    "iproute2",
    "iputils-ping",
    "procps",
    "openssh-server",
)

#: Downloaded into the image's apt archive and not installed, so that tests that install them do not wait.
ARCHIVED_PACKAGES = ("mosquitto", "mosquitto-clients", "python3-venv")

USERS = {"pi": 1000, "guest": 1001}

#: Part of the digest: raise it when the code below lays out a different root.
RECIPE = 1

# Package lists age: after some weeks they name versions that the mirror has dropped.
_MAXIMUM_AGE_DAYS = 14

_SSHD = """\
# The lab opens many short sessions; name look-ups and penalties (OpenSSH 9.8) would only slow it down.
UseDNS no
"""


def image(suite: str) -> Path:
    """The root file system of ``suite``, built now when the cache has none that fits the recipe.

    Raises:
        KeyError: If the suite is none of `SUITES`.
        subprocess.CalledProcessError: If a step of the build failed; its output is in ``NAME.log`` beside it.
    """
    assert suite in SUITES, f"unknown suite {suite!r}; known: {', '.join(SUITES)}"
    folder = cache_folder() / "images"
    folder.mkdir(exist_ok=True)
    root = folder / f"{suite}-{_digest(suite)}"
    stamp = folder / f"{root.name}.stamp"
    with locked(folder / f"{suite}.lock"):
        if not (stamp.exists() and root.is_dir()):
            partial = folder / f"{root.name}.partial"
            _remove_tree(root)
            _remove_tree(partial)
            _build(suite, partial, folder / f"{suite}.log")
            partial.rename(root)
            stamp.touch()
        os.utime(stamp)  # "last used", for the pruning below
        _prune(folder, suite, keep=root)
    return root


def hold(root: Path) -> TextIO:
    """Keep ``root`` from being pruned until the returned file is closed."""
    handle = try_lock(root.with_name(f"{root.name}.stamp"), shared=True)
    assert handle is not None, f"{root} is being pruned, although it was used just now"
    return handle


def _digest(suite: str) -> str:
    age = int(time.time() // (_MAXIMUM_AGE_DAYS * 86400))
    parts = [suite, RECIPE, PACKAGES, ARCHIVED_PACKAGES, USERS, age, _SSHD]
    parts += [outside.debian_mirror(), outside.apt_settings(), outside.pip_settings(), outside.proxies()]
    parts += [outside.certificates_unknown_to("")]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def _build(suite: str, root: Path, log: Path) -> None:
    with log.open("w") as output:

        def run(*argv: str) -> None:
            print("+", *argv, file=output, flush=True)
            environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"} | outside.proxies()
            subprocess.run(
                argv, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL, check=True
            )

        def inside(*argv: str) -> None:
            run("chroot", str(root), "env", "DEBIAN_FRONTEND=noninteractive", *argv)

        mirror = outside.debian_mirror()
        include = f"--include={','.join(PACKAGES)}"
        run("debootstrap", "--variant=minbase", include, suite, str(root), *([mirror] if mirror else []))
        _lay_settings(root)
        inside("update-ca-certificates")
        for user, uid in USERS.items():
            inside("useradd", "--create-home", "--shell=/bin/bash", f"--uid={uid}", user)
            inside("install", "-d", "-m700", f"-o{user}", f"-g{user}", f"/home/{user}/.ssh")
        inside("usermod", "--append", "--groups=sudo,adm,systemd-journal", "pi")
        inside("systemctl", "enable", "systemd-networkd")
        # They hold apt's lock at moments of their own choosing; a test that wants it held holds it itself.
        inside("systemctl", "disable", "apt-daily.timer", "apt-daily-upgrade.timer")
        inside("apt-get", "update")
        inside("apt-get", "clean")
        inside("apt-get", "install", "--yes", "--download-only", *ARCHIVED_PACKAGES)
        # What each host must have of its own, and what systemd-nspawn would otherwise complain about.
        for name in ("etc/machine-id", "etc/hostname", "etc/resolv.conf", "var/lib/dbus/machine-id"):
            (root / name).unlink(missing_ok=True)


def _lay_settings(root: Path) -> None:
    files = {
        "etc/resolv.conf": outside.resolv_conf(),
        "etc/apt/apt.conf.d/90lab": outside.apt_settings(),
        "etc/dpkg/dpkg.cfg.d/lab": "force-unsafe-io\n",  # the host is thrown away; speed is all that counts
        "etc/pip.conf": outside.pip_settings(),
        "etc/environment": "".join(f"{name}={value}\n" for name, value in outside.proxies().items()),
        "etc/ssh/sshd_config.d/lab.conf": _SSHD,
        "etc/sudoers.d/010_pi-nopasswd": "pi ALL=(ALL) NOPASSWD: ALL\n",  # as Raspberry Pi OS writes it
    }
    bundle = (root / outside.CERTIFICATE_BUNDLE.lstrip("/")).read_text()
    for number, pem in enumerate(outside.certificates_unknown_to(bundle)):
        files[f"usr/local/share/ca-certificates/lab-{number}.crt"] = f"{pem}\n"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "etc/sudoers.d/010_pi-nopasswd").chmod(0o440)
    (root / outside.WHEELHOUSE.lstrip("/")).mkdir(parents=True, exist_ok=True)


def _prune(folder: Path, suite: str, *, keep: Path) -> None:
    """Remove this suite's images that nobody has used for as long as an image lives and nobody holds."""
    oldest = time.time() - _MAXIMUM_AGE_DAYS * 86400
    for stamp in folder.glob(f"{suite}-*.stamp"):
        root = stamp.with_suffix("")
        if root == keep or stamp.stat().st_mtime > oldest:
            continue
        if (lock := try_lock(stamp)) is not None:
            with lock:
                stamp.unlink()
                _remove_tree(root)


def _remove_tree(root: Path) -> None:
    """Remove a root file system, after what an interrupted debootstrap may have left mounted in it."""
    if not root.exists():
        return
    for name in ("proc", "sys", "dev"):
        while os.path.ismount(root / name):
            subprocess.run(["umount", "--lazy", str(root / name)], check=True)
    shutil.rmtree(root)
