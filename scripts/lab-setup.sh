#!/bin/sh
# Install, on Debian or Ubuntu, what the tests on booted hosts need of the machine they run on (as root).
# The same list, with the reasons, is in tests/lab/requirements.py.
set -eu

missing=
for pair in debootstrap:debootstrap systemd-nspawn:systemd-container nft:nftables ip:iproute2 \
    ssh:openssh-client ssh-keygen:openssh-client git:git; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
# On Ubuntu debootstrap knows no keys of Debian's; without them it would refuse, or not check.
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing="$missing debian-archive-keyring"

[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "lab-setup.sh: missing:$missing. Run this as root, or install them yourself." >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update
# shellcheck disable=SC2086  # a list of package names
apt-get install --yes --no-install-recommends $missing
