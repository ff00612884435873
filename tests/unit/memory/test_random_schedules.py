"""Whatever members do, in whatever order: nothing is lost, keys keep their order, told is done."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Literal

import pytest

from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.message import Message
from eventbus.testing.conformance.transport.member import (
    Member,
    a_message,
    an_interest,
    entered,
    ids,
)
from eventbus.transport import Delivery, Interest

KEYS = [f"k{number}" for number in range(6)]
STEPS = 150


class Guest:
    """A member that may go at any moment, gracefully or not."""

    def __init__(self, world: "World", interest: Interest) -> None:
        self.held: list[Delivery] = []
        self.mine: set[str] = set()  # held, or given back: nobody else may start these
        self._world = world
        self.interest = interest
        self.transport = MemoryTransport(world.broker)
        self.member = Member(self._on_lost)
        self._stack = AsyncExitStack()

    async def come(self) -> None:
        await self._stack.enter_async_context(self.transport)
        subscription = self.transport.subscribe(self.interest, on_lost=self.member.on_lost)
        self.member.starts(await self._stack.enter_async_context(subscription))

    async def go(self) -> None:
        await self._stack.aclose()

    async def _on_lost(self, member: Member, lost: Sequence[Delivery]) -> None:
        finished = self._world.dice.sample(lost, self._world.dice.randint(0, len(lost)))
        self.held = [each for each in self.held if each not in lost]
        self.mine.difference_update(ids(lost))
        if not self._world.channels:  # what a queue lost can not be acknowledged any more
            self._world.ack(self, finished)

    async def take(self) -> None:
        """One batch, if there is one."""
        asking = asyncio.ensure_future(anext(self.member.batches))
        for _ in range(3):
            await self._world.broker.step()
            await self.member.subscription.flush()
        if asking.done():
            batch = asking.result()
            self.held += batch
            for each in batch:
                self._world.start(self, each.message)
        else:
            asking.cancel()
            await asyncio.wait([asking])


class World:
    """Two groups on one topic, and what must be true of them."""

    def __init__(self, style: Literal["log", "queue"], stepwise: bool, seed: int) -> None:
        self.dice = random.Random(seed)
        self.broker = MemoryBroker(style=style, stepwise=stepwise, seed=seed, retain=20)
        self.channels = style == "queue"
        self.interests = [an_interest("shop", max_in_flight=8) for _ in range(2)]
        self.guests: list[Guest] = []
        self.published: list[Message] = []
        self.overtaken: list[str] = []
        self.acked: dict[str, set[str]] = {each.group: set() for each in self.interests}
        self.told: list[str] = []
        self.told_early: list[str] = []

    def start(self, guest: Guest, message: Message) -> None:
        """All earlier ones of the key are done, or with this very member."""
        guest.mine.add(message.id)
        done = self.acked[guest.interest.group]
        for earlier in self.published[: int(message.payload)]:
            if earlier.key == message.key and earlier.id not in done | guest.mine:
                self.overtaken.append(earlier.id)

    def ack(self, guest: Guest, deliveries: Sequence[Delivery]) -> None:
        self.acked[guest.interest.group].update(ids(deliveries))
        guest.member.ack(deliveries)

    def tell(self, messages: Sequence[Message]) -> None:
        for acked in self.acked.values():
            self.told_early += [each.id for each in messages if each.id not in acked]
        self.told += ids(messages)

    async def publish(self, transport: MemoryTransport) -> None:
        batch = []
        for _ in range(self.dice.randint(1, 10)):
            batch.append(a_message("shop", self.dice.choice(KEYS), len(self.published)))
            self.published.append(batch[-1])
        await transport.publish(batch)

    async def step(self, transport: MemoryTransport) -> None:
        """Something happens."""
        what = self.dice.choices(
            ["publish", "come", "go", "die", "take", "ack", "nack", "lose"],
            [15, 8, 4, 2, 40, 35, 3, 3],
        )[0]
        if what == "publish":
            await self.publish(transport)
        elif what == "come" and len(self.guests) < 6:
            guest = Guest(self, self.dice.choice(self.interests))
            await guest.come()
            self.guests.append(guest)
        elif self.guests:
            await self.happens_to(self.dice.choice(self.guests), what)

    async def happens_to(self, guest: Guest, what: str) -> None:
        chosen = self.dice.sample(guest.held, self.dice.randint(0, len(guest.held)))
        rest = [each for each in guest.held if each not in chosen]
        if what in {"go", "die"}:
            self.guests.remove(guest)
            if what == "die":
                guest.transport.abandon()
            await guest.go()
        elif what == "take":
            await guest.take()
        elif what == "ack":
            guest.held = rest
            self.ack(guest, chosen)
        elif what == "nack":
            guest.held = rest
            guest.member.subscription.nack(chosen)
        elif what == "lose" and self.channels:
            self.broker.lose_channel(guest.interest.group)
            await guest.member.subscription.flush()  # its on_lost runs

    async def drain(self, interest: Interest) -> None:
        """A last member does the rest."""
        guest = Guest(self, interest)
        await guest.come()
        while self.broker.committed(interest.group) and await guest.member.subscription.backlog():
            await guest.take()
            self.ack(guest, guest.held)
            guest.held = []
        await guest.go()


async def live(world: World) -> None:
    transport = MemoryTransport(world.broker)
    async with entered(lambda: transport, *world.interests):
        transport.on_handled(world.tell)
        for _ in range(STEPS):
            await world.step(transport)
        for guest in world.guests:
            await guest.go()
        for interest in world.interests:
            await world.drain(interest)


@pytest.mark.parametrize("style", ["log", "queue"])
@pytest.mark.parametrize("stepwise", [False, True], ids=["plain", "stepwise"])
def test_no_schedule_breaks_a_promise(style: Literal["log", "queue"], stepwise: bool) -> None:
    for seed in range(60):
        world = World(style, stepwise, seed)
        asyncio.run(live(world))
        everything = ids(world.published)
        for acked in world.acked.values():
            assert acked == set(everything), f"lost, seed {seed}"
        assert not world.told_early, f"told before it was done, seed {seed}"
        assert sorted(world.told) == sorted(everything), f"told wrongly, seed {seed}"
        assert not world.overtaken, f"disorder, seed {seed}"
