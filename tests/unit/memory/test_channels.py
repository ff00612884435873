"""Style "queue": lost channels, delivery limit, consumer timeout, prefetch."""

import asyncio
import math
from collections.abc import Sequence

import pytest

from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.testing.conformance.transport.member import (
    WITHIN,
    Member,
    a_message,
    an_interest,
    counted,
    entered,
    ids,
    joined,
    of_key,
)
from eventbus.transport import Delivery


async def test_a_lost_channel_returns_everything_in_order_and_tells() -> None:
    broker = MemoryBroker(style="queue")
    mine = an_interest("shop", max_in_flight=10)
    told = asyncio.Event()

    async def note(member: Member, lost: Sequence[Delivery]) -> None:
        told.set()

    async with (
        asyncio.timeout(WITHIN),
        entered(lambda: MemoryTransport(broker), mine) as transport,
        joined(transport, mine, note) as member,
    ):
        await transport.publish(counted("shop", count=12))
        held = await member.receive(10)
        member.ack([held[0], held[4]])
        broker.lose_channel(mine.group)
        await told.wait()
        assert member.told == [([*held[1:4], *held[5:]], math.inf)]
        assert all(each.lost for each in member.told[0][0])
        member.ack(held)
        assert broker.late(mine.group) == 10
        got = await member.receive(10)
        assert of_key(got, "k") == [1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
        assert [each.redelivered for each in got] == [*[True] * 8, *[False] * 2]


async def test_the_next_consumer_becomes_active_when_the_channel_is_lost() -> None:
    broker = MemoryBroker(style="queue")
    mine = an_interest("shop")
    async with (
        entered(lambda: MemoryTransport(broker), mine) as transport,
        joined(transport, mine) as one,
        joined(transport, mine) as two,
    ):
        await transport.publish(counted("shop", count=3))
        await one.receive(3)
        broker.lose_channel(mine.group)
        assert of_key(await two.receive(3), "k") == [0, 1, 2]


async def test_beyond_the_delivery_limit_a_message_crashes_and_counts_as_handled() -> None:
    broker = MemoryBroker(style="queue", delivery_limit=3)
    mine = an_interest("shop")
    handled: list[str] = []
    async with (
        entered(lambda: MemoryTransport(broker), mine) as transport,
        joined(transport, mine) as member,
    ):
        transport.on_handled(lambda messages: handled.extend(ids(messages)))  # type: ignore[attr-defined]  # Volatile
        await transport.publish([message := a_message("shop")])
        for _ in range(4):
            assert ids(await member.receive(1)) == [message.id]
            broker.lose_channel(mine.group)
        assert ids(broker.crashed(mine.group)) == handled == [message.id]
        assert broker.idle()


async def test_a_delivery_held_for_too_long_costs_the_channel() -> None:
    broker = MemoryBroker(style="queue", consumer_timeout=0.02)
    mine = an_interest("shop", max_in_flight=2)
    async with (
        asyncio.timeout(WITHIN),
        entered(lambda: MemoryTransport(broker), mine) as transport,
        joined(transport, mine) as member,
    ):
        await transport.publish(counted("shop", count=2))
        held = await member.receive(2)
        member.ack(held[1:])
        again = await member.receive(1)
        assert held[0].lost
        assert of_key(again, "k") == [0]


async def test_the_age_of_a_delivery_goes_by_the_injected_clock() -> None:
    now, asked, looked = 0.0, 0, asyncio.Event()

    def clock() -> float:
        nonlocal asked
        asked += 1
        if asked > 2:  # on delivery, and then by the timer
            looked.set()
        return now

    broker = MemoryBroker(style="queue", consumer_timeout=0.02, now=clock)
    mine = an_interest("shop", max_in_flight=1)
    async with (
        asyncio.timeout(WITHIN),
        entered(lambda: MemoryTransport(broker), mine) as transport,
        joined(transport, mine) as member,
    ):
        await transport.publish(counted("shop", count=1))
        held = await member.receive(1)
        await looked.wait()
        assert not held[0].lost
        now = 1.0
        assert of_key(await member.receive(1), "k") == [0]
        assert held[0].lost


async def test_prefetch_bounds_what_a_member_holds() -> None:
    broker = MemoryBroker(style="queue", prefetch=3)
    mine = an_interest("shop")
    async with (
        entered(lambda: MemoryTransport(broker), mine) as transport,
        joined(transport, mine) as member,
    ):
        await transport.publish(counted("shop", count=10))
        got = await member.receive(1)
        assert len(got) == broker.unacked(mine.group) == 3
        assert await member.subscription.backlog() == 7


async def test_without_order_what_is_given_back_comes_at_once() -> None:
    broker = MemoryBroker(style="queue")
    mine = an_interest("shop", order="none")
    async with (
        entered(lambda: MemoryTransport(broker), mine) as transport,
        joined(transport, mine) as member,
    ):
        await transport.publish(counted("shop", count=4))
        member.subscription.nack(list(reversed(await member.receive(4))))
        got = await member.receive(4)
        assert of_key(got, "k") == [0, 1, 2, 3]
        assert all(each.redelivered for each in got)


async def test_a_lost_channel_of_style_log_is_refused() -> None:
    with pytest.raises(ValueError, match="channels"):
        MemoryBroker().lose_channel("group")


async def test_a_new_version_of_a_service_widens_what_its_queue_gets() -> None:
    broker = MemoryBroker(style="queue")
    old = an_interest("shop", types=("shop.placed",))
    new = an_interest("shop", group=old.group, types=("shop.billed",))
    async with (
        entered(lambda: MemoryTransport(broker), old) as transport,
        joined(transport, old) as member,
    ):
        await transport.publish([a_message("shop", type="shop.billed")])
        await transport.examine([new])
        types = ("shop.placed", "shop.billed", "shop.sent")
        await transport.publish([a_message("shop", type=name) for name in types])
        got = await member.receive(2)
        assert [each.message.type for each in got] == ["shop.placed", "shop.billed"]


async def test_bytes_bound_what_a_consumer_holds() -> None:
    broker = MemoryBroker(style="queue")
    mine = an_interest("shop")
    async with (
        entered(lambda: MemoryTransport(broker, max_held=10), mine) as transport,
        joined(transport, mine) as member,
    ):
        await transport.publish(counted("shop", first=100, count=20))  # of three bytes each
        got = await member.receive(1)
        assert len(got) == 3
        member.ack(got)
        assert len(await member.receive(1)) == 3
