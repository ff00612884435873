"""`Volatile`: a transport that is not durable says when every group is done with a message."""
# ruff: noqa: D102, S101 - a suite: names are sentences, it asserts

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from eventbus.message import Message
from eventbus.testing.conformance.transport.member import (
    Connect,
    an_interest,
    counted,
    entered,
    ids,
    joined,
    unique,
)
from eventbus.transport import Interest, Transport, Volatile


class HandledCases:
    """Of `TransportSuite`."""

    pytestmark: pytest.MarkDecorator = pytest.mark.asyncio

    async def test_a_message_is_handled_when_every_group_has_acknowledged_it(
        self, connect: Connect
    ) -> None:
        topic = unique("topic")
        one, two = an_interest(topic), an_interest(topic)
        async with listening(connect, one, two) as (transport, told):
            await transport.publish(messages := counted(topic, count=10))
            async with joined(transport, one) as first, joined(transport, two) as second:
                first.ack(await first.receive(10))
                await first.subscription.flush()
                assert told == []
                held = await second.receive(10)
                second.ack(held[:4])
                second.ack(held[6:])
                await second.subscription.flush()
                assert told[:4] == ids(messages[:4])
                assert not {messages[4].id, messages[5].id} & set(told)
                second.ack(held[4:6])
                await second.subscription.flush()
                assert told == ids(messages)

    async def test_each_is_told_once_though_it_came_twice(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"))
        async with listening(connect, interest) as (transport, told):
            await transport.publish(messages := counted(topic, count=12))
            async with joined(transport, interest) as member:
                held = await member.receive(12)
                member.ack([*held[:4], *held[8:]])
            async with joined(transport, interest) as member:
                await member.receive_until(messages[4:8])
            async with joined(transport, interest) as member:
                await transport.publish(more := counted(topic, first=12, count=3))
                await member.receive_until(more)
            assert told == ids([*messages, *more])

    async def test_a_group_whose_members_have_left_still_counts(self, connect: Connect) -> None:
        topic = unique("topic")
        stays, left = an_interest(topic), an_interest(topic)
        async with listening(connect, stays, left) as (transport, told):
            async with joined(transport, left):
                pass
            await transport.publish(messages := counted(topic, count=3))
            async with joined(transport, stays) as member:
                member.ack(await member.receive(3))
            assert told == []
            async with joined(transport, left) as member:
                member.ack(await member.receive(3))
            assert told == ids(messages)

    async def test_what_no_group_knows_of_is_handled_when_published(self, connect: Connect) -> None:
        async with listening(connect) as (transport, told):
            await transport.publish(messages := counted(unique("topic"), count=3))
            assert told == ids(messages)

    async def test_several_buses_are_told(self, connect: Connect) -> None:
        interest = an_interest(topic := unique("topic"))
        async with (
            listening(connect, interest) as (transport, told),
            listening(connect) as (_, told_too),
        ):
            await transport.publish(messages := counted(topic, count=3))
            async with joined(transport, interest) as member:
                member.ack(await member.receive(3))
            assert told == told_too == ids(messages)


@asynccontextmanager
async def listening(
    connect: Connect, *interests: Interest
) -> AsyncIterator[tuple[Transport, list[str]]]:
    """A transport, and the ids it told of; skips where publish() returned for what is durable."""
    told: list[str] = []

    def tell(messages: Sequence[Message]) -> None:
        told.extend(ids(messages))

    async with entered(connect, *interests) as transport:
        if transport.capabilities.durable:
            pytest.skip("capability durable")
        assert isinstance(transport, Volatile)
        transport.on_handled(tell)
        yield transport, told
