"""``swarmbus --user NAME COMMAND``: root calls a command for an account that nobody logs in as."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import click

from swarmbus.cli import installing, output
from swarmbus.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from swarmbus.provision.layout import Layout
    from swarmbus.provision.request import Request
    from swarmbus.provision.system import System

_KEEPING_ROOT: Final = ("init", "apply", "plan", "uninstall", "restart", "upgrade")
"""Commands that may have steps for root. All others give it up for good: the doctor looks in many threads."""

_CREATING: Final = ("init", "apply", "plan")
"""Commands that can create the account."""


@dataclass(frozen=True)
class ForAccount:
    """Whom the command is called for.

    Attributes:
        missing: There is no such account yet; `create` is called before anything else.
        created: It is one that we created, and that nobody owns; known where it matters, for ``uninstall``.
    """

    name: str
    missing: bool = False
    created: bool = False


def act(name: str, command: str | None) -> ForAccount:
    """Act for that account from here on, unless it is one that the command can create.

    Args:
        command: What is called for it.

    Raises:
        NoAccount, UsageError, CannotRun: If nobody can act for it.
    """
    from swarmbus.provision.acting import NoAccount, act_for  # noqa: PLC0415  # only root has a use for it

    created = command == "uninstall" and _is_ours(name)
    try:
        act_for(name, keeping_root=command in _KEEPING_ROOT)
    except NoAccount:
        if command not in _CREATING:
            raise
        return ForAccount(name, missing=True)
    return ForAccount(name, created=created)


def asked() -> ForAccount | None:
    """Whom this command is called for; None if for the caller."""
    found: ForAccount | None = click.get_current_context().find_root().obj
    return found


def _is_ours(name: str) -> bool:
    if os.geteuid() != 0:
        return False  # `act_for` says the rest
    from swarmbus.provision.layout import Layout  # noqa: PLC0415
    from swarmbus.provision.local_system import LocalSystem  # noqa: PLC0415
    from swarmbus.provision.service_account import is_ours  # noqa: PLC0415

    return is_ours(LocalSystem(), Layout.of_this_user(), name)


def create(*, dry_run: bool, yes: bool, as_json: bool) -> ExitStatus | None:
    """Create the account of ``--user`` if it is not there, and act for it.

    Returns:
        The exit status if the rest is not to be done.
    """
    account = asked()
    if account is None or not account.missing:
        return None
    from swarmbus.provision.acting import act_for  # noqa: PLC0415
    from swarmbus.provision.local_system import LocalSystem  # noqa: PLC0415
    from swarmbus.provision.service_account import prepare_account  # noqa: PLC0415

    prepared = prepare_account(LocalSystem(), account.name)
    if dry_run:
        output.note(f"what comes after it can be planned once there is the account {account.name}")
        return installing.show_only(prepared.plan, as_json=as_json)
    outcome = installing.carry_out_plan("swarmbus", prepared, yes=yes, as_json=False, gate=None)
    if outcome is None or outcome.failed:
        return ExitStatus.NO if outcome is None else outcome.exit_status
    act_for(account.name)
    return None


def with_scope(system: System, layout: Layout, request: Request) -> Request:
    """The request, and at first for the system's units: an account that nobody logs in as has no others.

    Raises:
        UsageError: If it is for the user's units all the same, and no systemd is there for them.
    """
    if asked() is None:
        return request
    if request.scope == "user" and system.environ.get("XDG_RUNTIME_DIR") is None:
        raise UsageError(
            f"{system.user.name} has no systemd of its own running",
            hint="use --scope system for this account",
        )
    if request.scope is not None:
        return request
    from swarmbus.provision.spec import load_kept  # noqa: PLC0415

    return request if load_kept(system, layout.provision) else replace(request, scope="system")


def take_away(name: str, *, yes: bool) -> ExitStatus:
    """Be root again, and take the account away, which we created, if nothing is in its home any more."""
    from swarmbus.provision.acting import act_for_nobody  # noqa: PLC0415
    from swarmbus.provision.local_system import LocalSystem  # noqa: PLC0415
    from swarmbus.provision.resources.account import Account  # noqa: PLC0415
    from swarmbus.provision.service_account import prepare_account, remove_empty_folders  # noqa: PLC0415

    home = Account(group="", name=name).home
    remove_empty_folders(LocalSystem(), home)
    act_for_nobody()
    system = LocalSystem()
    prepared = prepare_account(system, name, gone=True)
    if left := system.list(home):
        output.note(f"the account {name} stays, for there is something in {home}: {', '.join(left)}")
        return ExitStatus.DONE
    outcome = installing.carry_out_plan("swarmbus uninstall", prepared, yes=yes, as_json=False, gate=None)
    return ExitStatus.NO if outcome is None else outcome.exit_status
