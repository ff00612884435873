"""What the cases are made of: messages, interests, and a member of a group with a deadline."""
# ruff: noqa: S101 - a suite asserts

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eventbus.message import Message, new_id
from eventbus.transport import Capabilities, Delivery, Interest, Subscription, Transport

WITHIN = 60.0  # seconds; nothing here waits that long unless something is lost

Connect = Callable[[], Transport]
"""One more transport on the broker of this test, not entered."""

BreakEnvelope = Callable[[Message], Awaitable[None]]
"""Store a record that no mapping can read."""


def unique(what: str) -> str:
    """A name that no other test uses."""
    return f"{what}-{new_id()}"


def an_interest(topic: str, **changes: Any) -> Interest:
    """Of a group of its own, unless `changes` say otherwise."""
    return Interest(**{"group": unique("group"), "topics": (topic,), "types": (), **changes})


def a_message(
    topic: str, key: str | None = "k", number: int = 0, type: str = "suite.counted"
) -> Message:
    """Carries its number as its body."""
    return Message(
        id=new_id(), type=type, source="/suite", topic=topic, key=key, payload=b"%d" % number
    )


def counted(topic: str, key: str | None = "k", *, first: int = 0, count: int) -> list[Message]:
    """So many messages of one key, numbered in order."""
    return [a_message(topic, key, number) for number in range(first, first + count)]


def interleaved(topic: str, keys: int, count: int) -> list[Message]:
    """`count` messages of each of so many keys, taking turns; numbered per key."""
    return [a_message(topic, f"k{key}", number) for number in range(count) for key in range(keys)]


def ids(what: Iterable[Delivery | Message]) -> list[str]:
    """Message ids in order."""
    return [each.id if isinstance(each, Message) else each.message.id for each in what]


def of_key(what: Iterable[Delivery], key: str) -> list[int]:
    """The numbers of a key, in order."""
    return [int(each.message.payload) for each in what if each.message.key == key]


def firsts(numbers: Iterable[int]) -> list[int]:
    """Each number where it came first: what remains when repeats are dropped."""
    return list(dict.fromkeys(numbers))


def needs(transport: Transport, capability: str) -> Capabilities:
    """Skip the test where the transport does not claim the capability."""
    claimed = transport.capabilities
    if not getattr(claimed, capability):
        pytest.skip(f"capability {capability}")
    return claimed


@asynccontextmanager
async def entered(connect: Connect, *interests: Interest) -> AsyncIterator[Transport]:
    """A transport that works, its topology made, and the groups known to it."""
    async with connect() as transport:
        plan = getattr(transport, "plan", None)
        if plan is not None:
            await transport.apply(await plan(interests))  # type: ignore[attr-defined]  # optional
        await transport.examine(interests)
        yield transport


OnLostHere = Callable[["Member", Sequence[Delivery]], Awaitable[None]]


class Member:
    """One subscription, read with a deadline."""

    def __init__(self, on_lost: OnLostHere | None) -> None:
        self.told: list[tuple[Sequence[Delivery], float]] = []
        self._then = on_lost
        self._subscription: Subscription | None = None
        self._batches: AsyncIterator[Sequence[Delivery]] | None = None

    def starts(self, subscription: Subscription) -> None:
        """Joined."""
        self._subscription = subscription
        self._batches = aiter(subscription)

    @property
    def subscription(self) -> Subscription:
        """What `subscribe` gave."""
        assert self._subscription is not None, "told of a loss before it joined"
        return self._subscription

    @property
    def batches(self) -> AsyncIterator[Sequence[Delivery]]:
        """The one iterator of this member; it ends when the member has left."""
        assert self._batches is not None
        return self._batches

    async def on_lost(self, deliveries: Sequence[Delivery], deadline: float) -> None:
        """For the adapter."""
        self.told.append((deliveries, deadline))
        if self._then is not None:
            await self._then(self, deliveries)

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """`Subscription.ack`."""
        self.subscription.ack(deliveries)

    async def batch(self) -> Sequence[Delivery]:
        """The next batch."""
        async with asyncio.timeout(WITHIN):
            batch = await anext(self.batches)
        assert batch, "an empty batch"
        return batch

    async def receive(self, count: int, *, ack: bool = False) -> list[Delivery]:
        """Deliveries, `count` or more; acknowledged batch by batch if asked for."""
        got: list[Delivery] = []
        while len(got) < count:
            batch = await self.batch()
            got += batch
            if ack:
                self.ack(batch)
        return got

    async def receive_until(self, last: Sequence[Message]) -> list[Delivery]:
        """Acknowledge and collect until each of `last` has come."""
        got: list[Delivery] = []
        missing = set(ids(last))
        while missing:
            batch = await self.batch()
            self.ack(batch)
            got += batch
            missing.difference_update(ids(batch))
        return got


@asynccontextmanager
async def joined(
    transport: Transport, interest: Interest, on_lost: OnLostHere | None = None
) -> AsyncIterator[Member]:
    """A member, until the block ends."""
    member = Member(on_lost)
    async with transport.subscribe(interest, on_lost=member.on_lost) as subscription:
        member.starts(subscription)
        yield member


def tasks() -> set[str]:
    """What runs now, by name."""
    return {task.get_name() for task in asyncio.all_tasks()}
