"""Prepare: look at the host, merge what is asked for with what was before, and plan. Reads only.

Printing and asking are the caller's::

    prepared = prepare(LocalSystem(), {"agent_id": "planner"})
    show(prepared.plan)
    outcome = carry_out(prepared, gate=canary, observer=display)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from swarmbus.provision import handed_out
from swarmbus.provision.broker_choice import is_this_host
from swarmbus.provision.desired import agent_restarts, choose, desired
from swarmbus.provision.handlers import is_handler
from swarmbus.provision.host import Inspector, LocalInspector, gather
from swarmbus.provision.journal import Journal
from swarmbus.provision.layout import Layout
from swarmbus.provision.outcome import Amend, Prepared
from swarmbus.provision.plan import Wish
from swarmbus.provision.planning import make_plan
from swarmbus.provision.precautions import (
    UNFINISHED,
    notes_for_everybody,
    refuse_a_borrowed_home,
    refuse_other_listeners,
    refuse_unwritable_files,
)
from swarmbus.provision.request import Request, request_from_flags
from swarmbus.provision.resources.toml_key import TomlKey
from swarmbus.provision.spec import InstallSpec, load_kept, merge, read_config
from swarmbus.provision.system import System


def prepare(
    system: System,
    flags: Mapping[str, Any] | Request,
    *,
    layout: Layout | None = None,
    inspector: Inspector | None = None,
    amend: Amend | None = None,
    only: frozenset[str] | None = None,
) -> Prepared:
    """Gather the facts, merge what is asked for with what was asked for before, and plan. Reads only.

    Args:
        flags: Options of ``swarmbus init`` (`spec.request_from_flags`), or a request.
        amend: Adds to the wish what does not follow from the spec.
        only: Ids and groups of the resources that may be touched, and ids of handlers that are to run; None
            for all. What an interrupted run has left is put in order as a whole.

    Raises:
        UsageError, Conflict, RootStepsNeeded, StorageError: If no plan can be made.
    """
    refuse_a_borrowed_home(system)
    layout = layout or Layout.of_this_user()
    request = flags if isinstance(flags, Request) else request_from_flags(flags)
    folder = layout.provision
    interrupted = Journal(system, folder).interrupted()
    kept = load_kept(system, folder)
    if kept is None and interrupted is not None and interrupted.spec is not None:
        kept = InstallSpec.from_json(interrupted.spec)  # killed before it could be kept
    asked = merge(request, kept, read_config(system, layout), system)
    private = asked.chosen.get("broker") == "private" or not is_this_host(asked.broker, system.hostname)
    host = gather(system, port=asked.port, broker_settled=private, inspector=inspector)
    spec = choose(asked, host)
    pending = interrupted.pending if interrupted else ()
    # A daemon of before an upgrade reads nothing of what was installed since.
    look = inspector or LocalInspector()
    old = [agent.id for agent in spec.agents if look.runs_old_code(agent.id)]
    restricted = only if interrupted is None else None
    if restricted is None:
        pending = (*pending, *agent_restarts(spec, host, layout, old))
    else:
        pending = tuple(sorted(word for word in restricted if is_handler(word)))
    wish = _without_who_goes(desired(spec, host, layout), spec, kept, read_config(system, layout))
    plan = make_plan(
        amend(wish) if amend is not None else wish,
        system,
        handed_out.load_manifest(system, folder),
        layout,
        take=request.take,
        pending=pending,
        only=restricted,
    )
    refuse_other_listeners(plan, spec, layout, system)
    refuse_unwritable_files(plan, spec, layout, system)
    notes = notes_for_everybody(plan, spec, request)
    if interrupted is not None:
        notes = (*notes, UNFINISHED)
    plan = replace(plan, notes=(*plan.notes, *notes), unfinished=interrupted is not None)
    return Prepared(
        system, layout, request, spec, host, plan, interrupted is not None, inspector, amend, only
    )


def _without_who_goes(
    wish: Wish, spec: InstallSpec, kept: InstallSpec | None, config: Mapping[str, Any] | None
) -> Wish:
    """The wish, in which agents that were set up here and are no longer wanted have nothing any more."""
    stays = {agent.id for agent in spec.agents}
    goes = [agent.id for agent in kept.agents if agent.id not in stays] if kept is not None else []
    if not goes:
        return wish
    resources = list(wish.resources)
    for index, one in enumerate(resources):
        if isinstance(one, TomlKey) and one.only_if_missing and (config or {}).get(one.key) in goes:
            resources[index] = replace(one, only_if_missing=False)  # whom commands are for without --agent-id
    groups = {f"{kind}:{agent}" for kind in ("agent", "adopted") for agent in goes}
    note = f"{', '.join(goes)} goes from this host; messages stay where they are"
    return Wish(tuple(resources), (*wish.notes, note), wish.groups | groups)
