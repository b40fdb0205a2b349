"""Upgrade: another version in the place of the one that runs, or the old one back as it was.

::

    plan = look(system, layout, here, wish)  # reads only
    record = prepare(system, layout, here, plan.requirement, plan.agents)  # the old one is kept
    outcome = Upgrade(system, layout, record).run()  # in a process of the kept one

Whoever replaces the code under his own feet must not stand on it: `Upgrade.run` belongs into a process of the
kept environment, which imports nothing from the new one. What the new version renders, it renders itself, in
processes of its own. The record on the disk says how far it came.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from swarmbus.errors import CannotRun, ExitStatus, SwarmbusError
from swarmbus.provision.bus import Bus, LocalBus
from swarmbus.provision.environments import Environments, Release
from swarmbus.provision.layout import Layout
from swarmbus.provision.mailbox_copy import back_up, bring_back, schema_of
from swarmbus.provision.restart import Restarted, Restarting
from swarmbus.provision.run import Event, Observer, Silent
from swarmbus.provision.spec import load_kept
from swarmbus.provision.system import System
from swarmbus.provision.upgrade_record import SCHEMA, Record, Stage, forget, save

_INIT_TIMEOUT = 900.0
_NOT_OF_THE_CALLER = ("AGENT_ID", "BROKER", "PORT", "INBOX", "OUTBOX", "INVOKE")


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
            # Changed in place and back again: who was not restarted runs from files that are gone.
            self._prove(old, anew=record.here.kind != "linked-venv")
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

    def _prove(self, release: Release, *, anew: bool = False) -> None:
        """One listener after the other: the code of this release, in presence, and a canary through it.

        Args:
            anew: Whether one that runs that code already is restarted all the same.
        """
        restarting = Restarting(self.system, self.layout, self.bus, release.code)
        for agent in self.record.agents:
            with self._step(f"agent:{agent}", f"see that {agent} runs swarmbus {release.version}"):
                one = restarting.restart(agent) if anew else restarting.prove(agent)
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
        save(self.system, self.layout, self.record)

    def _forget(self) -> None:
        forget(self.system, self.layout)

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
