"""Snapshots of a host, to compare what it was with what it is.

before = snapshot(host)
assert changed(before, snapshot(host)) - LEFT_BY_DEBIAN == set()
"""

from __future__ import annotations

from tests.lab.hosts import Host

# What an installer may change: kind, mode, owner, link target and content of files; packages, linger, units.
_SNAPSHOT = (
    "find /etc /home /usr /opt /var/lib /var/spool -xdev"
    r" \( -path '/home/*/.local/share/swarmbus' -o -path '/home/*/.local/state/swarmbus'"
    r" -o -path '/home/*/swarmbus'"
    r" -o -path /var/lib/apt -o -path '/var/lib/dpkg/*-old' -o -path /var/lib/dpkg/status"
    r" -o -path /var/lib/systemd -o -path /var/lib/dpkg/lock\* -o -path /etc/ld.so.cache \) -prune -o"
    r" \( -type f -o -type l -o -type d \) -printf '%y %m %u %g %l %p\n' | sort;"
    " find /etc /home/*/.config -xdev -type f -exec sha256sum {} + 2>/dev/null | sort -k2;"
    " dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n'; ls /var/lib/systemd/linger;"
    " systemctl list-unit-files --no-legend"
)

#: The user and group of a package stay when it is purged.
LEFT_BY_DEBIAN = {
    f"/etc/{name}{old}" for name in ("passwd", "group", "shadow", "gshadow") for old in ("", "-")
}


def snapshot(host: Host) -> list[str]:
    """The host as it is, without what swarmbus keeps for itself and without apt's own files."""
    return host.run_as_root(_SNAPSHOT).stdout.splitlines()


def changed(before: list[str], after: list[str]) -> set[str]:
    """Paths, packages and units that are not as they were."""
    return {line.split()[-1] for line in set(before) ^ set(after)}
