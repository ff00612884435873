"""Style "log": what a revoke waits for, and what counts after it."""

import asyncio
from collections.abc import Sequence

from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.testing.conformance.transport.member import (
    WITHIN,
    Member,
    a_message,
    an_interest,
    counted,
    entered,
    interleaved,
    joined,
    of_key,
)
from eventbus.transport import Delivery


class Revoke:
    """An `on_lost` that waits until the test lets it go."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.go = asyncio.Event()
        self.ended = asyncio.Event()

    async def __call__(self, member: Member, lost: Sequence[Delivery]) -> None:
        self.began.set()
        await self.go.wait()
        self.ended.set()


async def test_acks_count_until_on_lost_returns_and_not_afterwards() -> None:
    broker, revoke = MemoryBroker(), Revoke()
    mine = an_interest("shop")
    async with (
        asyncio.timeout(WITHIN),
        entered(lambda: MemoryTransport(broker), mine) as transport,
        joined(transport, mine, revoke) as one,
    ):
        await transport.publish(counted("shop", count=6))
        held = await one.receive(6)
        async with joined(transport, mine):
            await revoke.began.wait()
            assert all(each.lost for each in held)
            one.ack(held[:3])
            assert sum(broker.committed(mine.group).values()) == 3
            revoke.go.set()
            await revoke.ended.wait()
            while broker.unacked(mine.group):
                await one.subscription.flush()
            one.ack(held[3:])
            assert sum(broker.committed(mine.group).values()) == 3
            assert broker.late(mine.group) == 3


async def test_nobody_gets_anything_while_a_revoke_waits() -> None:
    broker, revoke = MemoryBroker(), Revoke()
    mine = an_interest("shop")
    async with (
        asyncio.timeout(WITHIN),
        entered(lambda: MemoryTransport(broker), mine) as transport,
        asyncio.TaskGroup() as readers,
        joined(transport, mine, revoke) as one,
        joined(transport, mine) as two,
    ):
        await transport.publish(interleaved("shop", keys=20, count=1))
        held = list(await one.batch())
        async with joined(transport, mine) as three:
            await revoke.began.wait()
            waiting = [readers.create_task(each.batch(), name="reader:x") for each in (two, three)]
            await transport.publish(interleaved("shop", keys=20, count=1))
            for _ in range(10):
                await one.subscription.flush()
            assert not any(task.done() for task in waiting)
            assert not broker.idle()
            one.ack(held)
            revoke.go.set()
            assert all(await asyncio.gather(*waiting))


async def test_a_revoke_keeps_its_deadline() -> None:
    broker, revoke = MemoryBroker(revoke_seconds=0.01), Revoke()
    mine = an_interest("shop")
    async with (
        asyncio.timeout(WITHIN),
        entered(lambda: MemoryTransport(broker), mine) as transport,
        entered(lambda: MemoryTransport(broker), mine) as other,
        joined(transport, mine, revoke) as one,
    ):
        await transport.publish(interleaved("shop", keys=20, count=1))
        held = await one.receive(20)
        async with joined(other, mine) as two:
            again = await two.receive(1)
            assert all(each.redelivered for each in again)
            assert one.told[0][1] <= asyncio.get_running_loop().time()
            one.ack(held)
            assert sum(broker.committed(mine.group).values()) == 0


async def test_redelivered_are_exactly_those_that_some_member_was_handed() -> None:
    broker = MemoryBroker(partitions=1)
    mine = an_interest("shop", max_in_flight=4)
    async with entered(lambda: MemoryTransport(broker), mine) as transport:
        await transport.publish(counted("shop", count=10))
        async with joined(transport, mine) as member:
            held = await member.receive(4)
            member.ack([held[0], held[2]])
        wide = an_interest("shop", group=mine.group)
        async with joined(transport, wide) as member:
            got = await member.receive(9)
        assert of_key(got, "k") == list(range(1, 10))
        assert [each.redelivered for each in got] == [*[True] * 3, *[False] * 6]


async def test_bytes_bound_what_a_member_holds() -> None:
    broker = MemoryBroker()
    mine = an_interest("shop")
    async with (
        entered(lambda: MemoryTransport(broker, max_held=10), mine) as transport,
        joined(transport, mine) as member,
    ):
        await transport.publish(counted("shop", first=100, count=20))  # of three bytes each
        got = await member.receive(1)
        assert len(got) == 4
        member.ack(got)
        assert len(await member.receive(1)) == 4


async def test_partitions_take_turns() -> None:
    broker = MemoryBroker()
    mine = an_interest("shop", max_in_flight=5)
    async with (
        entered(lambda: MemoryTransport(broker), mine) as transport,
        joined(transport, mine) as member,
    ):
        await transport.publish(interleaved("shop", keys=20, count=20))
        seen = {each.partition for each in await member.receive(20, ack=True)}
        assert len(seen) == 4


async def test_an_abandoned_transport_loses_the_verdicts_on_their_way() -> None:
    broker = MemoryBroker(stepwise=True)
    mine = an_interest("shop")
    dead = MemoryTransport(broker)
    async with entered(lambda: dead, mine), joined(dead, mine) as victim:
        await dead.publish([a_message("shop")])
        victim.ack(await victim.receive(1))
        dead.abandon()
    async with (
        entered(lambda: MemoryTransport(broker), mine) as transport,
        joined(transport, mine) as heir,
    ):
        assert [each.redelivered for each in await heir.receive(1)] == [True]
