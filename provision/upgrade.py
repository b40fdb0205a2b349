"""Upgrade: another version in the place of the one that runs, or the old one back as it was.

::

    plan = look(system, layout, wish)                 # reads only
    record = prepare(system, layout, plan)            # the old environment is kept
    outcome = Upgrade(system, layout, record).run()   # in a process of the kept environment

Whoever replaces the code under his own feet must not stand on it: `Upgrade.run` belongs into a process of the
kept environment, which imports nothing from the new one. What the new version renders, it renders itself, in
processes of its own. The record on the disk says how far it came; who finds one puts the old version back.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from swarmbus.config import load_settings
from swarmbus.errors import CannotRun, Conflict, ExitStatus, SwarmbusError, UsageError
from swarmbus.provision.apply import Event, Observer, Silent
from swarmbus.provision.bus import Bus, LocalBus
from swarmbus.provision.checks import Status
from swarmbus.provision.doctor import run_doctor
from swarmbus.provision.environments import Environments, Kept, Release
from swarmbus.provision.facts import known_agents
from swarmbus.provision.installation import WAYS, Installation
from swarmbus.provision.journal import Journal
from swarmbus.provision.layout import Layout
from swarmbus.provision.mailbox_copy import back_up, bring_back, schema_of
from swarmbus.provision.manifest import Manifest
from swarmbus.provision.restart import Restarted, Restarting
from swarmbus.provision.spec import load_kept
from swarmbus.provision.supervisors.processes import agent_process
from swarmbus.provision.supervisors.systemd_user import agent_unit
from swarmbus.provision.system import System

SCHEMA = "swarmbus.upgrade/1"

_HEALTH = ("broker.running", "mqtt.connect", "mqtt.canary", "agent.mailbox", "agent.listener-running")
_INIT_TIMEOUT = 900.0
_NOT_OF_THE_CALLER = ("AGENT_ID", "BROKER", "PORT", "INBOX", "OUTBOX", "INVOKE")


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for.

    Attributes:
        version: A release of the package index.
        source: A checkout or a wheel; absolute.
    """

    version: str | None = None
    source: Path | None = None


@dataclass(frozen=True, slots=True)
class UpgradePlan:
    """What would be done.

    Attributes:
        target: Its version; None if only the package index knows.
        requirement: What the installer is given.
        rendered: Files that the new version writes again.
        agents: Whose listeners are restarted.
        problems: Why it is better not begun.
    """

    here: Installation
    target: str | None
    requirement: str
    rendered: tuple[str, ...]
    agents: tuple[str, ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_needless(self) -> bool:
        """Whether exactly that release is what is installed; of a checkout or a wheel nobody knows."""
        return self.requirement.endswith(f"=={self.here.version}")

    def as_json(self) -> dict[str, Any]:
        """For ``--plan --json``."""
        return {
            "schema": SCHEMA,
            "installed_by": self.here.kind,
            "prefix": str(self.here.prefix),
            "current": self.here.version,
            "target": self.target,
            "from": self.requirement,
            "render": list(self.rendered),
            "restart": list(self.agents),
            "problems": list(self.problems),
            "notes": list(self.notes),
        }


Stage = Literal["kept", "installing", "switched"]


@dataclass(frozen=True, slots=True)
class Record:
    """An upgrade that is under way, as it is on the disk.

    Attributes:
        stage: ``kept``: nothing was changed. ``installing``: the environment may be anything. ``switched``:
            the new one is in its place.
    """

    here: Installation
    requirement: str
    agents: tuple[str, ...]
    kept: Kept
    stamp: str
    stage: Stage = "kept"

    def as_json(self) -> dict[str, Any]:
        """For the disk."""
        here = {**asdict(self.here), "prefix": str(self.here.prefix)}
        return {
            "schema": SCHEMA,
            "stage": self.stage,
            "here": here,
            "requirement": self.requirement,
            "agents": list(self.agents),
            "kept": self.kept.as_json(),
            "stamp": self.stamp,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Record:
        """The same, read again."""
        here = {**document["here"], "prefix": Path(document["here"]["prefix"])}
        here["extras"] = tuple(here["extras"])
        return cls(
            Installation(**here),
            document["requirement"],
            tuple(document["agents"]),
            Kept.from_json(document["kept"]),
            document["stamp"],
            document["stage"],
        )


@dataclass(frozen=True, slots=True)
class UpgradeOutcome:
    """How it ended.

    Attributes:
        old, new: Versions; ``new`` is None where none was brought.
        error: Why it failed; None if it did not.
        rolled_back: Whether the old version is in its place again and works.
    """

    old: str
    new: str | None = None
    error: SwarmbusError | None = None
    rolled_back: bool = False
    agents: tuple[Restarted, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def exit_status(self) -> ExitStatus:
        """1 if it failed, whether taken back or not."""
        return ExitStatus.NO if self.error is not None else ExitStatus.DONE

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "schema": SCHEMA,
            "old": self.old,
            "new": self.new,
            "failed": self.error is not None,
            "error": self.error.message if self.error else None,
            "rolled_back": self.rolled_back,
            "agents": [agent.as_json() for agent in self.agents],
            "notes": list(self.notes),
        }


# before


def look(
    system: System, layout: Layout, here: Installation, wish: Wish, *, bus: Bus | None = None
) -> UpgradePlan:
    """Decide what would be done; reads only.

    Raises:
        CannotRun: If the upgrade of such an installation is not ours to do; the hint is the command that is.
        UsageError: If the source is none.
        Conflict: If an installation was interrupted and has to be finished first.
        StorageError: If there is no room.
    """
    if here.refusal is not None:
        reason, command = here.refusal
        raise CannotRun(f"swarmbus {here.version} is not upgraded this way: {reason}", hint=command)
    if Journal(system, layout.provision).interrupted() is not None:
        raise Conflict("an init on this host was interrupted", hint="finish it first: swarmbus init --yes")
    Environments(system, layout, here).refuse_a_full_disk()
    target, requirement = _target(system, here, wish)
    known = known_agents(system, layout)
    agents = tuple(agent for agent in known if _is_kept_running(system, layout, agent))
    by_hand = [agent for agent in known if agent not in agents]
    notes = [f"the listener of {agent} was started by hand: restart it afterwards" for agent in by_hand]
    files = [
        str(entry.record["path"]) for entry in Manifest.load(system, layout.provision) if entry.kind == "file"
    ]
    problems = _problems(system, layout, agents, bus)
    return UpgradePlan(here, target, requirement, tuple(files), agents, problems, tuple(notes))


def _target(system: System, here: Installation, wish: Wish) -> tuple[str | None, str]:
    extras = f"[{','.join(here.extras)}]" if here.extras else ""
    if wish.version is not None:
        return wish.version, f"swarmbus{extras}=={wish.version}"
    source = str(wish.source) if wish.source else here.source
    if source is None:
        return None, f"swarmbus{extras}"
    if not source.startswith("/"):
        return None, f"swarmbus{extras} @ {source}"
    requirement = f"swarmbus{extras} @ {Path(source).as_uri()}" if extras else source
    return _version_of(system, Path(source)), requirement


def _version_of(system: System, source: Path) -> str:
    """Of a checkout or a wheel.

    Raises:
        UsageError: If it is neither.
    """
    if found := re.fullmatch(r"swarmbus-([^-]+)-py3-none-any\.whl", source.name):
        if system.stat(source) is not None:
            return found[1]
        raise UsageError(f"there is no {source}", hint="say where one is: swarmbus upgrade --from PATH")
    text = (system.read(source / "swarmbus/version.py") or b"").decode(errors="replace")
    if found := re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE):
        return found[1]
    raise UsageError(
        f"{source} is neither a checkout of swarmbus nor a wheel of it",
        hint="say where one is (swarmbus upgrade --from PATH), or which release (--to VERSION)",
    )


def _is_kept_running(system: System, layout: Layout, agent: str) -> bool:
    """Whether what init has set up starts its listener again."""
    unit, record = layout.units / agent_unit(agent), layout.processes / f"{agent_process(agent)}.json"
    return system.stat(unit) is not None or system.stat(record) is not None


def _problems(system: System, layout: Layout, agents: Sequence[str], bus: Bus | None) -> tuple[str, ...]:
    """What the doctor finds of that without which nobody could say whether the upgrade went well."""
    if not agents:
        return ()
    report = run_doctor(
        system, load_settings({"agent_id": agents[0]}), agent_ids=agents, only=_HEALTH, layout=layout, bus=bus
    )
    bad = [result for result in report.results if result.status is Status.FAIL]
    return tuple(
        f"{result.subject}: {result.message}" if result.subject else result.message for result in bad
    )


def prepare(system: System, layout: Layout, plan: UpgradePlan) -> Record:
    """Keep the old version, and write down what is going to be done."""
    if system.stat(layout.provision) is None:
        for folder in (layout.state, layout.provision):
            if system.stat(folder) is None:
                system.make_dir(folder, mode=0o700)
    stamp = datetime.now(UTC).strftime("%Y%m%d%H%M%S")
    kept = Environments(system, layout, plan.here).keep(stamp)
    record = Record(plan.here, plan.requirement, plan.agents, kept, stamp)
    _save(system, layout, record)
    return record


def load_record(system: System, layout: Layout) -> Record | None:
    """The upgrade that was not finished; None if there is none.

    Raises:
        CannotRun: If its record is damaged.
    """
    path = layout.provision / "upgrade.json"
    data = system.read(path)
    if data is None:
        return None
    try:
        return Record.from_json(json.loads(data))
    except (ValueError, KeyError, TypeError) as error:
        raise CannotRun(f"{path} is damaged: {error!r}", hint=f"remove it: rm {path}") from error


def _save(system: System, layout: Layout, record: Record) -> None:
    text = json.dumps(record.as_json(), indent=1) + "\n"
    system.write_file(layout.provision / "upgrade.json", text.encode(), mode=0o600)


# and now


@dataclass
class Upgrade:
    """One that is under way.

    Attributes:
        bus: The bus as seen from here.
    """

    system: System
    layout: Layout
    record: Record
    bus: Bus = field(default_factory=LocalBus)
    observer: Observer = field(default_factory=Silent)
    notes: list[str] = field(default_factory=list)
    proven: list[Restarted] = field(default_factory=list)

    def run(self) -> UpgradeOutcome:
        """Bring the new version; or, where an earlier run got further than keeping the old, put that back.

        Raises:
            Conflict: If another upgrade is under way.
        """
        with self.system.locked(self.layout.provision / "upgrade.lock", 0.0):
            if self.record.stage != "kept":
                return self._back(None, SwarmbusError("the upgrade before this one was interrupted"))
            return self._forward()

    @property
    def _environments(self) -> Environments:
        return Environments(self.system, self.layout, self.record.here)

    def _forward(self) -> UpgradeOutcome:
        environments, record = self._environments, self.record
        old = environments.look(record.kept.python)
        new: Release | None = None
        try:
            environments.sweep(record.kept)
            beside = record.here.kind == "linked-venv"
            if not beside:
                self._reach("installing")
            with self._step("install", f"install {record.requirement}"):
                folder = environments.bring(record.requirement, record.stamp)
                new = environments.look(folder and folder / "bin/python")
            if folder is not None:
                self._reach("installing")
                environments.switch(folder)
            self._reach("switched")
            self._migrate(new)
            self._render(f"let swarmbus {new.version} write its files")
            self._prove(new)
        except (SwarmbusError, OSError, KeyboardInterrupt) as problem:
            if self.record.stage == "kept":
                self._forget()
                return UpgradeOutcome(old.version, error=_as_error(problem), rolled_back=True)
            return self._back(new, _as_error(problem))
        self._forget()
        return UpgradeOutcome(old.version, new.version, agents=tuple(self.proven), notes=tuple(self.notes))

    def _back(self, new: Release | None, problem: SwarmbusError) -> UpgradeOutcome:
        """The old version and its files, running."""
        environments, record = self._environments, self.record
        failed = tuple(one for one in self.proven if not one.ok)
        self.proven.clear()
        version, whole = record.here.version, True
        try:
            with self._step("back", f"put swarmbus {version} back"):
                environments.put_back(record.kept)
                old = environments.look()
            self._halt_what_fell(old)
            self._bring_mailboxes_back(old)
            self._render(f"let swarmbus {old.version} write its files")
            self._prove(old)
        except (SwarmbusError, OSError) as error:
            whole = False
            self.notes.append(f"going back failed: {_as_error(error).message}")
        else:
            environments.sweep(record.kept)
            self._forget()
        return UpgradeOutcome(
            version,
            new.version if new else None,
            error=problem,
            rolled_back=whole,
            agents=(*failed, *self.proven),
            notes=tuple(self.notes),
        )

    # steps

    def _render(self, title: str) -> None:
        """Have the installed version bring the host to what it wants it to be, in a process of its own."""
        if load_kept(self.system, self.layout.provision) is None:
            return
        with self._step("render", title):
            init = [str(self.record.here.python), "-I", "-m", "swarmbus", "init", "--yes", "--json"]
            clean = [word for name in _NOT_OF_THE_CALLER for word in ("-u", f"SWARMBUS_{name}")]
            done = self.system.run(["/usr/bin/env", *clean, *init], timeout=_INIT_TIMEOUT)
            said = _said(done.stdout)
            if done.status == ExitStatus.CONFLICT and "actions" in said:
                self.notes.append("files that you have changed were kept; see swarmbus init --dry-run")
            elif not done.ok:
                gate = said.get("gate") or {}
                why = (
                    said.get("message")
                    or said.get("error")
                    or gate.get("summary")
                    or done.stderr.strip()[-300:]
                )
                raise SwarmbusError(f"its init failed: {why}", hint=shlex.join(init[:-2]))

    def _prove(self, release: Release) -> None:
        """One listener after the other: the code of this release, in presence, and a canary through it."""
        restarting = Restarting(self.system, self.layout, self.bus, release.code)
        for agent in self.record.agents:
            with self._step(f"agent:{agent}", f"see that {agent} runs swarmbus {release.version}"):
                one = restarting.prove(agent)
                self.proven.append(one)
                if not one.ok:
                    raise SwarmbusError(f"the listener of {agent}: {one.reason}", hint=one.hint)

    def _migrate(self, new: Release) -> None:
        """Copy the mailboxes that the new version will give another schema, while nobody writes to them."""
        for agent, mailbox in self._mailboxes():
            before = schema_of(mailbox)
            if before is None or before == new.schema:
                continue
            if before > new.schema:
                raise CannotRun(
                    f"the mailbox of {agent} has schema {before}, swarmbus {new.version} knows {new.schema}",
                    hint="go to a release that is not older than the one that runs",
                )
            with self._step(f"copy:{agent}", f"copy the mailbox of {agent} before it is migrated"):
                Restarting(self.system, self.layout, self.bus, new.code).stop(agent)
                back_up(mailbox, _copy_of(mailbox, before))

    def _bring_mailboxes_back(self, old: Release) -> None:
        for agent, mailbox in self._mailboxes():
            copy = _copy_of(mailbox, old.schema)
            if (schema_of(mailbox) or 0) > old.schema and copy.exists():
                with self._step(f"mailbox:{agent}", f"put the mailbox of {agent} back"):
                    Restarting(self.system, self.layout, self.bus, old.code).stop(agent)
                    carried = bring_back(copy, mailbox)
                    self.notes.append(f"{carried} messages that came meanwhile were carried over for {agent}")

    def _halt_what_fell(self, old: Release) -> None:
        """Stop listeners that do not answer: systemd would start them over and over meanwhile."""
        restarting = Restarting(self.system, self.layout, self.bus, old.code)
        for agent in self.record.agents:
            if not restarting.answers(agent):
                restarting.stop(agent)

    def _mailboxes(self) -> list[tuple[str, Path]]:
        return [(agent, self.layout.agent_dir(agent) / "mailbox.db") for agent in self.record.agents]

    def _reach(self, stage: Stage) -> None:
        self.record = replace(self.record, stage=stage)
        _save(self.system, self.layout, self.record)

    def _forget(self) -> None:
        self.system.remove(self.layout.provision / "upgrade.json")

    @contextmanager
    def _step(self, step: str, title: str) -> Iterator[None]:
        begun = self.system.monotonic()
        tell: Callable[..., None] = self.observer.tell
        tell(Event(step, title, "begun"))
        try:
            yield
        except BaseException as error:
            tell(Event(step, title, "failed", self.system.monotonic() - begun, _as_error(error).message))
            raise
        tell(Event(step, title, "done", self.system.monotonic() - begun))


def _copy_of(mailbox: Path, schema: int) -> Path:
    return mailbox.with_name(f"{mailbox.name}.schema-{schema}")


def _as_error(problem: BaseException) -> SwarmbusError:
    if isinstance(problem, SwarmbusError):
        return problem
    return SwarmbusError("interrupted" if isinstance(problem, KeyboardInterrupt) else str(problem))


def _said(text: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


__all__ = [
    "WAYS",
    "Record",
    "Upgrade",
    "UpgradeOutcome",
    "UpgradePlan",
    "Wish",
    "load_record",
    "look",
    "prepare",
]
