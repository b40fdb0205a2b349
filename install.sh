#!/bin/sh
# Installs swarmbus from this checkout into a virtual environment of its own, puts `swarmbus` on the PATH
# and hands over to `swarmbus init`. See usage() for the call.
#
#                     environment                           command
#   as root           /opt/swarmbus/venv                    /usr/local/bin/swarmbus
#   as anybody else   ~/.local/share/swarmbus/venv          ~/.local/bin/swarmbus
#
# `venv` is a symbolic link to venv-<something>: a new environment is built beside the old one, tried, and takes its
# place by one rename. Whatever fails before that leaves the old one working. Root is asked for in front of apt-get
# only. A link owned by root never points into a folder that a user can write to.
#
# shellcheck disable=SC2317,SC2329 # functions are handed to step and with_first_of by name
set -eu

min_minor=11 # of Python 3; pyproject.toml: requires-python

usage() {
    cat <<'TEXT'
Usage: ./install.sh [--no-init] [--with-mcp | --without-mcp] [options of `swarmbus init`]

Installs swarmbus from this checkout (as root into /opt/swarmbus, else into ~/.local), then runs `swarmbus init`
with the options given; without any, init sets up one agent named after this host. Run it again to upgrade.

  --no-init       only install
  --with-mcp      with what `swarmbus mcp-server` needs; stays so
  --without-mcp   without it [at first]
  -h, --help      show this

Where there is no terminal to ask on, init is given --yes. The exit status is that of init; 1 when the installation
failed, 3 when another swarmbus is in the way.
TEXT
}

say() { printf '%s\n' "$*" >&2; }

# die STATUS MESSAGE [HINT]: at most three lines, the last of them the log where there is something in it.
die() {
    say "install.sh: $2"
    [ -z "${3-}" ] || say "$3"
    if [ -n "${log-}" ] && [ -s "$log" ]; then
        say "The output of what was run is in $log"
        keep_log=yes
    fi
    exit "$1"
}

# step TEXT COMMAND...: runs it, output to the log, and says how it went.
step() {
    printf '%s ... ' "$1" >&2
    shift
    printf '$ %s\n' "$*" >>"$log"
    if "$@" >>"$log" 2>&1 </dev/null; then
        say OK
    else
        say failed
        return 1
    fi
}

# The one line of the log that says most: the last error in it (pip indents those of its children), else the last line.
complaint() {
    sed -n 's/^ *\(ERROR: .*\|[A-Za-z.]*Error: .*\|[a-z/].*[Nn]o space left.*\)$/\1/p' "$log" | tail -n 1 | grep . ||
        grep -v '^ *$' "$log" | tail -n 1
}

clean_up() {
    rm -rf "${new:-}" "${work:-}"
    [ "${keep_log-}" = yes ] || rm -f "${log:-}"
    if [ "${locked-}" = yes ] && [ ! -e "$venv" ]; then
        rm -f "$prefix/.lock"
        rmdir "$prefix" 2>/dev/null || true
    fi
}

# ---- root, and packages -------------------------------------------------------------------------------------------

as_root() {
    if [ "$uid" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Whether as_root will work. Asks for a password only where somebody is there to type one.
root_in_reach() {
    [ "$uid" != 0 ] || return 0
    command -v sudo >/dev/null 2>&1 || return 1
    sudo -n true 2>/dev/null && return 0
    [ -t 0 ] || return 1
    say "sudo is needed to install $1"
    sudo -v
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends \
        -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=120 "$@"
}

# The package that brings a Python that is new enough, with venv: python3-venv, or on an older Ubuntu python3.11-venv.
# Nothing where the lists of apt know none.
venv_package() {
    minor=$(apt-cache policy python3-venv 2>/dev/null | sed -n 's/^ *Candidate: 3\.\([0-9]*\)\..*/\1/p')
    if [ "${minor:-0}" -ge "$min_minor" ]; then
        echo python3-venv
    else
        apt-cache pkgnames python3. 2>/dev/null | sed -n 's/^python3\.\([0-9]*\)-venv$/\1/p' | sort -n |
            while read -r minor; do [ "$minor" -lt "$min_minor" ] || echo "python3.$minor-venv"; done | tail -n 1
    fi
}

# Installs venv_package. Leaves its name in $package, also where it cannot be installed.
install_venv_package() {
    command -v apt-get >/dev/null 2>&1 || return 1
    package=$(venv_package)
    root_in_reach "${package:-python3-venv}" || return 1
    if [ -z "$package" ]; then
        # An update fails as a whole when one foreign repository does; what counts is what is known afterwards.
        step "apt-get update" apt_get update || true
        package=$(venv_package)
        [ -n "$package" ] || return 1
    fi
    step "apt-get install $package" apt_get install "$package" && return 0
    # The lists may name a version that the mirror no longer has.
    step "apt-get update" apt_get update || true
    step "apt-get install $package" apt_get install "$package"
}

# ---- Python -------------------------------------------------------------------------------------------------------

# Prints the interpreter behind $1 if it is new enough. Behind a shim of pyenv, or inside an active virtual
# environment, that is another file than the one on the PATH.
interpreter() {
    # Root runs no program that a user could have written.
    [ "$uid" != 0 ] || [ "$(stat -L -c %u "$1" 2>/dev/null)" = 0 ] || return 0
    "$1" -I -c 'if True:
        import sys
        if sys.version_info >= (3, int(sys.argv[1])):
            print(getattr(sys, "_base_executable", None) or sys.executable)
        ' "$min_minor" 2>/dev/null </dev/null || true
}

# pythons PATH: every python3 in its folders, in order, a line each.
pythons() {
    printf '%s\n' "$1" | tr : '\n' | while read -r folder; do
        for name in python3 python3.14 python3.13 python3.12 python3.11; do
            [ ! -x "$folder/$name" ] || printf '%s\n' "$folder/$name"
        done
    done
}

# Those that are in no folder of the PATH, or hide there behind a shim that is set to an older one.
pythons_of_managers() {
    for found in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3 "$HOME"/.local/share/uv/python/*/bin/python3; do
        [ ! -x "$found" ] || printf '%s\n' "$found"
    done
}

# with_first_of MAKER CANDIDATES: tries MAKER on each real interpreter until one leaves a working environment in $new.
with_first_of() {
    tried=:
    while read -r candidate; do
        python=$(interpreter "$candidate")
        case "$python $tried" in ' '* | "$python "*":$python:"*) continue ;; esac
        tried="$tried$python:"
        rm -rf "$new"
        if "$1" >>"$log" 2>&1 </dev/null && "$new/bin/python" -I -m pip --version >>"$log" 2>&1; then
            return 0
        fi
        rm -rf "$new"
    done <<LIST
$2
LIST
    return 1
}

# Whether venv and ensurepip are there shows only in the doing: Debian ships venv without ensurepip.
make_venv() {
    printf '$ %s -m venv %s\n' "$python" "$new"
    "$python" -I -m venv "$new"
}

# The way without root on a Debian without python3-venv: its pip, out of a package that anybody can download.
make_venv_with_pip_of_apt() {
    if [ ! -d "$work/pip" ]; then
        mkdir "$work/pip"
        (cd "$work/pip" && apt-get -q download python3-pip-whl && dpkg -x ./*.deb .) || return 1
    fi
    wheel=$(find "$work/pip" -name 'pip-*.whl')
    "$python" -I -m venv --without-pip "$new" &&
        "$new/bin/python" -I "$wheel/pip" install --no-index --no-user "$wheel"
}

# Ends with a working, empty environment in $new, made by $python.
make_new() {
    if [ "$uid" = 0 ]; then
        # What is installed for the host should run on an interpreter that everybody may execute.
        first=$(pythons /usr/local/bin:/usr/bin)
        last=$(pythons "$PATH"; pythons_of_managers)
    else
        first=$(pythons "$PATH:/usr/local/bin:/usr/bin"; pythons_of_managers)
        last=$first
    fi
    printf 'finding Python 3.%s or newer with venv ... ' "$min_minor" >&2
    if with_first_of make_venv "$first"; then
        say "OK ($python)"
        return 0
    fi
    say none
    package=
    if install_venv_package && with_first_of make_venv "$(pythons "/usr/bin:/usr/local/bin:$PATH")"; then
        return 0
    fi
    if with_first_of make_venv "$last"; then
        say "going on with $python"
        return 0
    fi
    if [ "$uid" != 0 ] && [ "$tried" != : ] && command -v apt-get >/dev/null 2>&1 &&
        step "taking pip out of Debian's python3-pip-whl" with_first_of make_venv_with_pip_of_apt "$first"; then
        return 0
    fi
    return 1
}

# Says what is missing and the one command that mends it.
die_without_python() {
    if [ "$tried" = : ]; then
        what="this host has no Python 3.$min_minor or newer"
    else
        what="no Python here can make virtual environments (tried ${tried#:}"
        what="${what%:}: no ensurepip)"
    fi
    if [ -z "$package" ] && command -v apt-get >/dev/null 2>&1; then
        # With a new Python, or with lists that know nothing, it is the usual package that is missing.
        if [ "$tried" != : ] || ! apt-cache show python3-venv >/dev/null 2>&1; then
            package=python3-venv
        fi
    fi
    mend="apt-get update && apt-get install -y --no-install-recommends $package"
    if [ -n "$package" ] && [ "$uid" = 0 ]; then
        die 1 "$what, and $package could not be installed" "Mend it with: $mend"
    elif [ -n "$package" ]; then
        die 1 "$what" "Ask an administrator to run: $mend"
    fi
    # shellcheck disable=SC2016 # the user's shell shall expand it
    die 1 "$what, and neither has its package manager" \
        'Mend it with: curl -LsSf https://astral.sh/uv/install.sh | sh && "$HOME/.local/bin/uv" python install 3.13'
}

# ---- the environment ----------------------------------------------------------------------------------------------

# What is installed in environment $1, and from what: changes when the checkout does, and when something else than
# this script has changed the installed package.
stamp() {
    (
        cd "$here"
        find pyproject.toml README.md LICENSE install.sh swarmbus provision templates docs/checks -type f \
            ! -path '*/__pycache__/*' -exec sha256sum {} + 2>/dev/null | LC_ALL=C sort -k 2 | sha256sum
    )
    cat "$1"/lib/python3*/site-packages/swarmbus-*.dist-info/RECORD 2>/dev/null | sha256sum
}

# The extras that environment $1 was made with. `swarmbus upgrade` reads this file too, and copies it.
extras_of() {
    cat "$1/.extras" 2>/dev/null || true
}

up_to_date() {
    [ "$(extras_of "$venv")" = "$extras" ] && [ -e "$venv/.installed-from" ] && [ "$(cat "$venv/.installed-from")" = "$(stamp "$venv")" ] && works "$venv"
}

works() {
    "$1/bin/python" -I "$1/bin/swarmbus" --version </dev/null
}

# Python writes the path of an environment into its scripts; ours will be reached by another one.
point_scripts_at_venv() {
    "$new/bin/python" -I -c 'if True:
        import pathlib, sys
        new, venv = (text.encode() for text in sys.argv[1:])
        for script in pathlib.Path(sys.argv[1], "bin").iterdir():
            if script.is_file() and not script.is_symlink() and new in (text := script.read_bytes()):
                script.write_bytes(text.replace(new, venv))
        ' "$new" "$venv"
}

# place_link TARGET LINK: in one rename, whatever was there before.
place_link() {
    ln -s "$1" "$2.$$" && mv -fT "$2.$$" "$2"
}

install_environment() {
    new=$prefix/venv-$(date +%Y%m%d%H%M%S)-$$
    work=$prefix/.work.$$
    mkdir "$work"
    make_new || die_without_python
    # --no-user: where pip's configuration says user = true, it refuses to install into an environment.
    step "installing swarmbus $version and what it depends on" \
        "$new/bin/python" -I -m pip install --no-input --no-user --disable-pip-version-check \
        "$here${extras:+[$extras]}" ||
        die 1 "pip could not install swarmbus: $(complaint)" \
            "It needs its package index, or a wheelhouse (pip config list); run this again when that can be reached."
    if ! step "trying it" works "$new"; then
        die 1 "what was installed does not run: $(complaint)"
    fi
    point_scripts_at_venv
    printf '%s\n' "$extras" >"$new/.extras"
    stamp "$new" >"$new/.installed-from"
    if [ -d "$venv" ] && [ ! -L "$venv" ]; then
        mv "$venv" "$prefix/venv-replaced-$$" # made by hand; goes with the other old ones below
    fi
    place_link "${new##*/}" "$venv"
    new=
    sweep
}

# Takes away what is not in use: the environment before this one, and what a killed run has left.
sweep() {
    current=$(readlink "$venv" || true)
    for old in "$prefix"/venv-* "$prefix"/.work.*; do
        [ "${old##*/}" = "$current" ] || [ "$old" = "${work-}" ] || rm -rf "$old"
    done
}

# ---- the command --------------------------------------------------------------------------------------------------

refuse_foreign_command() {
    [ -e "$link" ] || return 0 # nothing, or a link to what is gone
    if [ "$(readlink "$link")" != "$venv/bin/swarmbus" ]; then
        owner=$(readlink -f "$link")
        case $owner in
            */pipx/venvs/*) mend="pipx uninstall $(printf %s "${owner#*/pipx/venvs/}" | cut -d / -f 1)" ;;
            */uv/tools/*) mend="uv tool uninstall $(printf %s "${owner#*/uv/tools/}" | cut -d / -f 1)" ;;
            *) mend="mv $link $link.before-swarmbus" ;;
        esac
        die 3 "$link belongs to another installation ($owner)" "Take that away first: $mend"
    fi
}

# The file that the login shell $1 reads.
login_file() {
    case $1 in
        */zsh) echo "$HOME/.zprofile" ;;
        */bash)
            for file in "$HOME/.bash_profile" "$HOME/.bash_login"; do
                if [ -r "$file" ]; then
                    echo "$file"
                    return
                fi
            done
            echo "$HOME/.profile"
            ;;
        *) echo "$HOME/.profile" ;;
    esac
}

# Sets $reminder where the command will be found by the next login only.
put_on_path() {
    reminder=
    case ":$PATH:" in *":$bin:"*) ;; *) reminder="In this shell, first: export PATH=\"$bin:\$PATH\"" ;; esac
    [ "$uid" != 0 ] || return 0
    shell=$(getent passwd "$uid" | cut -d : -f 7)
    case $shell in
        */sh | */bash | */dash | */ksh | */zsh) ;;
        *)
            [ -z "$reminder" ] || say "add $bin to the PATH of your shell (${shell:-unknown})"
            return 0
            ;;
    esac
    # A login shell as sshd starts it; a profile that waits for something must not hold us up.
    found=$(env -i HOME="$HOME" USER="$(id -un)" LOGNAME="$(id -un)" SHELL="$shell" TERM=dumb PATH=/usr/local/bin:/usr/bin:/bin \
        timeout 10 "$shell" -l -c "printf '\\n%s\\n' \"\$PATH\"" </dev/null 2>/dev/null | tail -n 1) || found=
    case ":$found:" in *":$bin:"*) return 0 ;; esac
    file=$(login_file "$shell")
    # shellcheck disable=SC2016 # the login shell shall expand it
    line='export PATH="$HOME/.local/bin:$PATH" # added by the install.sh of swarmbus'
    if [ -s "$file" ] && [ -n "$(tail -c 1 "$file")" ]; then
        line=$(printf '\n%s' "$line")
    fi
    if printf '%s\n' "$line" >>"$file"; then
        say "added one line to $file: $bin is on the PATH from the next login on"
    else
        say "add $bin to your PATH: $file cannot be written"
    fi
}

# ---- main ---------------------------------------------------------------------------------------------------------

run_init=yes
mcp= # with, without, or as it was
left=$#
while [ "$left" -gt 0 ]; do
    argument=$1
    shift
    left=$((left - 1))
    case $argument in
        --no-init) run_init=no ;;
        --with-mcp) mcp=with ;;
        --without-mcp) mcp=without ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) set -- "$@" "$argument" ;;
    esac
done

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
uid=$(id -u)

if [ "$uid" = 0 ] && [ "${SUDO_UID:-0}" != 0 ]; then
    PATH=$PATH:/usr/sbin:/sbin # for runuser
    user=$(id -un "$SUDO_UID")
    say "started through sudo: going on as $user (to install for the whole host: env -u SUDO_UID $0)"
    [ "$run_init" = yes ] || set -- --no-init "$@"
    [ -z "$mcp" ] || set -- "--$mcp-mcp" "$@"
    runuser -u "$user" -- test -r "$here/install.sh" ||
        die 1 "$user cannot read $here" "Move the checkout to where $user can read it, or: env -u SUDO_UID $0"
    runtime=/run/user/$SUDO_UID
    [ ! -d "$runtime" ] || export XDG_RUNTIME_DIR="$runtime"
    home=$(getent passwd "$SUDO_UID" | cut -d : -f 6)
    cd /
    exec runuser -u "$user" -- env -u SUDO_UID -u SUDO_GID -u SUDO_USER -u SUDO_COMMAND \
        HOME="$home" USER="$user" LOGNAME="$user" sh "$here/install.sh" "$@"
fi

# Nothing of the caller's Python or pip may send files elsewhere; indexes, wheelhouses and certificates stay.
unset PYTHONPATH PYTHONHOME PYTHONUSERBASE PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER PIP_PYTHON PIP_DRY_RUN \
    PIP_NO_DEPS PIP_REQUIRE_VIRTUALENV PIP_REQUIRE_VENV PIP_EDITABLE PIP_REQUIREMENT PIP_SRC
export PYTHONDONTWRITEBYTECODE=1 LC_ALL=C

HOME=${HOME:-$(getent passwd "$uid" | cut -d : -f 6)}
if [ "$uid" = 0 ]; then
    umask 022
    prefix=/opt/swarmbus bin=/usr/local/bin
else
    prefix=$HOME/.local/share/swarmbus bin=$HOME/.local/bin
fi
venv=$prefix/venv
link=$bin/swarmbus
case $mcp in
    with) extras=mcp ;;
    without) extras= ;;
    *) extras=$(extras_of "$venv") ;;
esac

version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$here/swarmbus/version.py" 2>/dev/null) || version=
[ -n "$version" ] || die 1 "$here is no checkout of swarmbus" "Run install.sh from inside the checkout."
if [ ! -e "$here/swarmbus/provision/__init__.py" ] || [ ! -d "$here/swarmbus/templates" ]; then
    die 1 "this checkout has lost its symbolic links (swarmbus/provision, swarmbus/templates)" \
        "Mend it with: git -C $here config core.symlinks true && git -C $here checkout -- swarmbus"
fi
refuse_foreign_command

log=$(mktemp "${TMPDIR:-/tmp}/swarmbus-install.XXXXXX")
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir -p "$prefix" "$bin" 2>>"$log" || die 1 "cannot write to ${prefix%/swarmbus} or $bin"
if [ ! -w "$prefix" ] || [ ! -w "$bin" ]; then
    die 1 "cannot write to $prefix or $bin"
fi
exec 9>>"$prefix/.lock"
flock -n 9 || die 1 "another install.sh is at work in $prefix"
locked=yes
sweep

if up_to_date >>"$log" 2>&1; then
    say "swarmbus $version in $venv: already up to date"
else
    say "installing swarmbus $version into $venv"
    install_environment
fi
[ "$(readlink "$link" || true)" = "$venv/bin/swarmbus" ] || place_link "$venv/bin/swarmbus" "$link"
put_on_path
reached=$(PATH="$PATH:$bin" command -v swarmbus)
if [ "$reached" != "$link" ]; then
    say "note: on this PATH, swarmbus is $reached and hides $link"
fi
exec 9>&- # what init leaves running must not hold the lock

status=0
if [ "$run_init" = yes ]; then
    if [ ! -t 0 ] || [ ! -t 2 ]; then
        set -- --yes "$@" # nobody there to be asked
    fi
    unset PYTHONDONTWRITEBYTECODE
    PATH="$bin:$PATH" "$link" init "$@" || status=$?
fi
[ -z "$reminder" ] || say "$reminder"
exit "$status"
