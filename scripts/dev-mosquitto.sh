#!/bin/sh
# dev-mosquitto.sh FOLDER PYTHON: a mosquitto for the tests, where none is installed: as root by apt, else Debian's
# package unpacked into FOLDER, so that no system service comes to a developer's machine unasked.
set -eu
cd "$(dirname "$0")/.."
folder=$1
python=$2

PATH=$PATH:/usr/sbin:/usr/local/sbin
if command -v mosquitto >/dev/null || [ -d "$folder" ]; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "mosquitto is not installed; the tests that need it will be skipped" >&2
elif [ "$(id -u)" -eq 0 ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q -y --no-install-recommends install mosquitto ||
        { apt-get -q update && apt-get -q -y --no-install-recommends install mosquitto; }
else
    "$python" -m tests.lab.mosquitto_program "$folder"
fi
