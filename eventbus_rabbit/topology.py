"""Exchanges, queues and bindings of a group: declared whole, compared by the broker."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from aiormq.channel import Channel

from eventbus.errors import TransportError
from eventbus.transport import Change, Interest, Place
from eventbus_rabbit.config import RabbitConfig
from eventbus_rabbit.connection import RPC_SECONDS, Link
from eventbus_rabbit.errors import DIFFERENT, MISSING, RefusedError, guarded
from eventbus_rabbit.mapping import binding_key, is_among

DELIVERY_LIMIT = 50  # a net under crash loops; never the way to retry (B7)
HASHED_BY = "ce-partitionkey"
Arguments = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Exchange:
    """Durable."""

    name: str
    kind: str = "topic"
    arguments: Arguments = field(default_factory=dict[str, Any])
    foreign: bool = False  # whoever publishes there makes it


@dataclass(frozen=True, slots=True)
class Queue:
    """Durable, replicated."""

    name: str
    arguments: Arguments


@dataclass(frozen=True, slots=True)
class Binding:
    """From an exchange to a queue, or to another exchange."""

    source: str
    target: str
    key: str
    to_exchange: bool = False


@dataclass(frozen=True, slots=True)
class Topology:
    """What one group needs; `letters` are made when the first dead letter comes."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]
    letters: tuple[Queue, ...]

    @property
    def targets(self) -> Iterable[str]:
        """Where messages are published to."""
        return (exchange.name for exchange in self.exchanges)

    @property
    def hashed(self) -> Exchange | None:
        """What only the plugin understands."""
        return next((each for each in self.exchanges if each.kind == "x-consistent-hash"), None)


def queues_of(interest: Interest, config: RabbitConfig) -> tuple[str, ...]:
    """What a member of the group consumes."""
    shards = config.shards.get(interest.group)
    if shards is None or interest.order == "none":
        return (interest.group,)
    return tuple(f"{interest.group}.g1.{number}" for number in range(shards))


def topology_of(interest: Interest, config: RabbitConfig) -> Topology:
    """Pure: from the interest and the configuration alone."""
    group = interest.group
    names = queues_of(interest, config)
    sharded = names != (group,)
    hashed = f"{group}.shards"
    exchanges = [Exchange(topic, foreign=topic in config.foreign) for topic in interest.topics]
    target = hashed if sharded else group
    bindings = [
        Binding(topic, target, key, to_exchange=sharded)
        for topic in interest.topics
        for key in _keys(interest.types, config.foreign.get(topic))
    ]
    if sharded:
        exchanges.append(Exchange(hashed, "x-consistent-hash", {"hash-header": HASHED_BY}))
        bindings += [Binding(hashed, name, "1") for name in names]  # the key is a weight
    arguments = queue_arguments(group, ordered=interest.order == "key")
    return Topology(
        exchanges=tuple(exchanges),
        queues=(crashed(group), *(Queue(name, arguments) for name in names)),
        bindings=tuple(bindings),
        letters=tuple(map(letters, interest.dead_topics)),
    )


def _keys(types: tuple[str, ...], foreign: str | None) -> Iterable[str]:
    """What is foreign comes under keys of its own, so of that everything is wanted, or nothing."""
    everything = not types or (foreign is not None and is_among(foreign, types))
    return ["#"] if everything else dict.fromkeys(binding_key(each) for each in types)


def queue_arguments(group: str, *, ordered: bool) -> Arguments:
    """Each one explicit: the defaults drop messages, and differ between versions (§9.5)."""
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": f"{group}.crashed",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    if ordered:
        arguments["x-single-active-consumer"] = True
    return arguments


def crashed(group: str) -> Queue:
    """Where the broker itself puts what came back too often."""
    return Queue(f"{group}.crashed", {"x-queue-type": "quorum"})


def letters(topic: str) -> Queue:
    """Our own dead letters of a group and topic."""
    return Queue(topic, {"x-queue-type": "quorum"})


async def declare(channel: Channel, topology: Topology, *, passive: bool = False) -> None:
    """Make what is missing; the broker compares what is there with all arguments.

    Raises:
        BrokenError: no answer, or the connection is gone.
        RefusedError: it exists with other arguments, is missing (`passive`), or is forbidden.
    """
    for exchange in topology.exchanges:
        await declare_exchange(channel, exchange, passive=passive or exchange.foreign)
    for queue in topology.queues:
        await declare_queue(channel, queue, passive=passive)
    for binding in () if passive else topology.bindings:
        bind = channel.exchange_bind if binding.to_exchange else channel.queue_bind
        await guarded(bind(binding.target, binding.source, binding.key), RPC_SECONDS)


async def declare_exchange(channel: Channel, exchange: Exchange, *, passive: bool = False) -> None:
    """One of them."""
    await guarded(
        channel.exchange_declare(
            exchange.name,
            exchange_type=exchange.kind,
            durable=True,
            passive=passive,
            arguments=dict(exchange.arguments),
        ),
        RPC_SECONDS,
    )


async def declare_queue(
    channel: Channel, queue: Queue, *, passive: bool = False
) -> tuple[int, int]:
    """One of them; how many messages are ready, and how many consumers there are."""
    answer = await guarded(
        channel.queue_declare(
            queue.name, durable=True, passive=passive, arguments=dict(queue.arguments)
        ),
        RPC_SECONDS,
    )
    return answer.message_count or 0, answer.consumer_count or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RabbitChange(Change):
    """A step of a plan, and what to declare for it."""

    topology: Topology


async def plan(link: Link, needed: Iterable[Topology]) -> Sequence[RabbitChange]:
    """What is missing or different; bindings are made with their queue, the broker hides them.

    Raises:
        BrokenError: the broker does not answer.
        RefusedError: it does not say whether something exists.
    """
    changes: list[RabbitChange] = []
    for topology in needed:
        for place in await status(link, [topology]):
            named = f"create {place.kind} {place.name}"
            different = place.state == "different"
            if place.state != "there":
                what = f"delete and {named}: {place.what}" if different else named
                changes.append(RabbitChange(what=what, destructive=different, topology=topology))
    return changes


async def status(link: Link, needed: Iterable[Topology]) -> Sequence[Place]:
    """Every exchange and queue, each once; raises as `plan` does."""
    every: dict[str, Exchange | Queue] = {}
    for topology in needed:
        every |= {f"exchange {each.name}": each for each in topology.exchanges}
        every |= {f"queue {each.name}": each for each in (*topology.queues, *topology.letters)}
    return [await _place(link, each) for each in every.values()]


async def _place(link: Link, what: Exchange | Queue) -> Place:
    """Asked passively first: a declaration compares, but makes what is missing."""
    kind: Literal["exchange", "queue"] = "exchange" if isinstance(what, Exchange) else "queue"
    said: list[str] = []

    async def ask(channel: Channel) -> None:
        if isinstance(what, Exchange):
            await declare_exchange(channel, what, passive=True)
            if not what.foreign:
                await declare_exchange(channel, what)
            said.append("of others" if what.foreign else what.kind)
        else:
            ready, consumers = await declare_queue(channel, what, passive=True)
            await declare_queue(channel, what)
            said.append(f"{ready:,} ready, {consumers} consumer{'' if consumers == 1 else 's'}")

    try:
        await link.on_channel(ask)
    except RefusedError as error:
        if error.code == MISSING.code:
            return Place(kind=kind, name=what.name, state="missing", what="does not exist")
        if error.code == DIFFERENT.code:
            return Place(kind=kind, name=what.name, state="different", what=error.why)
        raise
    return Place(kind=kind, name=what.name, state="there", what=said[0])


async def apply(link: Link, changes: Sequence[Change]) -> None:
    """Declare what the changes are for, each topology once.

    Raises:
        BrokenError: the broker does not answer.
        RefusedError: it refused.
        TransportError: EB2202, a change is destructive: what is in a queue would be lost, so a
            person deletes it.
    """
    for change in changes:
        if change.destructive:
            raise TransportError(
                DIFFERENT.code,
                f"not applied: {change.what}",
                where="topology apply",
                why="what it holds would be lost; nothing of this plan was changed",
                next=DIFFERENT.next,
            )
    seen: list[Topology] = []
    for change in changes:
        if isinstance(change, RabbitChange) and change.topology not in seen:
            seen.append(change.topology)
            await _make(link, change.topology)


async def _make(link: Link, topology: Topology) -> None:
    async def make(channel: Channel) -> None:
        await declare(channel, topology)
        for queue in topology.letters:
            await declare_queue(channel, queue)

    await link.on_channel(make)
