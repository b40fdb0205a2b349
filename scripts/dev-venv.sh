#!/bin/sh
# dev-venv.sh FOLDER: a virtual environment with swarmbus (editable) and everything its tests need.
set -eu
cd "$(dirname "$0")/.."
venv=$1

# Whether ensurepip is there shows only in the doing: Debian ships venv without it.
make_venv() {
    for name in ${PYTHON-} python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
        "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        rm -rf "$venv"
        "$name" -m venv "$venv" >/dev/null 2>&1 && return 0
    done
    rm -rf "$venv"
    return 1
}

if ! make_venv; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "dev-venv.sh: no Python 3.11 or newer with venv. Mend it with: sudo apt-get install python3-venv" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q -y --no-install-recommends install python3-venv ||
        { apt-get -q update && apt-get -q -y --no-install-recommends install python3-venv; }
    make_venv
fi
# --group is new in pip 25.1; Debian 12's pip is 23.0.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
"$venv/bin/python" -m pip install --quiet --group dev --editable '.[mcp]'
