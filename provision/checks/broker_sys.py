"""What a broker tells of itself below ``$SYS``; what it does not tell is unknown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from swarmbus.provision.checks.commands import set_option
from swarmbus.provision.checks.record import Finding, Status, check
from swarmbus.provision.facts import CouldNotLook, Facts
from swarmbus.provision.sources.local_broker import LocalBroker

_SPARE: Final = 10
_NEAR: Final = 0.9


def _local(facts: Facts, broker: str) -> LocalBroker:
    if not facts.serves_here(broker):
        raise CouldNotLook("its configuration is another machine's")
    return facts.local_broker()


@check("broker.sys-missing", "the broker tells of itself", scope="broker", after=("mqtt.connect",))
def sys_missing(facts: Facts, broker: str) -> Iterator[Finding]:
    """Whether anything is kept below $SYS/broker."""
    if facts.visit(broker).presences is None:
        raise CouldNotLook("the broker does not let us read")
    if not facts.sys_topics(broker):
        message = "the broker shows us nothing below $SYS: how many messages it drops or queues is unknown"
        yield Finding(Status.INFO, message, {"topics": 0})


@check("broker.queue-drops", "the broker drops nothing", scope="broker", after=("mqtt.connect",))
def queue_drops(facts: Facts, broker: str) -> Iterator[Finding]:
    """Dropped messages a minute, on the average of a quarter of an hour, and all since its start."""
    topics = facts.sys_topics(broker)
    rate = topics.number("load/publish/dropped/15min")
    total = topics.number("publish/messages/dropped")
    if rate is None and total is None:
        raise CouldNotLook("the broker does not tell how many messages it has dropped")
    evidence = {"dropped": total, "a_minute": rate}
    if rate:
        message = (
            f"the broker drops messages, {rate:g} a minute: the queue of a slow or absent client is full"
        )
        try:
            fix = set_option(_local(facts, broker), "max_queued_messages", "100000")
        except CouldNotLook:
            fix = ()
        yield Finding(Status.FAIL, message, evidence, fix)
    elif total:
        yield Finding(Status.INFO, f"the broker has dropped {total:.0f} messages since its start", evidence)


@check(
    "broker.orphan-sessions",
    "the broker forgets sessions of agents that are gone",
    scope="broker",
    after=("mqtt.connect",),
)
def orphan_sessions(facts: Facts, broker: str) -> Iterator[Finding]:
    """Sessions without a client against agents with presence, where nothing lets sessions expire."""
    local, presences = _local(facts, broker), facts.visit(broker).presences
    if presences is None:
        raise CouldNotLook("the broker does not let us read presence")
    count = facts.sys_topics(broker).number("clients/disconnected")
    if count is None:
        raise CouldNotLook("the broker does not tell how many sessions it keeps")
    if local.line("persistent_client_expiration") is None and count > len(presences) + _SPARE:
        message = f"the broker keeps {count:.0f} sessions without a client, and knows {len(presences)} agents"
        evidence = {"sessions": int(count), "agents": len(presences)}
        fix = set_option(local, "persistent_client_expiration", "2m")
        yield Finding(Status.WARN, message, evidence, fix)


@check("broker.connection-limit", "the broker takes more clients", scope="broker", after=("mqtt.connect",))
def connection_limit(facts: Facts, broker: str) -> Iterator[Finding]:
    """Connected clients against max_connections."""
    local = _local(facts, broker)
    most = local.number("max_connections", -1)
    if most <= 0:
        return
    clients = facts.sys_topics(broker).number("clients/connected")
    if clients is None:
        raise CouldNotLook("the broker does not tell how many clients it has")
    if clients >= most * _NEAR:
        message = f"{clients:.0f} clients are connected, and max_connections is {most}"
        fix = set_option(local, "max_connections", "-1")
        yield Finding(Status.WARN, message, {"clients": int(clients), "max_connections": most}, fix)
