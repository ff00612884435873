"""How often the socket is written to, and what the supervisor notices by itself."""

import asyncio
from collections.abc import Sequence

import pytest
from aiormq.abc import AbstractConnection as Wire

from eventbus.testing.conformance.transport.member import (
    a_message,
    an_interest,
    counted,
    joined,
    of_key,
    unique,
)
from eventbus_rabbit import publisher, subscription, writing
from eventbus_rabbit.connection import Link
from eventbus_rabbit.flight import Item
from tests.faults.proxy import FaultProxy, Swallow
from tests.integration.rabbit.conftest import Make
from tests.integration.rabbit.waiting import until, until_well


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many messages went with each write of the publisher."""
    sizes: list[int] = []

    async def write_batch(wire: Wire, batch: Sequence[Item]) -> None:
        sizes.append(len(batch))
        await writing.write_batch(wire, batch)

    monkeypatch.setattr(publisher, "write_batch", write_batch)
    return sizes


async def test_a_batch_is_one_write(make: Make, writes: list[int]) -> None:
    interest = an_interest(topic := unique("topic"))
    async with make() as transport:
        await transport.examine([interest])
        await transport.publish(counted(topic, count=200))
        assert writes == [200]


async def test_calls_of_one_moment_share_a_write(make: Make, writes: list[int]) -> None:
    interest = an_interest(topic := unique("topic"))
    async with make() as transport:
        await transport.examine([interest])
        messages = [a_message(topic, f"k{number}", number) for number in range(100)]
        await asyncio.gather(*(transport.publish([message]) for message in messages))
        assert sum(writes) == 100
        assert len(writes) <= 2


async def test_acks_of_a_batch_are_one_frame(
    make: Make, proxy: FaultProxy, proxied_url: str
) -> None:
    interest = an_interest(topic := unique("topic"))
    acks: list[bytes] = []

    def an_ack(frame: bytes) -> bool:
        if frame[:1] == b"\x01" and frame[7:11] == b"\x00\x3c\x00\x50":  # Basic.Ack
            acks.append(frame)
        return False

    async with make(proxied_url) as transport:
        await transport.examine([interest])
        await transport.publish(counted(topic, count=150))
        async with joined(transport, interest) as member:
            held = await member.receive(150)
            proxy.rule(toward="server", when=an_ack, do=Swallow())
            member.ack(held)
            await member.subscription.flush()
            assert len(acks) == 1


async def test_a_consumer_that_is_gone_without_a_word_is_made_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "SILENCE_SECONDS", 0.2)
    interest = an_interest(topic := unique("topic"))
    async with make() as transport:
        await transport.examine([interest])
        async with joined(transport, interest) as member:
            await transport.publish([first := a_message(topic, number=0)])
            [held] = await member.receive(1)
            assert held.message.id == first.id
            member.ack([held])
            channel = held.intake.channel  # type: ignore[attr-defined]  # the adapter's own
            for tag in list(channel.consumers):
                await channel.basic_cancel(tag)
            await transport.publish([a_message(topic, number=1)])
            assert of_key(await member.receive(1), "k") == [1]
            await until_well(transport)


async def test_a_consumer_that_is_quick_is_not_taken_for_one_that_is_gone(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds nothing whenever somebody looks, and messages are ready all the time."""
    monkeypatch.setattr(subscription, "SILENCE_SECONDS", 0.02)
    interest = an_interest(topic := unique("topic"), max_in_flight=1)
    async with make() as transport:
        await transport.examine([interest])
        await transport.publish(counted(topic, count=400))
        async with joined(transport, interest) as member:
            got = await member.receive(400, ack=True)
    assert of_key(got, "k") == list(range(400))
    assert {each.intake.generation for each in got} == {1}  # type: ignore[attr-defined]  # the adapter's own


async def test_where_the_client_reads_by_itself_its_callback_brings_the_same(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Link, "frames_of", lambda link, wire: None)
    interest = an_interest(topic := unique("topic"))
    async with make() as transport:
        await transport.examine([interest])
        await transport.publish(counted(topic, count=20))
        async with joined(transport, interest) as member:
            got = await member.receive(20, ack=True)
    assert of_key(got, "k") == list(range(20))


async def test_a_channel_of_the_publisher_that_closes_is_made_again(make: Make) -> None:
    interest = an_interest(topic := unique("topic"))
    async with make() as transport:
        await transport.examine([interest])
        await transport.publish([a_message(topic)])
        sender = transport._publisher
        assert sender is not None
        [lane, *_] = sender._lanes
        await lane.channel.basic_ack(999)  # the broker closes it
        await until(lambda: lane.channel.is_closed)
        await transport.publish([a_message(topic, number=1)])
        await until_well(transport)
