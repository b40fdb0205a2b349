"""A service account, created and taken away: runs of root's own, before and after those that act for it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from swarmbus.provision.farewell import FORGET_EVERYTHING
from swarmbus.provision.host import Inspector, gather
from swarmbus.provision.layout import Layout
from swarmbus.provision.manifest import Manifest
from swarmbus.provision.outcome import Prepared
from swarmbus.provision.plan import Wish
from swarmbus.provision.planning import make_plan
from swarmbus.provision.request import Request
from swarmbus.provision.resources.account import Account
from swarmbus.provision.resources.directory import Directory
from swarmbus.provision.spec import DEFAULT_PORT, InstallSpec, load_kept
from swarmbus.provision.system import System


def prepare_account(
    system: System,
    name: str,
    *,
    gone: bool = False,
    layout: Layout | None = None,
    inspector: Inspector | None = None,
) -> Prepared:
    """Plan to create it, or to take it away if it was us who created it; reads only.

    Args:
        system: As root, and not yet acting for anybody.
        gone: With the last that is ours of root's own, its record goes too.

    Returns:
        For `swarmbus.provision.carry_out`.
    """
    layout = layout or Layout.of_this_user()
    account = Account(group=f"account:{name}", name=name)
    kept = load_kept(system, layout.provision) or InstallSpec(agents=())
    wish = Wish(() if gone else (account,), only=frozenset({account.group}))
    manifest = Manifest.load(system, layout.provision)
    ground = Directory(group="host", path=layout.state).id
    last = gone and {entry.id for entry in manifest} <= {account.id, ground}
    return Prepared(
        system,
        layout,
        Request(),
        kept,
        gather(system, port=DEFAULT_PORT, broker_settled=True, inspector=inspector),
        make_plan(wish, system, manifest, layout),
        inspector=inspector,
        replan=partial(prepare_account, system, name, gone=gone, layout=layout, inspector=inspector),
        afterwards=FORGET_EVERYTHING if last else None,
    )


def is_ours(system: System, layout: Layout, name: str) -> bool:
    """Whether it was us who created it.

    Args:
        system: As root, and not yet acting for anybody.
    """
    entry = Manifest.load(system, layout.provision).get(Account(group="", name=name).id)
    return entry is not None and not entry.adopted


def remove_empty_folders(system: System, home: Path) -> None:
    """What is left of a home after installations came and went.

    Args:
        system: Acting for the account, so that nothing in there can lead root elsewhere.
    """
    for name in system.list(home):
        seen = system.stat(home / name)
        if seen is not None and seen.kind == "directory":
            remove_empty_folders(system, home / name)
            system.remove_dir(home / name)  # unless there is something in it
