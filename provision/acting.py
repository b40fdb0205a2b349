"""Acting for another account: root sets up what is that account's, with its rights and not with root's.

What is read and written from then on is read and written with the account's rights, so nothing of its making
can lead root astray. Only the script of root's own steps (`System.run_as_root`) still runs as root.
"""

from __future__ import annotations

import os
import pwd
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from swarmbus.errors import CannotRun, UsageError

_OF_THE_CALLER = ("XDG_", "SWARMBUS_")
_starting = threading.Lock()


class NoAccount(UsageError):
    """There is no account of that name."""


def act_for(name: str, *, keeping_root: bool = True) -> None:
    """Become that account, for this process and all that it starts.

    Args:
        keeping_root: Whether `System.run_as_root` will still work; without it there is no way back.

    Raises:
        NoAccount: If there is none of that name.
        UsageError: If we are not root, or the account is root's.
        CannotRun: If the account could not run swarmbus from where it is installed.
    """
    if os.getuid() != 0:
        raise UsageError(f"only root can act for {name}", hint=f"call it with sudo, or as {name}")
    try:
        account = pwd.getpwnam(name)
    except KeyError as error:
        hint = f"swarmbus --user {name} init --scope system creates it"
        raise NoAccount(f"there is no account {name!r} on this host", hint=hint) from error
    if account.pw_uid == 0:
        raise UsageError("agents do not run as root", hint="name another account: --user swarmbus")
    for variable in [one for one in os.environ if one.startswith(_OF_THE_CALLER)]:
        del os.environ[variable]
    os.environ |= {"HOME": account.pw_dir, "USER": name, "LOGNAME": name}
    os.chdir("/")
    os.initgroups(name, account.pw_gid)
    if keeping_root:
        os.setegid(account.pw_gid)
        os.seteuid(account.pw_uid)
    else:
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    if not os.access(sys.executable, os.X_OK, effective_ids=True) or not os.access(
        __file__, os.R_OK, effective_ids=True
    ):
        raise CannotRun(
            f"the account {name} cannot run swarmbus from {sys.prefix}",
            hint="install it where everybody can read it: as root, ./install.sh puts it into /opt/swarmbus",
        )


def act_for_nobody() -> None:
    """Be root again, as before `act_for`; its environment is not."""
    os.seteuid(0)
    os.setegid(0)
    root = pwd.getpwuid(0)
    os.environ |= {"HOME": root.pw_dir, "USER": root.pw_name, "LOGNAME": root.pw_name}


def is_acting() -> bool:
    """Whether root acts for somebody else here."""
    return os.getuid() == 0 and os.geteuid() != 0


@contextmanager
def starting_a_child() -> Iterator[None]:
    """For the instant in which a child is started that is to be wholly somebody: only root can have it so.

    The rights of a process are those of all its threads (credentials(7), nptl(7)): while one starts a child,
    no other may open a file.
    """
    if not is_acting():
        yield
        return
    account = os.geteuid()
    with _starting:
        os.seteuid(0)
        try:
            yield
        finally:
            os.seteuid(account)
