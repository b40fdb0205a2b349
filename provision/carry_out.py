"""Carry out: do what a plan says, try what was set up, and take all of it back if it does not work."""

from __future__ import annotations

from swarmbus.errors import Conflict, SwarmbusError
from swarmbus.provision import handed_out
from swarmbus.provision.apply import apply_plan, entry_of, reconcile, validate
from swarmbus.provision.layout import Layout
from swarmbus.provision.manifest import Blobs, Entry, Manifest
from swarmbus.provision.outcome import Gate, GateReport, Outcome, Prepared
from swarmbus.provision.plan import Plan
from swarmbus.provision.prepare import prepare
from swarmbus.provision.resources.base import Verb
from swarmbus.provision.resources.directory import Directory
from swarmbus.provision.resources.unit import Unit
from swarmbus.provision.rollback import take_back
from swarmbus.provision.root import RootStepsNeeded
from swarmbus.provision.run import Event, Observer, Run, Silent, one_at_a_time
from swarmbus.provision.spec import keep, load_kept
from swarmbus.provision.system import System


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
    with one_at_a_time(system, layout):
        if prepared.plan.needs_root and system.root_access() == "none":
            if prepared.replan is None:
                _hand_out(prepared)
            message = "some steps need root, and there is no sudo"
            error = RootStepsNeeded(message, steps=prepared.plan.root_steps)
            _say_what_makes_room(error, prepared)
            raise error
        outcome = _carry_out(prepared, gate, observer or Silent())
        if isinstance(outcome.error, RootStepsNeeded) and outcome.rolled_back:
            _say_what_makes_room(outcome.error, prepared)
            if prepared.replan is None:
                _hand_out(prepared)
        return outcome


def _say_what_makes_room(error: RootStepsNeeded, prepared: Prepared) -> None:
    """Root's script starts units that take the place of the user's, which by then must have ended."""
    ends = [
        action.resource.name
        for action in prepared.plan.changes
        if isinstance(action.resource, Unit) and action.scope == "user" and action.verb is Verb.DELETE
    ]
    if ends and prepared.spec.agents:
        error.hint = f"first: systemctl --user stop {' '.join(ends)}; then {error.hint}"


def _hand_out(prepared: Prepared) -> None:
    """Remember what root is asked to do; see `swarmbus.provision.handed_out`."""
    run = Run.open(prepared.system, prepared.layout, Silent())
    if (before := handed_out.load(prepared.system, run.folder)) is not None:
        before.take_in(prepared.system, run.manifest)
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
        fresh = _again(prepared)
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
        rolled_back = take_back(run)
        if isinstance(problem, KeyboardInterrupt):
            raise
        error = problem if isinstance(problem, SwarmbusError) else SwarmbusError(str(problem))
        return Outcome.of(run, plan, rolled_back=rolled_back, error=error)
    if report is not None and not report.ok:
        rolled_back = begun and take_back(run)
        return Outcome.of(run, plan, rolled_back=rolled_back, gate=report)
    keep(prepared.spec, system, prepared.layout.provision)
    if begun:
        run.journal.finish()
        run.sweep()
    if handed is not None:
        handed_out.forget(system, run.folder)
    if prepared.afterwards is not None:
        prepared.afterwards(run)
    return Outcome.of(run, plan, changed=begun and plan.changed, gate=report)


def _again(prepared: Prepared) -> Prepared:
    if prepared.replan is not None:
        return prepared.replan()
    return prepare(
        prepared.system,
        prepared.request,
        layout=prepared.layout,
        inspector=prepared.inspector,
        amend=prepared.amend,
        only=prepared.only,
    )


def _make_room(system: System, layout: Layout) -> None:
    """The folder of journal and manifest: the one change that cannot be in the journal before it is made."""
    state = Directory(group="host", path=layout.state, mode=0o700)
    before, missing = state.read(system), state.original(system)
    if before["present"] and system.stat(layout.provision) is not None:
        return
    if not before["present"]:
        state.realise(system)
    system.make_dir(layout.provision, mode=0o700)
    with one_at_a_time(system, layout):
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
