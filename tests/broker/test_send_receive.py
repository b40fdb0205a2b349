"""Messages from one agent to another: what is said of them on the way, and that each arrives once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmbus.bus import AgentBus
from swarmbus.errors import BrokerUnreachable, Conflict, InvalidAgentId, InvalidMessage, NoSubscriber
from swarmbus.inbox_file import parse_entries
from swarmbus.mailbox import Mailbox
from swarmbus.paths import mailbox_path
from tests.broker.agents import (
    Collect,
    bus_of,
    envelope_json,
    listening,
    publish,
    quarantined,
    raw,
    sent,
    stored,
    subjects,
    until_state,
)
from tests.conftest import MakeBroker
from tests.lab.loop import in_loop, until
from tests.lab.mosquitto import Broker


@in_loop
async def test_message_goes_through_all_states(broker: Broker) -> None:
    async with listening(broker, "coder") as coder, bus_of(broker, "planner") as planner:
        delivery = await planner.send(to="coder", subject="hello", body="got a minute?", wait="stored")
        assert delivery.state == "stored"
        seen = asyncio.create_task(planner.send(to="coder", subject="and?", body="", wait="seen", timeout=20))
        await until(lambda: subjects("coder") == ["hello", "and?"])
        assert [message["subject"] for message in await coder.read_inbox()] == ["hello", "and?"]
        assert (await seen).state == "seen"
        await until_state("planner", delivery.id, "seen")
    times = sent("planner", delivery.id)
    assert times.accepted is not None
    assert times.stored is not None
    assert times.seen is not None
    assert times.queued <= times.accepted <= times.seen
    assert times.queued <= times.stored <= times.seen
    assert times.done
    assert times.attempts == 1


@in_loop
async def test_message_with_everything_arrives_as_it_was_sent(broker: Broker) -> None:
    async with listening(broker, "coder") as coder, bus_of(broker, "planner") as planner:
        delivery = await planner.send(
            to="coder",
            subject="naïve 🐝",
            body='{"a": "\x00\u2028"}',
            content_type="application/json",
            priority="high",
            reply_to="boss",
            in_reply_to="11111111-1111-4111-8111-111111111111",
            extra={"thread": "t1", "hops": 2, "cls": {"nested": [None, True]}, "from_agent": "x"},
            wait="stored",
        )
        (message,) = await coder.read_inbox()
    assert message.pop("received") == pytest.approx(stored("coder")[0].received)
    assert message == {
        "id": delivery.id,
        "from": "planner",
        "to": "coder",
        "ts": delivery.ts,
        "subject": "naïve 🐝",
        "body": '{"a": "\x00\u2028"}',
        "content_type": "application/json",
        "priority": "high",
        "reply_to": "boss",
        "in_reply_to": "11111111-1111-4111-8111-111111111111",
        "thread": "t1",
        "hops": 2,
        "cls": {"nested": [None, True]},
        "from_agent": "x",
        "verified": False,
    }


@pytest.mark.parametrize("body", ["x" * 65_536, "é" * 32_768, "\x00" * 65_536, "\U0001f41d" * 16_384])
@in_loop
async def test_largest_body_arrives(broker: Broker, body: str) -> None:
    async with listening(broker, "coder"), listening(broker, "planner"):
        # Through the control socket, where it is escaped twice.
        delivery = await bus_of(broker, "planner").send(to="coder", subject="", body=body, wait="stored")
        assert delivery.state == "stored"
    assert stored("coder")[0].body == body


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"body": "x" * 65_537}, InvalidMessage),
        ({"body": "é" * 32_769}, InvalidMessage),
        ({"body": "\ud800"}, InvalidMessage),
        ({"subject": "two\nlines"}, InvalidMessage),
        ({"subject": "x" * 257}, InvalidMessage),
        ({"subject": "\ud800"}, InvalidMessage),
        ({"content_type": "text/html"}, InvalidMessage),
        ({"priority": "urgent"}, InvalidMessage),
        ({"to": "Coder"}, InvalidAgentId),
        ({"to": "presence"}, InvalidAgentId),
        ({"reply_to": "broadcast"}, InvalidAgentId),
        ({"extra": {"id": "mine"}}, InvalidMessage),
        ({"extra": {"from": "boss"}}, InvalidMessage),
        ({"extra": {"wire": 7}}, InvalidMessage),
        ({"extra": {"deep": "\ud800"}}, InvalidMessage),
        ({"extra": {"deep": object()}}, InvalidMessage),
    ],
)
@in_loop
async def test_what_cannot_be_sent_is_refused_before_anything_is_kept(
    wrong: dict[str, object], error: type[Exception]
) -> None:
    bus = AgentBus("planner", "127.0.0.1", 1)  # nobody is asked
    with pytest.raises(error):
        await bus.send(**{"to": "coder", "subject": "", "body": ""} | wrong)  # type: ignore[arg-type]
    assert not mailbox_path("planner").exists() or outbound("planner") == []


def outbound(agent_id: str) -> list[str]:
    """Ids of what an agent has not delivered."""
    with Mailbox.open(mailbox_path(agent_id)) as mailbox:
        return [message.id for message in mailbox.outbound.undelivered()]


@in_loop
async def test_message_sent_while_listener_is_down_arrives_when_it_is_back(broker: Broker) -> None:
    collect = Collect()
    async with listening(broker, "coder", collect):
        pass
    planner = bus_of(broker, "planner")
    delivery = await planner.send(to="coder", subject="while you were out", body="")
    assert delivery.state == sent("planner", delivery.id).state == "accepted"
    assert subjects("coder") == []
    async with listening(broker, "coder", collect):
        await until(lambda: collect.subjects == ["while you were out"])


@in_loop
async def test_sender_without_listener_learns_later_that_it_was_stored(broker: Broker) -> None:
    planner = bus_of(broker, "planner")
    async with listening(broker, "coder"):
        first = await planner.send(to="coder", subject="first", body="")
        await until(lambda: subjects("coder") == ["first"])
        await planner.send(to="coder", subject="second", body="", wait="stored")
        await until_state("planner", first.id, "stored")
    assert subjects("coder") == ["first", "second"]


@in_loop
async def test_receiver_that_never_was_has_no_subscriber(broker: Broker) -> None:
    planner = bus_of(broker, "planner")
    with pytest.raises(NoSubscriber, match="coder") as failure:
        await planner.send(to="coder", subject="anybody?", body="")
    assert failure.value.message_id is not None
    kept = sent("planner", failure.value.message_id)
    assert (kept.state, kept.done) == ("no-subscriber", True)
    assert outbound("planner") == [kept.id]


@in_loop
async def test_message_that_had_no_subscriber_can_be_sent_again(broker: Broker) -> None:
    async with listening(broker, "planner") as planner:
        with pytest.raises(NoSubscriber) as failure:
            await planner.send(to="coder", subject="anybody?", body="")
        message_id = failure.value.message_id
        assert message_id is not None
        async with listening(broker, "coder"):
            with Mailbox.open(mailbox_path("planner")) as mailbox, mailbox.transaction():
                assert mailbox.outbound.retry([message_id]) == [message_id]
            await poke("planner")
            await until_state("planner", message_id, "stored")
    assert subjects("coder") == ["anybody?"]


async def poke(agent_id: str) -> None:
    """Tell a listener that somebody else has changed the mailbox."""
    from swarmbus import control

    await asyncio.to_thread(control.request, agent_id, {"op": "poke"})


@in_loop
async def test_message_whose_session_the_broker_has_lost_is_sent_again(broker: Broker) -> None:
    planner = bus_of(broker, "planner")
    async with listening(broker, "coder"):
        await planner.send(to="coder", subject="first", body="", wait="stored")
    await planner.send(to="coder", subject="lost with the broker", body="")
    broker.kill()
    broker.start()
    async with planner:
        delivery = await planner.send(to="coder", subject="no session", body="")
        assert delivery.state == "queued"
        assert delivery.reason is not None
        assert "coder" in delivery.reason
        async with listening(broker, "coder"):
            await until(lambda: len(subjects("coder")) == 3)
            await until_state("planner", delivery.id, "stored")
    assert sorted(subjects("coder")) == ["first", "lost with the broker", "no session"]


@in_loop
async def test_message_sent_with_the_broker_away_goes_out_when_it_is_back(broker: Broker) -> None:
    async with listening(broker, "coder"):
        async with bus_of(broker, "planner") as planner:
            await planner.send(to="coder", subject="before", body="", wait="stored")
            broker.kill()
            await asyncio.sleep(0.1)
            delivery = await planner.send(to="coder", subject="in between", body="")
            assert (delivery.state, delivery.final) == ("queued", False)
            broker.start()
            await until_state("planner", delivery.id, "stored", timeout=20)
    assert subjects("coder") == ["before", "in between"]


@in_loop
async def test_broker_that_was_never_there_leaves_the_message_in_the_spool(broker: Broker) -> None:
    broker.kill()
    planner = bus_of(broker, "planner")
    delivery = await planner.send(to="coder", subject="later", body="")
    assert delivery.state == "queued"
    assert planner.last_error is not None
    assert f":{broker.port}" in planner.last_error
    broker.start()
    async with listening(broker, "coder"), listening(broker, "planner"):
        await until_state("planner", delivery.id, "stored")


@in_loop
async def test_what_we_said_is_kept_is_not_given_up_because_nobody_is_there_yet(broker: Broker) -> None:
    """Back after a crash, the broker knows neither the receiver's session nor its presence."""
    broker.kill()
    async with bus_of(broker, "planner") as planner:
        delivery = await planner.send(to="coder", subject="first contact", body="")
        assert delivery.state == "queued"
        broker.start()
        await until(lambda: sent("planner", delivery.id).reason is not None)
        assert not sent("planner", delivery.id).done
        async with listening(broker, "coder"):
            await until_state("planner", delivery.id, "stored")


@in_loop
async def test_broadcast_reaches_all_but_its_sender(broker: Broker) -> None:
    async with (
        listening(broker, "coder"),
        listening(broker, "tester"),
        listening(broker, "planner") as planner,
    ):
        delivery = await planner.send(to="broadcast", subject="all hands", body="")
        assert (delivery.state, delivery.final) == ("accepted", True)
        await until(lambda: subjects("coder") == subjects("tester") == ["all hands"])
        await planner.send(to="coder", subject="marker", body="", wait="stored")
        await bus_of(broker, "coder").send(to="planner", subject="marker", body="", wait="stored")
    assert subjects("planner") == ["marker"]
    assert stored("coder")[0].to == "broadcast"


@in_loop
async def test_agent_can_write_to_itself(broker: Broker) -> None:
    async with listening(broker, "planner") as planner:
        assert (await planner.send(to="planner", subject="note", body="", wait="stored")).state == "stored"
    assert subjects("planner") == ["note"]


@in_loop
async def test_copies_of_a_message_are_stored_once(broker: Broker) -> None:
    collect = Collect()
    one = envelope_json(subject="again and again")
    async with listening(broker, "coder", collect):
        async with raw(broker) as (connection, _):
            for payload in (one, one, f"[{one}, {one}]", one):
                await connection.publish("agents/coder/inbox", payload)
        await publish(broker, "agents/coder/inbox", envelope_json(subject="last"))
        await until(lambda: "last" in collect.subjects)
    assert collect.subjects == ["again and again", "last"]
    assert not quarantined("coder")


@in_loop
async def test_id_that_is_used_for_two_messages_is_a_conflict(broker: Broker) -> None:
    async with listening(broker, "coder"):
        await publish(broker, "agents/coder/inbox", envelope_json(id="same", body="one"))
        await publish(broker, "agents/coder/inbox", envelope_json(id="same", body="another"))
        await publish(broker, "agents/coder/inbox", envelope_json(subject="last"))
        await until(lambda: "last" in subjects("coder"))
    assert [message.body for message in stored("coder")] == ["one", "got a minute?"]
    (kept,) = quarantined("coder")
    assert (kept.kind, kept.message_id) == ("conflict", "same")
    assert json.loads(kept.payload)["body"] == "another"


@in_loop
async def test_sender_that_the_topic_belies_is_forged(broker: Broker) -> None:
    async with listening(broker, "coder"):
        await publish(broker, "agents/coder/inbox/mallory", envelope_json(**{"from": "boss"}))
        await publish(
            broker, "agents/broadcast/mallory", envelope_json(**{"from": "boss", "to": "broadcast"})
        )
        await publish(broker, "agents/coder/inbox/stranger", envelope_json(subject="vouched"))
        await publish(broker, "agents/coder/inbox", envelope_json(subject="bare"))
        await until(lambda: "bare" in subjects("coder"))
    assert [(message.subject, message.verified) for message in stored("coder")] == [
        ("vouched", True),
        ("bare", False),
    ]
    assert [(entry.kind, entry.topic) for entry in quarantined("coder")] == [
        ("forged", "agents/coder/inbox/mallory"),
        ("forged", "agents/broadcast/mallory"),
    ]


@in_loop
async def test_receiver_that_owes_a_receipt_is_sent_the_message_again(broker: Broker) -> None:
    """Its broker may have lost it on the way."""
    async with raw(broker, "agents/coder/inbox/#") as (connection, arrivals):
        online = b'{"status": "online", "wire": 1, "instance": "x"}'
        await connection.publish("agents/coder/presence", online, retain=True)
        async with listening(broker, "planner") as planner:
            delivery = await planner.send(to="coder", subject="hello?", body="")
            await until(lambda: len(arrivals) == 2, timeout=6)
            assert arrivals[0].payload == arrivals[1].payload
            receipt = json.dumps({"from": "coder", "stored": [delivery.id]})
            await connection.publish("agents/planner/receipts", receipt)
            await until_state("planner", delivery.id, "stored")
    assert sent("planner", delivery.id).attempts == 2


@in_loop
async def test_receipt_of_somebody_else_does_not_count(broker: Broker) -> None:
    async with listening(broker, "coder"):
        pass  # from now on there is a session, and nobody who takes from it
    async with bus_of(broker, "planner") as planner:
        delivery = await planner.send(to="coder", subject="for coder only", body="")
        await publish(
            broker, "agents/planner/receipts", json.dumps({"from": "mallory", "stored": [delivery.id]})
        )
        forged = json.dumps({"from": "coder", "stored": [delivery.id]})
        await publish(broker, "agents/planner/receipts/mallory", forged)
        async with listening(broker, "tester"):
            await planner.send(to="tester", subject="marker", body="", wait="stored")
        assert sent("planner", delivery.id).state == "accepted"


@in_loop
async def test_canary_is_confirmed_and_shown_to_nobody(broker: Broker) -> None:
    collect = Collect()
    async with listening(broker, "coder", collect), raw(broker, "agents/doctor/receipts/#") as (_, receipts):
        canary = envelope_json(**{"from": "doctor", "kind": "canary", "id": "tweet"})
        await publish(broker, "agents/coder/inbox", canary)
        await until(lambda: bool(receipts))
    said = json.loads(receipts[0].payload)
    assert (said["from"], said["canary"]) == ("coder", "tweet")
    assert said["hops"]["received"] <= said["hops"]["stored"]
    assert stored("coder") == []
    assert collect.messages == []


# --- reading -------------------------------------------------------------------------------------------


@in_loop
async def test_read_without_listener_takes_what_the_broker_has_queued(broker: Broker) -> None:
    async with listening(broker, "coder"):
        pass
    async with bus_of(broker, "planner") as planner:
        ids = [(await planner.send(to="coder", subject=f"{n}", body="")).id for n in range(25)]
        coder = bus_of(broker, "coder")
        first = await coder.read_inbox(10)
        assert [message["subject"] for message in first] == [str(n) for n in range(10)]
        await until_state("planner", ids[0], "seen")
        await until_state("planner", ids[-1], "stored")
        rest = await coder.read_inbox(100)
        assert [message["subject"] for message in rest] == [str(n) for n in range(10, 25)]
        assert await coder.read_inbox() == []
        await until_state("planner", ids[-1], "seen")
    # All of it was acknowledged: the broker has nothing left that could come again.
    async with raw_session(broker, "coder") as arrivals:
        assert arrivals == []


class raw_session:  # noqa: N801  reads as a function at its place of use
    """Take over an agent's session, and see what the broker sends for a moment."""

    def __init__(self, broker: Broker, agent_id: str) -> None:
        self._broker, self._agent_id = broker, agent_id

    async def __aenter__(self) -> list[bytes]:
        from swarmbus.broker import Broker as Address
        from swarmbus.connection import Arrival, Connection, client_id

        arrivals: list[Arrival] = []
        async with await Connection.open(
            Address(self._broker.host, self._broker.port),
            client_id=client_id(self._agent_id, listener=True),
            persistent=True,
            on_arrival=arrivals.append,
        ) as connection:
            assert connection.session_present
            # What the broker has queued comes before the answer to this.
            await connection.publish(f"raw/{self._agent_id}", b"")
        return [arrival.payload for arrival in arrivals]

    async def __aexit__(self, *_: object) -> None:
        pass


@in_loop
async def test_read_before_there_ever_was_a_session_makes_one(broker: Broker) -> None:
    coder = bus_of(broker, "coder")
    assert await coder.read_inbox() == []
    await bus_of(broker, "planner").send(to="coder", subject="now there is", body="")
    assert [message["subject"] for message in await coder.read_inbox()] == ["now there is"]


@in_loop
async def test_read_and_peek_and_other_consumers_have_their_own_ways(broker: Broker) -> None:
    async with listening(broker, "coder") as coder, bus_of(broker, "planner") as planner:
        for subject in ("one", "two"):
            delivery = await planner.send(to="coder", subject=subject, body="", wait="stored")
        for _ in range(2):
            assert [m["subject"] for m in await coder.read_inbox(peek=True)] == ["one", "two"]
        assert [m["subject"] for m in await coder.read_inbox(consumer="audit")] == ["one", "two"]
        assert sent("planner", delivery.id).state == "stored"
        assert [m["subject"] for m in await coder.read_inbox(1)] == ["one"]
        assert [m["subject"] for m in await coder.read_inbox()] == ["two"]
        assert await coder.read_inbox(consumer="audit") == []
        await until_state("planner", delivery.id, "seen")


@in_loop
async def test_read_with_nothing_unread_and_no_broker_is_an_error(broker: Broker) -> None:
    coder = bus_of(broker, "coder")
    assert await coder.read_inbox() == []
    await bus_of(broker, "planner").send(to="coder", subject="one", body="")
    assert len(await coder.read_inbox(peek=True)) == 1
    broker.kill()
    assert [message["subject"] for message in await coder.read_inbox()] == ["one"]
    with pytest.raises(BrokerUnreachable):
        await coder.read_inbox()


@in_loop
async def test_several_readers_share_the_messages_and_none_comes_twice(broker: Broker) -> None:
    async with listening(broker, "coder"):
        pass
    async with bus_of(broker, "planner") as planner:
        await asyncio.gather(*(planner.send(to="coder", subject=f"{n}", body="") for n in range(60)))
    parts = await asyncio.gather(*(bus_of(broker, "coder").read_inbox(10) for _ in range(6)))
    taken = sorted(int(message["subject"]) for part in parts for message in part)
    assert taken == list(range(60))


@in_loop
async def test_watch_without_listener_sees_the_next_message(broker: Broker) -> None:
    coder = bus_of(broker, "coder")
    watching = asyncio.create_task(coder.watch_inbox(20))
    async with bus_of(broker, "planner") as planner:
        await until(mailbox_path("coder").exists)
        await retry_until_subscribed(planner, "coder", "at last")
        message = await watching
    assert message is not None
    assert message["subject"] == "at last"


async def retry_until_subscribed(bus: AgentBus, to: str, subject: str) -> None:
    """Send to somebody who is about to subscribe for the first time."""
    for _ in range(200):
        try:
            await bus.send(to=to, subject=subject, body="")
        except NoSubscriber:
            await asyncio.sleep(0.02)
        else:
            return
    raise AssertionError(f"{to} did not subscribe")


@in_loop
async def test_watch_beside_a_listener_wakes_at_once(broker: Broker) -> None:
    async with listening(broker, "coder") as coder, bus_of(broker, "planner") as planner:
        watching = asyncio.create_task(coder.watch_inbox(20))
        await asyncio.sleep(0.2)
        assert not watching.done()
        loop = asyncio.get_running_loop()
        before = loop.time()
        await planner.send(to="coder", subject="wake", body="", wait="stored")
        message = await watching
        assert message is not None
        assert message["subject"] == "wake"
        assert loop.time() - before < 1.0


@in_loop
async def test_watch_with_nothing_coming_returns_none_in_time(broker: Broker) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(2):  # the first time there is no session yet
        before = loop.time()
        assert await bus_of(broker, "coder").watch_inbox(0.5) is None
        assert 0.5 <= loop.time() - before < 3
    async with listening(broker, "coder") as coder:
        before = loop.time()
        assert await coder.watch_inbox(0.5) is None
        assert 0.5 <= loop.time() - before < 3


@in_loop
async def test_read_beside_a_watch_does_not_wait_for_it(broker: Broker) -> None:
    coder = bus_of(broker, "coder")
    assert await coder.read_inbox() == []
    watching = asyncio.create_task(bus_of(broker, "coder").watch_inbox(20, consumer="other"))
    await asyncio.sleep(0.5)
    async with asyncio.timeout(3):
        assert await coder.read_inbox() == []
    await bus_of(broker, "planner").send(to="coder", subject="for both", body="")
    message = await watching
    assert message is not None
    assert message["subject"] == "for both"
    assert [message["subject"] for message in await coder.read_inbox()] == ["for both"]


@in_loop
async def test_listener_that_starts_beside_a_watch_takes_over(broker: Broker) -> None:
    coder = bus_of(broker, "coder")
    assert await coder.read_inbox() == []
    watching = asyncio.create_task(coder.watch_inbox(30))
    await asyncio.sleep(0.5)
    async with asyncio.timeout(5), listening(broker, "coder"):
        await bus_of(broker, "planner").send(to="coder", subject="to the listener", body="", wait="stored")
        message = await watching
    assert message is not None
    assert message["subject"] == "to the listener"


@in_loop
async def test_read_while_a_listener_starts_gets_everything(broker: Broker) -> None:
    async with listening(broker, "coder"):
        pass
    async with bus_of(broker, "planner") as planner:
        for n in range(20):
            await planner.send(to="coder", subject=f"{n}", body="")
    collect = Collect()

    async def start() -> None:
        async with listening(broker, "coder", collect):
            await until(lambda: len(collect.messages) == 20 - drained())

    def drained() -> int:
        # What a reader stored before the handler's cursor was made is no business of the handler.
        return 20 - len(collect.messages) if len(stored("coder")) == 20 else 0

    reader = bus_of(broker, "coder")
    taken: list[str] = []
    listener = asyncio.create_task(start())
    for _ in range(20):
        taken += [message["subject"] for message in await reader.read_inbox(100)]
        if len(taken) == 20:
            break
    await listener
    assert sorted(taken, key=int) == [str(n) for n in range(20)]


# --- concurrency ---------------------------------------------------------------------------------------


@in_loop
async def test_one_bus_may_send_many_messages_at_once_without_a_context(broker: Broker) -> None:
    async with listening(broker, "coder"):
        planner = bus_of(broker, "planner")
        deliveries = await asyncio.gather(
            *(planner.send(to="coder", subject=f"{n}", body="", wait="stored") for n in range(8))
        )
    assert {delivery.state for delivery in deliveries} == {"stored"}
    assert sorted(subjects("coder")) == [str(n) for n in range(8)]


@in_loop
async def test_senders_of_one_agent_do_not_send_each_others_messages(broker: Broker) -> None:
    """An older peer, which does not know an id again, would have them twice."""
    async with raw(broker, "agents/elder/inbox/#") as (_, arrivals):
        await asyncio.gather(
            *(bus_of(broker, "planner").send(to="elder", subject=f"{n}", body="") for n in range(12))
        )
        await until(lambda: len(arrivals) >= 12)
        await asyncio.sleep(0.2)
    got = sorted(int(json.loads(arrival.payload)["subject"]) for arrival in arrivals)
    assert got == list(range(12))


@in_loop
async def test_sender_beside_a_listener_does_not_send_its_messages_too(broker: Broker) -> None:
    async with raw(broker, "agents/elder/inbox/#") as (_, arrivals), listening(broker, "planner") as planner:
        broker.pause()
        waiting = [
            asyncio.create_task(
                planner.send(to="elder", subject=f"{n}", body="", wait="accepted", timeout=20)
            )
            for n in range(5)
        ]
        opening = asyncio.create_task(bus_of(broker, "planner").__aenter__())
        await asyncio.sleep(0.3)
        broker.resume()
        second = await opening
        await asyncio.gather(*waiting)
        await second.__aexit__(None, None, None)
        await until(lambda: len(arrivals) >= 5)
        await asyncio.sleep(0.2)
    got = sorted(int(json.loads(arrival.payload)["subject"]) for arrival in arrivals)
    assert got == list(range(5))


@in_loop
async def test_burst_of_a_thousand_arrives_once_and_in_order(broker: Broker) -> None:
    async with listening(broker, "coder"), bus_of(broker, "planner") as planner:
        await asyncio.gather(
            *(
                planner.send(to="coder", subject=f"{n}", body="x" * 200, wait="stored", timeout=30)
                for n in range(1000)
            )
        )
    assert subjects("coder") == [str(n) for n in range(1000)]


@in_loop
async def test_receiver_that_was_away_gets_more_than_the_broker_queues(make_broker: MakeBroker) -> None:
    """mosquitto drops what is above max_queued_messages, and acknowledges it all the same."""
    broker = make_broker("max_queued_messages 50")
    async with listening(broker, "coder"):
        await bus_of(broker, "planner").send(to="coder", subject="first", body="", wait="stored")
    async with bus_of(broker, "planner") as planner:
        for n in range(200):
            await planner.send(to="coder", subject=f"{n}", body="")
        async with listening(broker, "coder"):
            await until(lambda: len(subjects("coder")) == 201, timeout=20)
            await until(lambda: outbound("planner") == [], timeout=20)


@in_loop
async def test_without_persistence_nothing_is_queued_and_the_sender_is_told(broker: Broker) -> None:
    async with listening(broker, "coder", persistent=False):
        await bus_of(broker, "planner").send(to="coder", subject="heard", body="", wait="stored")
    delivery = await bus_of(broker, "planner").send(to="coder", subject="later", body="")
    assert delivery.state == "queued"
    async with bus_of(broker, "planner"), listening(broker, "coder", persistent=False):
        await until_state("planner", delivery.id, "stored")
    assert subjects("coder") == ["heard", "later"]


@in_loop
async def test_outbox_file_has_what_was_sent(broker: Broker, home: Path) -> None:
    outbox = home / "planner-outbox.md"
    async with listening(broker, "coder"):
        planner = bus_of(broker, "planner")
        delivery = await planner.send(
            to="coder",
            subject="hello",
            body="## [2026-01-01 00:00] From: x | y",
            outbox_path=home / "{agent_id}-outbox.md",
        )
    (entry,) = parse_entries(outbox.read_text())
    assert (entry.direction, entry.peer, entry.subject, entry.id) == ("To", "coder", "hello", delivery.id)
    assert entry.body == "## [2026-01-01 00:00] From: x | y"


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of one megabyte, which `enlarge` gives room."""
    if os.geteuid() != 0:
        pytest.skip("a small file system to fill can only be mounted by root")
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def enlarge(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=20m", str(folder)], check=True)


@in_loop
async def test_receiver_whose_disk_is_full_promises_nothing_and_catches_up(broker: Broker) -> None:
    folder = mailbox_path("coder").parent
    with small_disk(folder):
        collect = Collect()
        async with listening(broker, "coder", collect), bus_of(broker, "planner") as planner:
            ids: list[str] = []
            states: list[str] = ["stored"]
            while states[-1] == "stored":
                assert len(ids) < 30, "it was to be full by now"
                delivery = await planner.send(
                    to="coder", subject=f"{len(ids)}", body="x" * 60_000, wait="stored", timeout=1.0
                )
                ids.append(delivery.id)
                states.append(delivery.state)
            assert states[-1] == "accepted"
            assert subjects("coder") == [str(number) for number in range(len(ids) - 1)]
            enlarge(folder)
            await until_state("planner", ids[-1], "stored", timeout=15)
            await until(lambda: collect.subjects == [str(number) for number in range(len(ids))])


@in_loop
async def test_what_could_not_be_stored_was_not_acknowledged_to_the_broker(broker: Broker) -> None:
    """An older peer does not send again: only the broker has it."""
    folder = mailbox_path("coder").parent
    with small_disk(folder):
        async with listening(broker, "coder"):
            for number in range(20):
                await publish(
                    broker, "agents/coder/inbox", envelope_json(subject=f"{number}", body="x" * 60_000)
                )
            await until(lambda: len(subjects("coder")) > 5)
            await asyncio.sleep(0.5)
        assert len(subjects("coder")) < 20
        enlarge(folder)
        async with listening(broker, "coder"):
            await until(lambda: len(subjects("coder")) == 20)


@in_loop
async def test_a_bus_that_names_another_broker_does_not_use_the_listener(broker: Broker) -> None:
    async with listening(broker, "planner"), listening(broker, "coder"):
        elsewhere = AgentBus("planner", "127.0.0.1", 1)
        with pytest.raises(Conflict, match="is connected to"):
            await elsewhere.send(to="coder", subject="where?", body="")
        with pytest.raises(Conflict):
            await elsewhere.read_inbox()
    assert subjects("coder") == []
