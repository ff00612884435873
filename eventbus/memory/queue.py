"""Style `queue`: a queue per group, prefetch, single active consumer (as RabbitMQ)."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import cast

from eventbus.memory.channel import Channel, Entry
from eventbus.memory.history import Exchange, Usage
from eventbus.memory.subscription import MemoryDelivery, MemorySubscription
from eventbus.message import Message
from eventbus.transport import Interest

Tell = Callable[[Sequence[Message]], None]


class QueueGroup:
    """A queue and its consumers in the order in which they subscribed."""

    def __init__(self, interest: Interest, queues: "QueueStyle") -> None:
        self.name: str = interest.group
        self.members: list[MemorySubscription] = []
        self.ready: deque[Entry] = deque[Entry]()
        self.crashed: list[Message] = []
        self.seen_off: int = 0
        self._single_active = interest.order == "key"
        self._types = interest.types
        self._wanted: dict[str, bool] = {}
        self._queues = queues
        self._channels: dict[MemorySubscription, Channel] = {}

    def join(self, member: MemorySubscription) -> None:
        """The first one to subscribe is active; with `order="key"` the others wait."""
        self._queues.know(member.interest)
        self.members.append(member)
        self._open_channel(member)
        member.wake()

    def leave(self, member: MemorySubscription) -> None:
        """Its channel closes: what it held goes back to the head, in order."""
        self.members.remove(member)
        self._return(self._channels.pop(member).close())

    def take(self, member: MemorySubscription, room: int) -> list[MemoryDelivery]:
        """From the head of the queue, with tags of this member's channel."""
        channel = self._channels[member]
        if channel.given_back or (self._single_active and self.members[0] is not member):
            return []
        batch: list[MemoryDelivery] = []
        size = 0
        while self.ready and len(batch) < room:
            length = len(self.ready[0].message.payload)
            if (member.open or batch) and (
                member.held_bytes + size + length > member.max_held_bytes
            ):
                break
            batch.append(channel.deliver(self.ready.popleft()))
            size += length
        member.hold(batch, size)
        return batch

    def record(self, member: MemorySubscription, finished: Sequence[MemoryDelivery]) -> None:
        """Note acks on the channel."""
        channel = self._channels[member]
        channel.recorded += finished
        if not (member.open or channel.given_back):
            channel.rest()

    def send(self, member: MemorySubscription) -> None:
        """One ack for all that is recorded."""
        told: list[Message] = []
        channel = self._channels[member]
        recorded, channel.recorded = channel.recorded, []
        for delivery in recorded:
            entry = cast("Entry", delivery.origin)
            told += entry.exchange.done(entry.offset)
        self.seen_off += len(recorded)
        if told:
            self._queues.tell(told)

    def give_back(self, member: MemorySubscription, back: Sequence[MemoryDelivery]) -> None:
        """Without order at once; with `order="key"` only closing the channel gives back (T28)."""
        if self._single_active:
            self._channels[member].given_back += back
        else:
            self._return(sorted(back, key=lambda delivery: delivery.number))

    def backlog(self) -> int:
        """What is ready; what members hold does not count."""
        return len(self.ready)

    async def settled(self) -> None:
        """Nothing runs on behalf of a queue."""

    @property
    def busy(self) -> bool:
        """Something waits or is held, and there is a member to do it."""
        return bool(self.members) and bool(
            self.ready or any(self._channels[member].holds_any for member in self.members)
        )

    def put(self, entry: Entry) -> None:
        """A new message at the tail."""
        self.ready.append(entry)
        self._wake()

    def wants(self, type: str) -> bool:
        """Whether the queue is bound to that type."""
        known = self._wanted.get(type)
        if known is None:
            known = self._wanted[type] = not self._types or any(
                type == wanted or (wanted.endswith(".*") and type.startswith(wanted[:-1]))
                for wanted in self._types
            )
        return known

    def bind(self, interest: Interest) -> None:
        """What another version of the service asks of the queue comes on top."""
        if interest.types != self._types:
            both = dict.fromkeys(self._types + interest.types)
            self._types = tuple(both) if self._types and interest.types else ()
            self._wanted.clear()

    def lose_channel(self, member: MemorySubscription) -> None:
        """What it held is lost and returns; it subscribes again, as the last."""
        channel = self._channels[member]
        lost = member.lose()
        returned = channel.close()
        member.forget(lost)
        self._open_channel(member)
        self.members.remove(member)
        self.members.append(member)
        if lost:
            member.tell_lost(lost, math.inf)  # nothing has to end: the repeat joins the run
        self._return(returned)

    def _open_channel(self, member: MemorySubscription) -> None:
        self._channels[member] = Channel(
            member,
            now=self._queues.now,
            consumer_timeout=self._queues.consumer_timeout,
            on_timeout=lambda: self.lose_channel(member),
        )

    def _return(self, deliveries: Iterable[MemoryDelivery]) -> None:
        entries = [cast("Entry", delivery.origin) for delivery in deliveries]
        told: list[Message] = []
        for entry in reversed(entries):
            if entry.handed > self._queues.delivery_limit:
                self.crashed.append(entry.message)
                told += entry.exchange.done(entry.offset)
            else:
                self.ready.appendleft(entry)
        if told:
            self._queues.tell(told)
        self._wake()

    def _wake(self) -> None:
        for member in self.members[:1] if self._single_active else self.members:
            if member.waiter is not None:
                member.wake()


class QueueStyle:
    """All exchanges and queues of a broker of this style."""

    def __init__(
        self,
        *,
        retain: int,
        usage: Usage,
        tell: Tell,
        now: Callable[[], float] | None,
        delivery_limit: int,
        consumer_timeout: float,
    ) -> None:
        self.groups: dict[str, QueueGroup] = {}
        self.tell = tell
        self.delivery_limit = delivery_limit
        self.consumer_timeout = consumer_timeout
        self._now = now
        self._topics: dict[str, Exchange] = {}
        self._bound: dict[str, list[QueueGroup]] = {}  # by topic
        self._retain = retain
        self._usage = usage
        self._number = 0

    def now(self) -> float:
        """By which a delivery grows old."""
        return self._now() if self._now else asyncio.get_running_loop().time()

    def store(self, message: Message, malformed: str | None, again: bool) -> Sequence[Message]:
        """Put a copy into each queue that wants it; answers what is handled by that."""
        topic = self._topics.get(message.topic) or self._create(message.topic)
        offset = topic.end
        self._number += 1
        topic.append(message, self._number, malformed, again)
        wanting = [group for group in self._bound[message.topic] if group.wants(message.type)]
        for group in wanting:
            group.put(Entry(group.name, topic, offset, message, malformed, handed=int(again)))
        return topic.copied(offset, len(wanting))

    def group(self, interest: Interest) -> QueueGroup:
        """The queue of that group, declared if need be."""
        known = self.groups.get(interest.group)
        if known is None:
            known = self.groups[interest.group] = QueueGroup(interest, self)
        return known

    def know(self, interest: Interest) -> None:
        """Bind the queue: it gets what is published from now on."""
        group = self.group(interest)
        group.bind(interest)
        for topic in interest.topics:
            if topic not in self._topics:
                self._create(topic)
            if group not in self._bound[topic]:
                self._bound[topic].append(group)

    def make_room(self) -> None:
        """Drop all that is handled, whatever the retention says."""
        for topic in self._topics.values():
            topic.trim(topic.handled, all=True)

    def published(self, topic: str) -> list[Message]:
        """What went through the exchange and is still kept."""
        known = self._topics.get(topic)
        return list(known.messages) if known else []

    def committed(self, group: str) -> dict[str, int]:
        """How many messages each queue has seen off."""
        known = self.groups.get(group)
        return {known.name: known.seen_off} if known else {}

    def crashed(self, group: str) -> Sequence[Message]:
        """What exceeded the delivery limit."""
        return self.groups[group].crashed if group in self.groups else ()

    def lose_channel(self, group: str, member: int) -> None:
        """Of the member at that place in joining order."""
        known = self.groups[group]
        known.lose_channel(known.members[member])

    def _create(self, topic: str) -> Exchange:
        self._bound[topic] = []
        known = self._topics[topic] = Exchange(topic, self._usage, self._retain)
        return known
