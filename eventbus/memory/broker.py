"""MemoryBroker: what several buses of a process share, and what tests may look at."""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

from eventbus.memory.history import Usage
from eventbus.memory.log import LogStyle
from eventbus.memory.queue import QueueStyle
from eventbus.memory.subscription import YIELD_EVERY, Membership, MemorySubscription
from eventbus.message import Message
from eventbus.transport import Interest, OnLost

log: logging.Logger = logging.getLogger("eventbus.memory")

NEAR = 0.9  # of the bound: from there on publishers yield after each message
KAFKA_COMMIT_SECONDS = 1.0
RABBIT_ACK_SECONDS = 0.05


class Tells(Protocol):
    """Who wants to hear which messages are handled."""

    def tell(self, messages: Sequence[Message]) -> None:
        """Once for each message."""
        ...


class MemoryBroker:
    """Topics, groups and their progress, in this process and nowhere else.

    A group is *known* as soon as a transport that is entered was asked to `examine` an interest of
    it, or to `subscribe` with one, and stays known: while it has no member, what it has not
    acknowledged waits for it. What no known group wants counts as handled when it is published. So
    a bus examines the interests of all its groups before anything of it publishes.

    What is handled is kept up to `retain` messages per partition, for groups that come later. What
    is not handled is never dropped: at `max_messages`, or `max_bytes`, publishing is refused.

    One event loop at a time; nothing here is thread-safe.

    Args:
        style: "log" behaves as Kafka: partitions, committed offsets, eager rebalance. "queue" as
            RabbitMQ: a queue per group, which begins with its group, prefetch, single active
            consumer for `order="key"`.
        partitions: of each topic, in style "log".
        now: the clock by which a delivery grows old (`consumer_timeout`), seconds; default: the
            loop's.
        seed: of every choice that a broker would make at random: same seed, same history.
        stepwise: for simulations: every call of the contract yields at least once, publishing
            between append and return, and verdicts arrive with the delay of the real brokers.
        retain: handled messages kept per partition.
        max_messages: kept in all, handled or not.
        max_bytes: of bodies kept in all.
        prefetch: in style "queue" an upper bound below `Interest.max_in_flight`.
        delivery_limit: in style "queue": after so many returns a message goes to
            `crashed(group)`, and counts as handled.
        consumer_timeout: in style "queue": a member that holds a delivery for longer loses its
            channel; seconds.
        revoke_seconds: in style "log": how long a rebalance waits for `on_lost`.
    """

    def __init__(
        self,
        *,
        style: Literal["log", "queue"] = "log",
        partitions: int = 4,
        now: Callable[[], float] | None = None,
        seed: int = 0,
        stepwise: bool = False,
        retain: int = 1_000,
        max_messages: int = 1_000_000,
        max_bytes: int = 256 << 20,
        prefetch: int | None = None,
        delivery_limit: int = 50,
        consumer_timeout: float = 1800.0,
        revoke_seconds: float = 45.0,
    ) -> None:
        self.style: Literal["log", "queue"] = style
        self.partitions = partitions
        self.stepwise = stepwise
        self.owed: int = 0  # messages stored since a publisher yielded
        self._usage = Usage()
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._near_messages = NEAR * max_messages
        self._near_bytes = NEAR * max_bytes
        self._prefetch = prefetch if style == "queue" else None
        self._listeners: list[Tells] = []
        self._unheard: list[Message] = []
        self._style: LogStyle | QueueStyle
        if style == "log":
            self._verdict_seconds = KAFKA_COMMIT_SECONDS if stepwise else 0.0
            self._style = LogStyle(
                partitions=partitions,
                retain=retain,
                usage=self._usage,
                tell=self._tell,
                random=random.Random(seed),  # noqa: S311 - repeatable, not secret
                revoke_seconds=revoke_seconds,
            )
        else:
            self._verdict_seconds = RABBIT_ACK_SECONDS if stepwise else 0.0
            self._style = QueueStyle(
                retain=retain,
                usage=self._usage,
                tell=self._tell,
                now=now,
                delivery_limit=delivery_limit,
                consumer_timeout=consumer_timeout,
            )

    def published(self, topic: str) -> Sequence[Message]:
        """What the topic still keeps, in the order of publishing."""
        return self._style.published(topic)

    def committed(self, group: str) -> Mapping[str, int]:
        """By partition the committed offset; by queue how many messages it has seen off."""
        return self._style.committed(group)

    def unacked(self, group: str) -> int:
        """How many deliveries the members of a group hold without a verdict."""
        known = self._style.groups.get(group)
        return sum(len(member.open) for member in known.members) if known else 0

    def late(self, group: str) -> int:
        """How many verdicts of the group's present members came twice or too late."""
        known = self._style.groups.get(group)
        return sum(member.late for member in known.members) if known else 0

    def idle(self) -> bool:
        """Nothing is unacknowledged, and nothing waits for a group that has a member."""
        return not any(group.busy for group in self._style.groups.values())

    def inject(self, topic: str, message: Message, *, malformed: str | None = None) -> None:
        """Store what a foreign program sent; `malformed`: why its envelope cannot be read."""
        if message.topic != topic:
            raise ValueError(f"the message says topic {message.topic!r}, not {topic!r}")
        if not self.store(message, malformed):
            raise ValueError("the broker is full")
        self.tell_unheard()

    def lose_channel(self, group: str, member: int = 0) -> None:
        """Style "queue": break the channel of a member, counted in joining order.

        What it held returns to the head; it subscribes again, as the last.
        """
        if not isinstance(self._style, QueueStyle):
            raise ValueError("only style 'queue' has channels")  # noqa: TRY004 - of a value
        self._style.lose_channel(group, member)

    def crashed(self, group: str) -> Sequence[Message]:
        """Style "queue": what exceeded the delivery limit."""
        return self._style.crashed(group) if isinstance(self._style, QueueStyle) else ()

    # From here on: for the transports of this broker.

    def listen(self, listener: Tells) -> None:
        """Tell it what every known group has acknowledged."""
        self._listeners.append(listener)

    def unlisten(self, listener: Tells) -> None:
        """No more."""
        self._listeners.remove(listener)

    def know(self, interest: Interest) -> None:
        """The group counts from now on."""
        self._style.know(interest)

    def subscription(
        self, interest: Interest, on_lost: OnLost, max_held: int
    ) -> MemorySubscription:
        """A member that has not joined yet."""
        group: Membership = self._style.group(interest)
        return MemorySubscription(
            group,
            interest,
            on_lost,
            max_in_flight=min(interest.max_in_flight, self._prefetch or interest.max_in_flight),
            stepwise=self.stepwise,
            verdict_seconds=self._verdict_seconds,
            max_held=max_held,
        )

    def store(self, message: Message, malformed: str | None = None, *, again: bool = False) -> bool:
        """Append to the topic; False: full, nothing was stored.

        `again`: another process may have handed it out, so it is delivered as redelivered.
        """
        usage = self._usage
        if (
            usage.messages >= self._max_messages
            or usage.bytes + len(message.payload) > self._max_bytes
        ) and not self._make_room(len(message.payload)):
            return False
        if told := self._style.store(message, malformed, again):
            self._unheard += told
        self.owed += 1
        return True

    @property
    def pace(self) -> int:
        """After how many messages a publisher yields."""
        usage = self._usage
        near = usage.messages > self._near_messages or usage.bytes > self._near_bytes
        return 1 if self.stepwise or near else YIELD_EVERY

    @property
    def trouble(self) -> str | None:
        """Full of what no group has acknowledged."""
        if (
            self._usage.messages < self._max_messages and self._usage.bytes < self._max_bytes
        ) or self._make_room(1):
            return None
        return f"full: {self._usage.messages} messages of {self._usage.bytes} bytes"

    def tell_unheard(self) -> None:
        """Messages of topics without known groups are handled."""
        if self._unheard:
            unheard, self._unheard = self._unheard, []
            self._tell(unheard)

    async def step(self) -> None:
        """Under `stepwise` let others run."""
        if self.stepwise:
            await asyncio.sleep(0)

    def _make_room(self, size: int) -> bool:
        self._style.make_room()
        return (
            self._usage.messages < self._max_messages
            and self._usage.bytes + size <= self._max_bytes
        )

    def _tell(self, messages: Sequence[Message]) -> None:
        for listener in tuple(self._listeners):
            try:
                listener.tell(messages)
            except Exception:  # one bus must not break another's acknowledgement
                log.exception("on_handled of a bus failed")
