"""Handlers run over the mailbox, each at its own pace, and what one of them meets is its own affair."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from swarmbus.commits import GroupCommit
from swarmbus.dispatch import Dispatcher, Handler
from swarmbus.envelope import AgentMessage
from swarmbus.mailbox import Mailbox
from tests.lab.loop import in_loop, until
from tests.unit.message_samples import message


class Note:
    """A handler that notes in a list, which it may share, what it is given, and then does what it is told."""

    def __init__(
        self,
        name: str = "note",
        *,
        log: list[tuple[str, str]] | None = None,
        do: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.name = name
        self.log = log if log is not None else []
        self._do = do

    async def handle(self, msg: AgentMessage) -> None:
        self.log.append((self.name, msg.subject))
        if self._do is not None:
            await self._do()

    @property
    def subjects(self) -> list[str]:
        return [subject for name, subject in self.log if name == self.name]


class Fails(Note):
    """Fails on subjects that begin with ``bad``, until it has failed so many times."""

    def __init__(self, name: str = "fails", *, times: int = 1_000, max_attempts: int = 2) -> None:
        super().__init__(name)
        self.times = times
        self.max_attempts = max_attempts

    async def handle(self, msg: AgentMessage) -> None:
        await super().handle(msg)
        if msg.subject.startswith("bad") and self.times > 0:
            self.times -= 1
            raise RuntimeError(f"do not like {msg.subject}")


class InBatches(Fails):
    """The same, several at a time."""

    batch_size = 10

    def __init__(self, name: str = "batches") -> None:
        super().__init__(name)
        self.batches: list[list[str]] = []

    async def handle_many(self, msgs: Sequence[AgentMessage]) -> None:
        self.batches.append([msg.subject for msg in msgs])
        for msg in msgs:
            await self.handle(msg)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mailbox.db"


class Running:
    """A dispatcher at work, and its mailbox."""

    def __init__(self, mailbox: Mailbox, dispatcher: Dispatcher) -> None:
        self.mailbox = mailbox
        self.dispatcher = dispatcher
        self._count = mailbox.inbound.last_seq()

    def receive(self, *subjects: str) -> None:
        """Messages come in, in one commit."""
        with self.mailbox.transaction():
            for subject in subjects:
                self._count += 1
                self.mailbox.inbound.store([message(self._count, subject=subject)], 0.0)
        self.dispatcher.wake()

    def lag(self, name: str) -> int:
        """How many messages a handler is behind."""
        return next(int(handler["lag"]) for handler in self.dispatcher.status() if handler["name"] == name)


@contextlib.asynccontextmanager
async def running(path: Path, *handlers: Handler, drain: float = 5.0) -> AsyncIterator[Running]:
    with Mailbox.open(path) as mailbox:
        commits = GroupCommit(mailbox)
        dispatcher = Dispatcher(mailbox, commits)
        try:
            await dispatcher.start(handlers)
            yield Running(mailbox, dispatcher)
        finally:
            await dispatcher.stop(drain)
            await commits.close()


@in_loop
async def test_handlers_begin_in_their_order_of_registration(path: Path) -> None:
    log: list[tuple[str, str]] = []
    async with running(path, Note("b", log=log), Note("c", log=log), Note("a", log=log)) as run:
        run.receive("one")
        await until(lambda: len(log) == 3)
        run.receive("two")
        await until(lambda: len(log) == 6)
    assert log == [(name, subject) for subject in ("one", "two") for name in ("b", "c", "a")]


@in_loop
async def test_messages_are_handled_in_order_and_once(path: Path) -> None:
    note = Note()
    subjects = [str(number) for number in range(600)]  # more than are read from the mailbox at once
    async with running(path, note) as run:
        run.receive(*subjects[:500])
        run.receive(*subjects[500:])
        await until(lambda: run.lag("note") == 0)
    assert note.subjects == subjects


@in_loop
async def test_slow_handler_delays_only_itself(path: Path) -> None:
    go_on = asyncio.Event()

    async def wait() -> None:
        await go_on.wait()

    slow, quick = Note("slow", do=wait), Note("quick")
    async with running(path, slow, quick) as run:
        run.receive("one", "two", "three")
        await until(lambda: quick.subjects == ["one", "two", "three"])
        assert slow.subjects == ["one"]
        assert (run.lag("slow"), run.lag("quick")) == (3, 0)
        go_on.set()
        await until(lambda: slow.subjects == ["one", "two", "three"])


@in_loop
async def test_failure_is_tried_again_after_a_second_and_delays_only_itself(path: Path) -> None:
    loop = asyncio.get_running_loop()
    fails, note = Fails(times=1), Note()
    async with running(path, fails, note) as run:
        began = loop.time()
        run.receive("bad", "good")
        await until(lambda: note.subjects == ["bad", "good"])
        assert fails.subjects == ["bad"]
        await until(lambda: run.mailbox.cursors.of("fails").attempts == 1)
        assert run.mailbox.cursors.of("fails").last_error == "RuntimeError: do not like bad"
        await until(lambda: fails.subjects == ["bad", "bad", "good"])
        assert loop.time() - began >= 1.0
        await until(lambda: run.mailbox.cursors.of("fails").attempts == 0)
        assert run.mailbox.cursors.of("fails").last_error is None
        assert run.mailbox.quarantine.list() == []


@in_loop
async def test_message_that_fails_too_often_is_a_dead_letter_and_the_next_is_handled(path: Path) -> None:
    fails = Fails(max_attempts=2)
    async with running(path, fails) as run:
        run.receive("bad", "good")
        await until(lambda: run.lag("fails") == 0)
        (letter,) = run.mailbox.quarantine.list()
        status = run.dispatcher.status()[0]
    assert fails.subjects == ["bad", "bad", "good"]
    assert (letter.kind, letter.handler, letter.message_id) == ("dead-letter", "fails", message(1).id)
    assert letter.payload == message(1).body.encode()
    assert "failed 2 times: RuntimeError: do not like bad" in letter.reason
    assert status["dead"] == 1


@in_loop
async def test_failures_are_counted_over_a_restart(path: Path) -> None:
    async with running(path, Fails(max_attempts=2)) as run:
        run.receive("bad")
        await until(lambda: run.mailbox.cursors.of("fails").attempts == 1)
    again = Fails(max_attempts=2)
    async with running(path, again) as run:
        await until(lambda: run.lag("fails") == 0)
        assert run.mailbox.quarantine.dead_letters("fails") == 1
    assert again.subjects == ["bad"]


@in_loop
async def test_handler_goes_on_after_a_restart_where_it_stood(path: Path) -> None:
    first = Note()
    async with running(path, first) as run:
        run.receive("one", "two")
        await until(lambda: run.lag("note") == 0)
    with Mailbox.open(path) as mailbox, mailbox.transaction():
        mailbox.inbound.store([message(3, subject="while nobody ran")], 0.0)
    second = Note()
    async with running(path, second) as run:
        await until(lambda: run.lag("note") == 0)
    assert (first.subjects, second.subjects) == (["one", "two"], ["while nobody ran"])


@in_loop
async def test_new_handler_begins_with_what_comes_from_now_on(path: Path) -> None:
    async with running(path) as run:
        run.receive("old")
    note = Note()
    async with running(path, note) as run:
        run.receive("new")
        await until(lambda: run.lag("note") == 0)
    assert note.subjects == ["new"]


@in_loop
async def test_what_is_cut_off_at_the_end_is_handled_again(path: Path) -> None:
    async def for_ever() -> None:
        await asyncio.sleep(1_000)

    async with running(path, Note(do=for_ever), drain=0.05) as run:
        run.receive("one", "two")
        await asyncio.sleep(0.05)
    again = Note()
    async with running(path, again) as run:
        await until(lambda: run.lag("note") == 0)
    assert again.subjects == ["one", "two"]


@in_loop
async def test_what_runs_at_the_end_may_finish(path: Path) -> None:
    async def work() -> None:
        await asyncio.sleep(0.2)

    note = Note(do=work)
    async with running(path, note) as run:
        run.receive("one", "two")
        await asyncio.sleep(0.05)
    assert note.subjects == ["one"]
    with Mailbox.open(path) as mailbox:
        assert mailbox.cursors.of("note").seq == 1


@in_loop
async def test_batch_that_fails_is_tried_one_by_one(path: Path) -> None:
    batches = InBatches()
    async with running(path, batches) as run:
        run.receive("one", "bad", "three")
        await until(lambda: run.lag("batches") == 0)
        letters = run.mailbox.quarantine.list()
    assert batches.batches == [["one", "bad", "three"], ["one"], ["bad"], ["bad"], ["three"]]
    assert [letter.message_id for letter in letters] == [message(2).id]


@in_loop
async def test_batches_are_as_large_as_the_handler_says(path: Path) -> None:
    batches = InBatches()
    async with running(path, batches) as run:
        run.receive(*(str(number) for number in range(25)))
        await until(lambda: run.lag("batches") == 0)
    assert [len(batch) for batch in batches.batches] == [10, 10, 5]


@in_loop
async def test_handler_that_takes_too_long_has_failed(path: Path) -> None:
    async def for_ever() -> None:
        await asyncio.sleep(1_000)

    slow = Note(do=for_ever)
    slow.timeout = 0.05  # type: ignore[attr-defined]
    slow.max_attempts = 1  # type: ignore[attr-defined]
    async with running(path, slow) as run:
        run.receive("one")
        await until(lambda: run.lag("note") == 0)
        (letter,) = run.mailbox.quarantine.list()
    assert "took longer than 0.05 s" in letter.reason


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), TimeoutError(), KeyError("x"), RecursionError(), StopAsyncIteration()]
)
@in_loop
async def test_whatever_a_handler_raises_it_has_failed_and_goes_on(path: Path, error: BaseException) -> None:
    """CancelledError comes out of a handler that awaits something that was cancelled."""
    failed: list[str] = []

    class Odd:
        name = "odd"
        max_attempts = 1

        async def handle(self, msg: AgentMessage) -> None:
            if not failed:
                failed.append(msg.subject)
                raise error

    async with running(path, Odd()) as run:
        run.receive("one", "two")
        await until(lambda: run.lag("odd") == 0, timeout=3)
        (letter,) = run.mailbox.quarantine.list()
    assert letter.message_id == message(1).id
    assert letter.reason.startswith(f"failed 1 times: {type(error).__name__}")


@in_loop
async def test_handler_of_one_method_is_enough(path: Path) -> None:
    got: list[str] = []

    class Plain:
        async def handle(self, msg: AgentMessage) -> None:
            got.append(msg.subject)

    async with running(path, Plain()) as run:
        run.receive("one")
        await until(lambda: run.lag("Plain") == 0)
    assert got == ["one"]


@in_loop
async def test_two_handlers_of_one_name_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="note"):
        async with running(path, Note(), Note()):
            pass


@in_loop
async def test_handlers_are_started_and_closed_even_when_another_cannot_start(path: Path) -> None:
    events: list[str] = []

    class WithLife(Note):
        async def start(self) -> None:
            events.append(f"start {self.name}")
            if self.name == "broken":
                raise OSError("no such folder")

        async def close(self) -> None:
            events.append(f"close {self.name}")
            if self.name == "rude":
                raise RuntimeError("not now")

    async with running(path, WithLife("rude"), WithLife("other")):
        pass
    assert events == ["start rude", "start other", "close rude", "close other"]
    events.clear()
    with pytest.raises(OSError, match="no such folder"):
        async with running(path, WithLife("first"), WithLife("broken"), WithLife("never")):
            pass
    assert "close first" in events
