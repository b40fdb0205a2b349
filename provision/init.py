"""Init: the function behind ``swarmbus init``. `prepare` looks and decides, `carry_out` acts.

Printing and asking are the caller's::

    prepared = prepare(LocalSystem(), {"agent_id": "planner"})
    show(prepared.plan)
    outcome = carry_out(prepared, gate=canary, observer=display)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from swarmbus.errors import Conflict, ListenerRunning, SwarmbusError, UsageError
from swarmbus.provision import handed_out
from swarmbus.provision.apply import (
    Event,
    Observer,
    Run,
    Silent,
    apply_plan,
    entry_of,
    reconcile,
    validate,
)
from swarmbus.provision.broker_choice import is_this_host
from swarmbus.provision.desired import agent_restarts, choose, desired
from swarmbus.provision.host import Inspector, LocalInspector, gather
from swarmbus.provision.journal import Interrupted, Journal
from swarmbus.provision.layout import Layout
from swarmbus.provision.manifest import Blobs, Entry, Manifest
from swarmbus.provision.outcome import Amend, Gate, GateReport, Outcome, Prepared
from swarmbus.provision.plan import Plan, make_plan
from swarmbus.provision.precautions import UNFINISHED, notes_for_everybody, refuse_unwritable_files
from swarmbus.provision.request import Request, request_from_flags
from swarmbus.provision.resources.base import Verb
from swarmbus.provision.resources.directory import Directory
from swarmbus.provision.rollback import undo_run
from swarmbus.provision.root import RootStepsNeeded
from swarmbus.provision.spec import InstallSpec, forget, keep, load_kept, merge, read_config
from swarmbus.provision.system import System

_LOCK_WAIT = 60.0


def prepare(
    system: System,
    flags: Mapping[str, Any] | Request,
    *,
    layout: Layout | None = None,
    inspector: Inspector | None = None,
    amend: Amend | None = None,
) -> Prepared:
    """Gather the facts, merge what is asked for with what was asked for before, and plan. Reads only.

    Args:
        flags: Options of ``swarmbus init`` (`spec.request_from_flags`), or a request.
        amend: Adds to the wish what does not follow from the spec.

    Raises:
        UsageError, Conflict, RootStepsNeeded, StorageError: If no plan can be made.
    """
    _refuse_a_borrowed_home(system)
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
    pending = (*pending, *agent_restarts(spec, host, layout, old))
    wish = desired(spec, host, layout)
    plan = make_plan(
        amend(wish) if amend is not None else wish,
        system,
        _manifest(system, folder),
        layout,
        take=request.take,
        pending=pending,
    )
    _refuse_other_listeners(plan, spec, layout, system)
    refuse_unwritable_files(plan, spec, layout, system)
    notes = notes_for_everybody(plan, spec, request)
    if interrupted is not None:
        notes = (*notes, UNFINISHED)
    plan = replace(plan, notes=(*plan.notes, *notes), unfinished=interrupted is not None)
    return Prepared(system, layout, request, spec, host, plan, interrupted is not None, inspector, amend)


def _manifest(system: System, folder: Path) -> Manifest:
    """As it is kept, with what root has done for us elsewhere."""
    manifest, handed = Manifest.load(system, folder), handed_out.load(system, folder)
    if handed is not None:
        handed.take_in(system, manifest)
    return manifest


def _refuse_a_borrowed_home(system: System) -> None:
    """Some sudo settings keep $HOME: root's files would end up in the home of whoever called it."""
    caller, home = system.environ.get("SUDO_USER"), system.stat(system.user.home)
    if system.user.uid == 0 and caller and home is not None and home.uid != 0:
        raise UsageError(
            f"called through sudo, and {system.user.home} is not root's",
            hint="call it without sudo: it asks for root where it needs it",
        )


def _refuse_other_listeners(plan: Plan, spec: InstallSpec, layout: Layout, system: System) -> None:
    """A listener that was started by hand holds what ours would need."""
    starts = {action.resource.group for action in plan.changes if action.resource.kind in ("unit", "process")}
    for agent in spec.agents:
        if f"agent:{agent.id}" not in starts:
            continue
        told = system.lock_holder(layout.agent_dir(agent.id) / "listener.lock")
        found = re.search(rb'"pid": (\d+), "role": "listener"', told or b"")
        if found and not _is_ours(plan, agent.id):
            pid = int(found[1])
            raise ListenerRunning(
                f"a listener for {agent.id!r} runs already, pid {pid}, and was not started by init",
                hint=f"stop it, then call this again: kill {pid}",
                pid=pid,
            )


def _is_ours(plan: Plan, agent_id: str) -> bool:
    """Whether what runs is what the plan restarts or replaces."""
    return any(
        action.resource.group == f"agent:{agent_id}"
        and (action.seen.get("running") or action.seen.get("active"))
        for action in plan.actions
    )


def carry_out(prepared: Prepared, *, gate: Gate | None = None, observer: Observer | None = None) -> Outcome:
    """Do what the plan says, try it, and take all of it back if it does not work.

    Two runs never interleave: the second waits for a minute, and then sees what the first has done.

    Raises:
        Conflict: If another run holds the lock for too long, or the host changed since it was looked at.
        RootStepsNeeded: If root is needed and not to be had; nothing was done but to remember that.
        CannotRun: If a program would not accept what would be written; nothing was done.
    """
    system, layout = prepared.system, prepared.layout
    if prepared.plan.blocked:
        return Outcome(prepared.plan, notes=prepared.plan.notes)
    if prepared.plan.changed:
        validate(prepared.plan, system)
    _make_room(system, layout)
    with system.locked(layout.provision / "lock", _LOCK_WAIT):
        if prepared.plan.needs_root and system.root_access() == "none":
            _hand_out(prepared)
            message = "some steps need root, and there is no sudo"
            raise RootStepsNeeded(message, steps=prepared.plan.root_steps)
        outcome = _carry_out(prepared, gate, observer or Silent())
        if isinstance(outcome.error, RootStepsNeeded) and outcome.rolled_back:
            _hand_out(prepared)
        return outcome


def _hand_out(prepared: Prepared) -> None:
    """Remember what root is asked to do; see `swarmbus.provision.handed_out`."""
    run = Run.open(prepared.system, prepared.layout, Silent())
    wanted = {step.id for step in prepared.plan.root_steps}
    entries = [entry_of(run, action) for action in prepared.plan.changes if action.id in wanted]
    handed_out.hand_out(prepared.system, run.folder, prepared.spec.as_json(), entries)


def _carry_out(prepared: Prepared, gate: Gate | None, observer: Observer) -> Outcome:
    system = prepared.system
    run = Run.open(system, prepared.layout, observer)
    interrupted = run.journal.interrupted()
    if interrupted is not None:
        reconcile(run, interrupted)
    if (handed := handed_out.load(system, run.folder)) is not None:
        handed.take_in(system, run.manifest)
    if prepared.plan.changed or interrupted is not None:
        fresh = prepare(
            system,
            prepared.request,
            layout=prepared.layout,
            inspector=prepared.inspector,
            amend=prepared.amend,
        )
        _refuse_other_changes(prepared.plan, fresh.plan)
        prepared = fresh
    plan = prepared.plan
    if plan.blocked:
        return Outcome(plan, notes=plan.notes)
    begun = False
    try:
        if plan.changed or interrupted is not None:
            kept = load_kept(system, prepared.layout.provision)
            run.journal.begin(prepared.spec.as_json(), kept.as_json() if kept else None)
            begun = True
            apply_plan(run, plan)
        elif handed is not None or any(action.verb in (Verb.ADOPT, Verb.CONFLICT) for action in plan.actions):
            apply_plan(run, plan)
        report = _pass_gate(prepared, gate, observer)
    except (SwarmbusError, OSError, KeyboardInterrupt) as problem:
        if not begun:
            raise
        rolled_back = _roll_back(run)
        if isinstance(problem, KeyboardInterrupt):
            raise
        error = problem if isinstance(problem, SwarmbusError) else SwarmbusError(str(problem))
        return _outcome(run, plan, rolled_back=rolled_back, error=error)
    if report is not None and not report.ok:
        rolled_back = begun and _roll_back(run)
        return _outcome(run, plan, rolled_back=rolled_back, gate=report)
    if begun:
        run.journal.finish()
        last = run.journal.last()
        needed = {entry.blob for entry in (*run.manifest, *(last.changes if last else ()))}
        run.blobs.sweep(needed)
    keep(prepared.spec, system, prepared.layout.provision)
    if handed is not None:
        handed_out.forget(system, run.folder)
    return _outcome(run, plan, changed=begun and plan.changed, gate=report)


def _make_room(system: System, layout: Layout) -> None:
    """The folder of journal and manifest: the one change that cannot be in the journal before it is made."""
    state = Directory(group="host", path=layout.state, mode=0o700)
    before, missing = state.read(system), state.original(system)
    if before["present"] and system.stat(layout.provision) is not None:
        return
    if not before["present"]:
        state.realise(system)
    system.make_dir(layout.provision, mode=0o700)
    with system.locked(layout.provision / "lock", _LOCK_WAIT):
        manifest = Manifest.load(system, layout.provision)
        if not before["present"] and manifest.get(state.id) is None:
            blob = Blobs(system, layout.provision).put(missing)
            manifest.entries[state.id] = Entry(
                id=state.id,
                kind=state.kind,
                group=state.group,
                record=state.record(),
                state=state.read(system),
                before=before,
                blob=blob,
            )
            manifest.save(system, layout.provision)


def roll_back(
    system: System,
    *,
    layout: Layout | None = None,
    observer: Observer | None = None,
    finished: bool = False,
) -> Outcome | None:
    """Undo the run that was killed.

    Args:
        finished: Where none was killed, undo the last one that finished.

    Returns:
        None if there is no run to undo.

    Raises:
        Conflict: If another run holds the lock.
    """
    layout = layout or Layout.of_this_user()
    if system.stat(layout.provision) is None:
        return None
    with system.locked(layout.provision / "lock", _LOCK_WAIT):
        run = Run.open(system, layout, observer or Silent())
        killed = run.journal.interrupted()
        journal = killed or (run.journal.last() if finished else None)
        if journal is None:
            return None
        if killed is not None:
            reconcile(run, killed)
        whole = _undo(run, journal, finished=killed is None)
    error = None if whole else SwarmbusError("not everything could be taken back", hint="the notes say what")
    return _outcome(run, Plan(()), changed=True, rolled_back=whole, error=error)


def _roll_back(run: Run) -> bool:
    journal = run.journal.interrupted()
    return True if journal is None else _undo(run, journal, finished=False)


def _undo(run: Run, journal: Interrupted, *, finished: bool) -> bool:
    whole = undo_run(run, journal)
    if whole and finished:
        run.journal.forget_last()
        forget(run.system, run.folder)
        if journal.spec_before is not None:
            keep(InstallSpec.from_json(journal.spec_before), run.system, run.folder)
    elif whole:
        run.journal.forget()
    return whole


def _refuse_other_changes(shown: Plan, now: Plan) -> None:
    """What was shown may have become needless in the meantime; nothing may have come to it."""
    agreed = {(action.resource.id, action.verb, action.comparison.diff) for action in shown.changes}
    for action in now.changes:
        if (action.resource.id, action.verb, action.comparison.diff) not in agreed:
            raise Conflict(
                f"{action.resource.id} changed after the plan was shown: {action.comparison.reason}",
                hint="call it again, and look at the new plan",
            )


def _pass_gate(prepared: Prepared, gate: Gate | None, observer: Observer) -> GateReport | None:
    if gate is None:
        return None
    begun = prepared.system.monotonic()
    agents = ", ".join(agent.id for agent in prepared.spec.agents)
    observer.tell(Event("gate", "send a canary", "begun", detail=f"through {agents}"))
    try:
        report = gate(prepared)
    except SwarmbusError as error:
        report = GateReport(ok=False, summary=error.message)
    seconds = prepared.system.monotonic() - begun
    observer.tell(Event("gate", "send a canary", "done" if report.ok else "failed", seconds, report.summary))
    return report


def _outcome(run: Run, plan: Plan, **facts: Any) -> Outcome:
    notes = (*plan.notes, *run.notes)
    return Outcome(plan, handlers=tuple(run.handlers), notes=notes, **facts)


__all__ = [
    "Gate",
    "GateReport",
    "Outcome",
    "Prepared",
    "carry_out",
    "prepare",
    "roll_back",
]
