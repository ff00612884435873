"""What the memory broker keeps, refuses, and tells of."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from eventbus.errors import Confirmed, NotSent, PublishError
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.message import Message
from eventbus.testing.conformance.transport.member import (
    a_message,
    an_interest,
    counted,
    entered,
    ids,
    interleaved,
    joined,
    of_key,
)

STYLES = pytest.mark.parametrize("style", ["log", "queue"])


@STYLES
async def test_what_is_handled_is_kept_up_to_the_retention(style: str) -> None:
    broker = MemoryBroker(style=style, retain=80, partitions=1)  # type: ignore[arg-type]  # a str
    async with (
        entered(lambda: MemoryTransport(broker), mine := an_interest("shop")) as transport,
        joined(transport, mine) as member,
    ):
        for first in range(0, 5000, 100):
            await transport.publish(counted("shop", first=first, count=100))
            await member.receive(100, ack=True)
            assert len(broker.published("shop")) <= 80 + 10 + 100
        assert [int(each.payload) for each in broker.published("shop")][-1] == 4999
        assert 80 <= len(broker.published("shop")) <= 90


@STYLES
async def test_what_is_not_handled_is_never_dropped(style: str) -> None:
    broker = MemoryBroker(style=style, retain=10)  # type: ignore[arg-type]  # a str
    one, two = an_interest("shop"), an_interest("shop")
    async with entered(lambda: MemoryTransport(broker), one, two) as transport:
        await transport.publish(messages := counted("shop", count=500))
        async with joined(transport, one) as member:
            await member.receive(500, ack=True)
        assert ids(broker.published("shop")) == ids(messages)
        async with joined(transport, two) as member:
            assert of_key(await member.receive(500, ack=True), "k") == list(range(500))
        assert len(broker.published("shop")) < 20


@STYLES
async def test_a_full_broker_refuses_and_blames_no_message(style: str) -> None:
    broker = MemoryBroker(style=style, max_messages=5)  # type: ignore[arg-type]  # a str
    async with entered(lambda: MemoryTransport(broker), mine := an_interest("shop")) as transport:
        messages = counted("shop", count=8)
        with pytest.raises(PublishError, match="EB2103") as refused:
            await transport.publish(messages)
        assert refused.value.results == [*[Confirmed()] * 5, *[NotSent()] * 3]
        assert transport.trouble is not None
        async with joined(transport, mine) as member:
            await member.receive(5, ack=True)
            assert transport.trouble is None
            await transport.publish(messages[5:])
            assert of_key(await member.receive(3), "k") == [5, 6, 7]


async def test_bytes_are_bounded_too() -> None:
    broker = MemoryBroker(max_bytes=1000)
    async with entered(lambda: MemoryTransport(broker), an_interest("shop")) as transport:
        large = [replace(each, payload=bytes(400)) for each in counted("shop", count=3)]
        with pytest.raises(PublishError, match="EB2103") as refused:
            await transport.publish(large)
        assert refused.value.results == [Confirmed(), Confirmed(), NotSent()]


async def test_what_is_handled_makes_room_whatever_the_retention_says() -> None:
    broker = MemoryBroker(max_messages=100)
    async with entered(lambda: MemoryTransport(broker)) as transport:
        for first in range(0, 1000, 50):
            await transport.publish(counted("shop", first=first, count=50))
        assert len(broker.published("shop")) <= 100


async def test_near_the_bound_consumers_run_after_each_message() -> None:
    broker = MemoryBroker(max_messages=200, retain=1)
    async with (
        entered(lambda: MemoryTransport(broker), mine := an_interest("shop")) as transport,
        asyncio.TaskGroup() as readers,
        joined(transport, mine) as member,
    ):
        readers.create_task(member.receive(2000, ack=True), name="member:reader")
        for message in counted("shop", count=2000):
            await transport.publish([message])
        async with asyncio.timeout(30):
            while not broker.idle():
                await member.subscription.flush()


async def test_published_is_in_the_order_of_publishing_across_partitions() -> None:
    broker = MemoryBroker(retain=30)
    async with entered(lambda: MemoryTransport(broker), an_interest("shop")) as transport:
        await transport.publish(messages := interleaved("shop", keys=9, count=30))
        assert list(broker.published("shop")) == messages


async def test_a_listener_that_fails_disturbs_neither_ack_nor_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = MemoryBroker()
    told: list[str] = []
    async with (
        entered(lambda: MemoryTransport(broker)) as broken,
        entered(lambda: MemoryTransport(broker), mine := an_interest("shop")) as transport,
        joined(transport, mine) as member,
    ):

        def fail(_: object) -> None:
            raise RuntimeError("the storage is gone")

        broken.on_handled(fail)  # type: ignore[attr-defined]  # Volatile, which is optional
        transport.on_handled(lambda messages: told.extend(ids(messages)))  # type: ignore[attr-defined]  # as above
        await transport.publish([message := a_message("shop")])
        await member.receive(1, ack=True)
        assert told == [message.id]
        assert "the storage is gone" in caplog.text


async def test_who_asks_twice_is_told_once() -> None:
    broker = MemoryBroker()
    calls: list[int] = []

    def tell(messages: Sequence[Message]) -> None:
        calls.append(len(messages))

    async with entered(lambda: MemoryTransport(broker)) as transport:
        for _ in range(2):
            transport.on_handled(tell)  # type: ignore[attr-defined]  # Volatile
        await transport.publish(counted("shop", count=3))
    assert calls == [3]


async def test_a_batch_of_acks_is_told_at_once() -> None:
    broker = MemoryBroker()
    calls: list[int] = []
    async with (
        entered(lambda: MemoryTransport(broker), mine := an_interest("shop")) as transport,
        joined(transport, mine) as member,
    ):
        transport.on_handled(lambda messages: calls.append(len(messages)))  # type: ignore[attr-defined]  # Volatile
        await transport.publish(interleaved("shop", keys=8, count=25))
        member.ack(await member.receive(200))
        assert calls == [200]


async def test_a_group_that_comes_later_reads_history_but_is_not_told_of_again() -> None:
    broker = MemoryBroker()
    told: list[str] = []
    async with entered(lambda: MemoryTransport(broker)) as transport:
        transport.on_handled(lambda messages: told.extend(ids(messages)))  # type: ignore[attr-defined]  # Volatile
        await transport.publish(messages := counted("shop", count=3))
        async with joined(transport, an_interest("shop")) as member:
            assert ids(await member.receive(3, ack=True)) == ids(messages)
        assert told == ids(messages)
