#!/bin/sh
# swarmbus-rescue [ID]: says what keeps the agents of this user from running, and the one command that mends it.
#
# For the day on which `swarmbus` itself does not start: needs a POSIX shell and the usual small programs, no Python.
# Changes nothing. Exit status: 0 nothing found, 1 something is broken, 2 called wrongly.
# As an OnFailure= unit it is given the agent id, and what it says goes to the journal.
set -u
PATH=${PATH:-/usr/local/bin:/usr/bin:/bin}

case ${1-} in
    -h | --help)
        sed -n '2,6s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    *[!a-z0-9_-]*)
        printf 'swarmbus-rescue: not an agent id: %s\n' "$1" >&2
        exit 2
        ;;
esac
only=${1-}

HOME=${HOME:-$(getent passwd "$(id -u)" | cut -d : -f 6)}
state=${SWARMBUS_STATE_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/swarmbus}
units=$HOME/.config/systemd/user
system_units=/etc/systemd/system

# broken WHAT MEND: the first thing that is broken is what has to be mended first.
broken() {
    printf 'broken: %s\n  mend: %s\n' "$1" "$2"
    exit 1
}

# The word after NAME= or "name": in a file, without what is around it.
json_word() {
    sed -n "s/^.*\"$1\": *\"\([^\"]*\)\".*\$/\1/p" "$2" | head -n 1
}

# The interpreter that a unit or a process record starts.
interpreter_of() {
    case $1 in
        *.service) sed -n 's/^ExecStart="\{0,1\}\([^" ]*\).*$/\1/p' "$1" | head -n 1 ;;
        *.json) sed -n 's/^.*"argv": *\["\([^"]*\)".*$/\1/p' "$1" | head -n 1 ;;
    esac
}

# The command that makes the environment $1 again, by who has made it.
remake() {
    if [ -e "$1/uv-receipt.toml" ]; then
        echo "uv tool install --force --reinstall '$(source_of "$1")' && swarmbus restart --all"
    elif [ -e "$1/pipx_metadata.json" ]; then
        echo "pipx reinstall swarmbus && swarmbus restart --all"
    elif [ -L "$1" ] || [ "${1##*/}" = venv ]; then
        echo "$(source_of "$1")/install.sh --yes"
    else
        echo "python3 -m venv --clear '$1' && '$1/bin/python' -m pip install '$(source_of "$1")'"
    fi
}

# Where environment $1 was installed from: a folder or a file if that is known, else the name.
source_of() {
    for file in "$1"/lib/python3*/site-packages/swarmbus-*.dist-info/direct_url.json; do
        if [ -r "$file" ]; then
            found=$(json_word url "$file")
            case $found in file://*) echo "${found#file://}" && return ;; esac
        fi
    done
    echo swarmbus
}

# An environment whose interpreter does not even start, or does not find swarmbus.
check_environment() {
    python=$1
    environment=${python%/bin/*}
    if [ -L "$environment" ] && [ ! -d "$environment" ]; then
        for old in "$environment"-*; do
            if [ -x "$old/bin/python" ] && "$old/bin/python" -I -c 'import swarmbus' 2>/dev/null; then
                broken "$environment points to nothing" "ln -sfnT '${old##*/}' '$environment' && swarmbus restart --all"
            fi
        done
        broken "$environment points to nothing" "$(remake "$environment")"
    fi
    if [ ! -e "$environment" ]; then
        broken "$environment, in which swarmbus was, is gone" "install swarmbus again, then: swarmbus init --yes"
    fi
    if [ ! -e "$python" ]; then
        # A dangling link: a distribution upgrade has taken that Python away.
        broken "the Python of $environment is gone ($(readlink "$python" || echo none))" "$(remake "$environment")"
    fi
    if ! said=$("$python" -I -c 'import sys' 2>&1); then
        broken "$python does not start: $(printf '%s\n' "$said" | tail -n 1)" "$(remake "$environment")"
    fi
    if ! said=$("$python" -I -c 'import swarmbus.listener, swarmbus.cli' 2>&1); then
        broken "swarmbus in $environment cannot be loaded: $(printf '%s\n' "$said" | tail -n 1)" \
            "$(remake "$environment")"
    fi
}

# Whether the file is the unit of an agent of this user: no template, not the broker, nobody else's.
is_agent_unit() {
    case $1 in *@.service | */swarmbus-broker.service) return 1 ;; esac
    [ -r "$1" ] || return 1
    case $1 in "$system_units"/*) grep -qx "User=$(id -un)" "$1" ;; esac
}

check_unit() {
    unit=${1##*/}
    manager=--user journal="journalctl --user-unit"
    case $1 in "$system_units"/*) manager=--system journal="sudo journalctl --unit" ;; esac
    result=$(systemctl "$manager" show --property Result --value "$unit" 2>/dev/null) || return 0
    status=$(systemctl "$manager" show --property ExecMainStatus --value "$unit" 2>/dev/null)
    [ "$(systemctl "$manager" is-active "$unit" 2>/dev/null)" = failed ] || [ "$result" != success ] || return 0
    id=${unit#swarmbus-}
    id=${id%.service}
    case $status in
        3) broken "another listener has the agent id $id on this host" "swarmbus doctor --agent-id $id" ;;
        78) broken "another client has the agent id $id at the broker" "swarmbus doctor --agent-id $id" ;;
        *) broken "$unit does not stay up ($result, status $status)" \
            "$journal $unit -n 20; then: swarmbus restart $id" ;;
    esac
}

[ -d "$state" ] || broken "there is no $state: no agent was ever set up for $(id -un)" "swarmbus init"
room=$(df -Pk "$state" | awk 'NR == 2 { print $4 }')
[ "${room:-1}" -gt 1024 ] || broken "the disk of $state is full" "make room: du -xh '$HOME' | sort -h | tail"

record=$state/.provision/upgrade.json
if [ -r "$record" ]; then
    kept=$(json_word folder "$record")
    stage=$(json_word stage "$record")
    if [ "$stage" != kept ] && [ -x "$kept/bin/python" ] && ! pgrep -u "$(id -u)" -f 'swarmbus upgrade --go-on' >/dev/null; then
        broken "an upgrade was interrupted" "'$kept/bin/python' -I -m swarmbus upgrade --go-on"
    fi
fi

found=no
# shellcheck disable=SC2231 # the stars are for the shell, here and below
for file in "$units"/swarmbus-${only:-*}.service "$system_units"/swarmbus-${only:-*}.service \
    "$state"/.provision/processes/agent.${only:-*}.json; do
    case $file in
        *.service) is_agent_unit "$file" || continue ;;
        *) [ -r "$file" ] || continue ;;
    esac
    found=yes
    check_environment "$(interpreter_of "$file")"
done
[ "$found" = yes ] || broken "no agent${only:+ $only} is set up here" "swarmbus init${only:+ --agent-id $only}"

if [ -d /run/systemd/system ]; then
    export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}"
    # shellcheck disable=SC2231
    for file in "$units"/swarmbus-${only:-*}.service "$system_units"/swarmbus-${only:-*}.service; do
        is_agent_unit "$file" || continue
        case $file in
            "$units"/*) [ -e "/var/lib/systemd/linger/$(id -un)" ] ||
                broken "$(id -un)'s units end with the login" "sudo loginctl enable-linger $(id -un)" ;;
        esac
        check_unit "$file"
    done
fi
echo "nothing is broken that can be seen without Python; swarmbus doctor sees more"
