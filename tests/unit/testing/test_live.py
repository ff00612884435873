"""Tests that share a broker see nothing of each other."""

from collections.abc import Sequence

import pytest

from eventbus import Event, EventBus, subscribe
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.message import Message
from eventbus.testing.conformance.transport.member import (
    an_interest,
    counted,
    ids,
    joined,
)
from eventbus.testing.live import PrefixedTransport, kafka_for_tests


async def received(broker: MemoryBroker, published: str, read: str) -> list[Message]:
    """What a member of one test gets of what another one published; empty: nothing waits for it."""
    one = PrefixedTransport(MemoryTransport(broker), published)
    other = PrefixedTransport(MemoryTransport(broker), read)
    interest = an_interest("shop", group="billing")
    async with one, other, joined(other, interest) as member:
        await one.publish(counted("shop", count=3))
        if not await member.subscription.backlog():
            return []
        return [each.message for each in await member.receive(3, ack=True)]


async def test_a_member_gets_what_its_own_test_published_under_the_plain_topic() -> None:
    got = await received(MemoryBroker(), "t-1.", "t-1.")
    assert [(each.topic, each.payload) for each in got] == [
        ("shop", b"0"),
        ("shop", b"1"),
        ("shop", b"2"),
    ]


async def test_a_member_gets_nothing_of_another_test() -> None:
    assert await received(MemoryBroker(), "t-1.", "t-2.") == []


async def test_a_prefix_that_is_forgotten_lets_tests_see_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def publish(self: PrefixedTransport, messages: Sequence[Message]) -> None:
        await self.inner.publish(messages)

    monkeypatch.setattr(PrefixedTransport, "publish", publish)
    monkeypatch.setattr(PrefixedTransport, "_there", lambda self, interest: interest)
    assert len(await received(MemoryBroker(), "t-1.", "t-2.")) == 3


async def test_verdicts_reach_the_broker() -> None:
    transport = PrefixedTransport(MemoryTransport(MemoryBroker()), "t-1.")
    interest = an_interest("shop", group="billing")
    async with transport, joined(transport, interest) as member:
        await transport.publish(counted("shop", count=2))
        held = await member.receive(2)
        member.ack(held)
        await member.subscription.flush()
        assert await member.subscription.backlog() == 0
        assert len(set(ids(held))) == 2


async def test_a_bus_does_not_notice_its_prefix() -> None:
    class Placed(Event, type="shop.placed", key="order"):
        order: str

    seen: list[str] = []

    @subscribe(Placed, group="billing")
    async def bill(event: Placed) -> None:
        seen.append(event.order)

    transport = PrefixedTransport(MemoryTransport(MemoryBroker()), "t-1.")
    async with EventBus(transport, handlers=[bill], service="shop") as bus:
        await bus.publish(Placed(order="A-1"))
        await bus.until_idle()
    assert seen == ["A-1"]


def test_options_of_the_url_stay() -> None:
    assert kafka_for_tests("kafka://h:1").startswith("kafka://h:1?provision=true&")
    assert kafka_for_tests("kafka://h:1?tls=true").startswith("kafka://h:1?tls=true&provision=true")
