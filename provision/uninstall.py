"""Uninstall: the engine of ``swarmbus init`` with an empty wish. The host as it was before us.

::

    prepared = prepare_uninstall(LocalSystem(), everything=True)
    outcome = carry_out(prepared, observer=display)

What somebody has changed since stays. Messages stay unless they are to be purged. Manifest and journal go
last, when the run has ended: whoever is killed before calls it again, or takes back what was done.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from swarmbus.errors import Conflict, UsageError
from swarmbus.provision import mosquitto
from swarmbus.provision.apply import tell_the_truth
from swarmbus.provision.conflicts import meant_for, waiting
from swarmbus.provision.desired import desired
from swarmbus.provision.farewell import Farewell, Goodbye
from swarmbus.provision.handed_out import load_manifest
from swarmbus.provision.host import Host, Inspector, gather
from swarmbus.provision.journal import Interrupted, Journal
from swarmbus.provision.layout import Layout
from swarmbus.provision.mail import Mail, find_mail
from swarmbus.provision.manifest import Manifest
from swarmbus.provision.mosquitto_users import foreign_clients, ports_of, reasons_to_stay
from swarmbus.provision.outcome import Prepared
from swarmbus.provision.plan import Plan, Wish, left_over, restart_of, runs_in
from swarmbus.provision.planning import make_plan
from swarmbus.provision.precautions import UNFINISHED, refuse_a_borrowed_home
from swarmbus.provision.request import AgentSpec, Request
from swarmbus.provision.resources.account import Account
from swarmbus.provision.resources.base import Resource, Verb
from swarmbus.provision.resources.directory import Directory
from swarmbus.provision.resources.toml_key import TomlKey
from swarmbus.provision.spec import InstallSpec, load_kept, read_config
from swarmbus.provision.system import System
from swarmbus.provision.upgrade_record import load_record

MakeGoodbye = Callable[[Collection[str], InstallSpec], Goodbye]
"""To agents that may go, made while their settings are still there; the spec is the kept one."""


@dataclass(frozen=True)
class _Found:
    """What is ours on this host, a killed run's last step included.

    Attributes:
        agents: By kept spec, manifest, and what was kept when the killed run began.
    """

    manifest: Manifest
    kept: InstallSpec
    interrupted: Interrupted | None
    agents: tuple[str, ...]

    def owns(self, resource_id: str) -> bool:
        """Whether it was not there before us."""
        entry = self.manifest.get(resource_id)
        return entry is not None and not entry.adopted


def prepare_uninstall(
    system: System,
    agent_ids: Collection[str] = (),
    *,
    everything: bool = False,
    purge: bool = False,
    nobodys: bool = False,
    layout: Layout | None = None,
    inspector: Inspector | None = None,
    goodbye: MakeGoodbye | None = None,
) -> Prepared | None:
    """Look at what is ours and plan; reads only.

    Args:
        agent_ids: Those to take away; all of them is everything.
        everything: Every agent, and what they need.
        purge: Delete messages too.
        nobodys: The home is nobody's, of an account that we created: inbox files in it are messages like any.

    Returns:
        For `swarmbus.provision.carry_out`; None if nothing is installed.

    Raises:
        UsageError: If an agent is not set up here, or it is not clear which is meant.
        Conflict: If an upgrade was killed in the middle.
        StorageError: If the manifest is damaged.
    """
    refuse_a_borrowed_home(system)
    layout = layout or Layout.of_this_user()
    if load_record(system, layout) is not None:
        raise Conflict("an upgrade was interrupted", hint="swarmbus upgrade puts the version before it back")
    found = _look(system, layout)
    _refuse_unknown(found, agent_ids)
    if not found.agents and not _is_something_left(system, layout, purge=purge):
        return None
    if not agent_ids and not everything and len(found.agents) > 1:
        raise UsageError(
            f"there are several agents: {', '.join(found.agents)}",
            hint="name one with --agent-id, or say --all",
        )
    whole = everything or not agent_ids or set(found.agents) <= set(agent_ids)
    if not whole and read_config(system, layout) is None and system.stat(layout.config) is not None:
        raise Conflict(
            f"{layout.config} cannot be parsed, and the agents that stay need it",
            hint="nothing was changed; swarmbus doctor names the line to mend",
        )
    return _prepare(system, layout, frozenset(agent_ids), whole, purge, nobodys, inspector, goodbye)


def _is_something_left(system: System, layout: Layout, *, purge: bool) -> bool:
    """Whether a run was killed at its very end, or messages are to go that stayed before."""
    if system.stat(layout.provision) is not None or (purge and find_mail(system, layout, None)):
        return True
    return system.stat(layout.state) is not None and not system.list(layout.state)


def _look(system: System, layout: Layout) -> _Found:
    manifest = load_manifest(system, layout.provision)
    interrupted = Journal(system, layout.provision).interrupted()
    kept = load_kept(system, layout.provision)
    if interrupted is not None:
        tell_the_truth(manifest, system, interrupted)
        for entry in interrupted.changes:
            if entry.id not in manifest.entries and left_over(entry.resource(), system):
                manifest.entries[entry.id] = entry.as_ours
        if kept is None and interrupted.spec is not None:
            kept = InstallSpec.from_json(interrupted.spec)
    spec = kept or InstallSpec(agents=())
    groups = dict.fromkeys(entry.group for entry in manifest)
    in_manifest = [group.removeprefix("agent:") for group in groups if group.startswith("agent:")]
    before = (interrupted.spec_before if interrupted is not None else None) or {}
    in_journal = [agent["id"] for agent in before.get("agents", ())]
    agents = dict.fromkeys([*(agent.id for agent in spec.agents), *in_manifest, *in_journal])
    return _Found(manifest, spec, interrupted, tuple(agents))


def _refuse_unknown(found: _Found, asked: Collection[str]) -> None:
    for agent in asked:
        if agent not in found.agents:
            here = ", ".join(found.agents) or "none"
            raise UsageError(f"agent {agent!r} is not set up on this host", hint=f"here: {here}")


def _prepare(
    system: System,
    layout: Layout,
    asked: frozenset[str],
    whole: bool,
    purge: bool,
    nobodys: bool,
    inspector: Inspector | None,
    goodbye: MakeGoodbye | None,
) -> Prepared:
    found = _look(system, layout)
    gone = tuple(agent for agent in found.agents if whole or agent in asked)
    spec = replace(found.kept, agents=tuple(one for one in found.kept.agents if one.id not in gone))
    host = gather(system, port=spec.port, broker_settled=True, inspector=inspector)
    mail = find_mail(system, layout, None if whole else gone)
    # The folder of manifest and journal is of the engine's own making, and goes after them.
    ground = Directory(group="host", path=layout.state)
    accounts = _accounts_in_use(system, found.manifest)
    if whole:
        wish, spared = _nothing(system, layout, found)
        spared |= {ground.id, *(account.id for account in accounts)}
    else:
        wish, spared = _the_others(system, layout, found, spec, host, gone), frozenset()
    inboxes = _inboxes(system, layout, found, gone)
    if nobodys and whole:  # of agents that went before their messages do, only the usual place is known
        usual = (layout.home / f"sync/{one.whose}-inbox.md" for one in mail)
        inboxes = tuple(dict.fromkeys([*inboxes, *(path for path in usual if system.stat(path) is not None)]))
    going = tuple(path for path in inboxes if purge and nobodys and path.is_relative_to(layout.home))
    about = (f"{path} stays: it is yours" for path in inboxes if path not in going)
    notes = (
        *wish.notes,
        *_about_mail(mail, purge=purge),
        *(f"deleted for good: {one}" for one in going),
        *about,
    )
    if whole:
        notes = (*notes, *(_about_account(account) for account in accounts))
    if found.interrupted is not None:
        notes = (*notes, UNFINISHED)
    manifest = Manifest({one.id: one for one in found.manifest if one.id not in spared})
    plan = make_plan(wish, system, manifest, layout, pending=_pending(found, wish.groups, spared))
    plan = replace(plan, notes=(*plan.notes, *notes), unfinished=found.interrupted is not None)
    silent = whole and (_package_goes(plan) or found.kept.chosen.get("broker") == "private")
    ending = Farewell(
        gone=gone,
        groups=None if whole and not accounts else wish.groups - {account.group for account in accounts},
        shared=(*wish.resources, ground) if accounts else wish.resources,
        beside=_beside(system, layout, found.manifest, None if whole else wish.groups),
        purge=purge,
        inboxes=going,
        goodbye=None if goodbye is None or silent else goodbye(gone, found.kept),
        port=_other_port(system, found) if whole else None,
    )
    return Prepared(
        system,
        layout,
        Request(agents=tuple(AgentSpec(agent) for agent in gone)),
        spec,
        host,
        plan,
        found.interrupted is not None,
        inspector,
        replan=partial(_prepare, system, layout, asked, whole, purge, nobodys, inspector, goodbye),
        afterwards=ending,
    )


def _nothing(system: System, layout: Layout, found: _Found) -> tuple[Wish, frozenset[str]]:
    """The empty wish, and the ids of what stays all the same: others on this host use it."""
    begun = found.interrupted.changes if found.interrupted is not None else ()
    groups = frozenset(entry.group for entry in (*found.manifest, *begun))
    if found.kept.chosen.get("broker") == "private":
        others = foreign_clients(system, {found.kept.port})
        notes = dict.fromkeys(f"{one.who} is connected to the broker that goes" for one in others)
        return Wish((), tuple(notes), groups), frozenset()
    told, spared = [], set[str]()
    configuration = mosquitto.load(system)
    clients = foreign_clients(system, ports_of(configuration))
    if found.owns(file := f"file:{mosquitto.OUR_FILE}"):
        rest = ports_of(configuration.without(mosquitto.OUR_FILE))
        if users := dict.fromkeys(client.who for client in clients if client.port not in rest):
            spared.add(file)
            told.append(
                f"{mosquitto.OUR_FILE} stays, for it has the port to which {', '.join(users)} is connected;"
                f" once nobody needs it: sudo rm {mosquitto.OUR_FILE} && sudo systemctl restart mosquitto"
            )
    package = f"package:{mosquitto.PACKAGE}"
    why = reasons_to_stay(system, clients) if found.owns(package) else ()
    if why:
        spared.add(package)
        told.append(f"mosquitto stays, for {'; '.join(why)}; to remove it: sudo apt-get purge mosquitto")
    if why or clients:
        spared.add(f"unit:system:{mosquitto.UNIT}")
    return Wish((), tuple(told), groups), frozenset(spared)


def _the_others(
    system: System, layout: Layout, found: _Found, spec: InstallSpec, host: Host, gone: Sequence[str]
) -> Wish:
    """What the remaining agents share with those that go, and not a thing more: they are not touched."""
    groups = frozenset(f"{kind}:{agent}" for kind in ("agent", "adopted") for agent in gone)
    entries = {entry.id: entry for entry in found.manifest}
    shared: list[Resource] = []
    if not spec.agents:  # of the others only the manifest knows
        return Wish((), (), groups)
    if spec.chosen.get("supervisor") is not None:
        wanted = desired(spec, host, layout).resources
        shared = [one for one in wanted if one.id in entries and entries[one.id].group in groups]
    first = TomlKey(group="host", path=layout.config, table=(), key="agent_id", value=spec.agents[0].id)
    ours = entries.get(first.id)
    named = (read_config(system, layout) or {}).get("agent_id")
    if ours is not None and not ours.adopted and named in gone:
        shared.append(first)
    return Wish(tuple(shared), (), groups)


def _accounts_in_use(system: System, manifest: Manifest) -> tuple[Account, ...]:
    """Of those that root created for agents: in whose home there is something, and so perhaps agents."""
    made = [entry.resource() for entry in manifest if entry.kind == Account.kind and not entry.adopted]
    accounts = [one for one in made if isinstance(one, Account)]
    return tuple(account for account in accounts if system.list(account.home))


def _about_account(account: Account) -> str:
    why = f"for there is something in {account.home}"
    return f"the account {account.name} stays, {why}: swarmbus --user {account.name} uninstall --all --purge"


def _package_goes(plan: Plan) -> bool:
    package = f"package:{mosquitto.PACKAGE}"
    return any(one.verb is Verb.DELETE and one.resource.id == package for one in plan.actions)


def _other_port(system: System, found: _Found) -> int | None:
    """By which mosquitto is reached when the port that our file gave it is gone; None if by the same."""
    if found.kept.chosen.get("broker") != "system":
        return None
    rest = ports_of(mosquitto.load(system).without(mosquitto.OUR_FILE))
    return None if found.kept.port in rest else min(rest)


def _beside(
    system: System, layout: Layout, manifest: Manifest, groups: Collection[str] | None
) -> tuple[Path, ...]:
    """Files that were laid beside those of these groups; None means of all."""
    paths = waiting(system, layout, manifest)
    if groups is None:
        return paths
    ours = {entry.id for entry in manifest if entry.group in groups}
    return tuple(path for path in paths if f"file:{meant_for(path)}" in ours)


def _pending(found: _Found, groups: Collection[str], spared: Collection[str]) -> tuple[str, ...]:
    """Handlers that a killed run owes, but for those of what goes."""
    if found.interrupted is None:
        return ()
    entries = [*found.manifest, *(entry.as_ours for entry in found.interrupted.changes)]
    going = [one for one in entries if one.group in groups and one.id not in spared]
    stopped = [one for one in going if not runs_in(one.before)]
    ended = {handler for one in stopped for handler in (restart_of(one.id), *one.resource().takes_along)}
    return tuple(handler for handler in found.interrupted.pending if handler not in ended)


def _about_mail(mail: Sequence[Mail], *, purge: bool) -> tuple[str, ...]:
    there = [one for one in mail if one.files]
    if purge:
        return tuple(f"deleted for good: what {one.whose} has in {one.folder}" for one in there)
    return tuple(f"{one.folder} stays, with the messages of {one.whose}; --purge deletes it" for one in there)


def _inboxes(system: System, layout: Layout, found: _Found, gone: Sequence[str]) -> tuple[Path, ...]:
    """Inbox and outbox files that there are: the user's, who may have other programs read them."""
    config = read_config(system, layout) or {}
    tables = config.get("agents", {})
    paths = []
    for agent in found.kept.agents:
        table = tables.get(agent.id, {}) if isinstance(tables, dict) else {}
        said = table if isinstance(table, dict) else {}
        for name, kept in (("inbox", agent.inbox), ("outbox", agent.outbox)):
            text = str(said.get(name) or kept or "").replace("{agent_id}", agent.id)
            path = layout.home / text[2:] if text.startswith("~/") else Path(text)
            if agent.id in gone and text and system.stat(path) is not None:
                paths.append(path)
    return tuple(dict.fromkeys(paths))
