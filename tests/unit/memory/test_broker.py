"""The memory broker as tests and simulations see it: facts, URLs, repeatable choices."""

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import pytest

from eventbus.errors import ConfigurationError, TransportError
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.memory.transport import open_transport
from eventbus.message import Message
from eventbus.testing.conformance.transport.member import (
    Member,
    a_message,
    an_interest,
    counted,
    entered,
    joined,
)


async def test_idle_says_that_nothing_waits_for_a_group_with_a_member() -> None:
    broker = MemoryBroker()
    mine = an_interest("shop")
    async with entered(lambda: MemoryTransport(broker), mine, an_interest("shop")) as transport:
        await transport.publish(counted("shop", count=2))
        assert broker.idle()  # nobody is there to do it
        async with joined(transport, mine) as member:
            assert not broker.idle()
            held = await member.receive(2)
            assert broker.unacked(mine.group) == 2
            member.ack(held[1:])
            assert not broker.idle()
            member.ack(held[:1])
            assert broker.idle()


async def test_examine_makes_a_group_known_only_if_entered() -> None:
    transport = MemoryTransport()
    mine = an_interest("shop")
    await transport.examine([mine])
    assert transport.broker.committed(mine.group) == {}
    async with transport:
        await transport.examine([mine])
        assert len(transport.broker.committed(mine.group)) == 4


def test_each_plain_url_has_a_broker_of_its_own() -> None:
    one, two = open_transport("memory://", ""), open_transport("memory://", "")
    assert one.broker is not two.broker


def test_a_named_url_is_shared() -> None:
    one = open_transport("memory://shared?style=queue", "")
    two = open_transport("memory://shared", "")
    assert one.broker is two.broker
    assert two.capabilities.filters_types
    with pytest.raises(ConfigurationError, match="EB1006"):
        open_transport("memory://shared?style=log", "")


def test_options_of_a_url_are_read() -> None:
    broker = open_transport("memory://?style=log&partitions=8&retain=5&seed=3", "").broker
    assert broker.partitions == 8


@pytest.mark.parametrize(
    "url",
    [
        "memory://?style=stack",
        "memory://?partitions=many",
        "memory://?partitions=0",
        "memory://?colour=blue",
        "memory://name/deeper",
    ],
)
def test_what_a_url_cannot_mean_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="EB1006"):
        open_transport(url, "")


async def test_a_transport_cannot_be_entered_twice_at_once() -> None:
    async with MemoryTransport() as transport:
        with pytest.raises(TransportError, match="EB2105"):
            await transport.__aenter__()


async def test_a_subscription_joins_once() -> None:
    async with MemoryTransport() as transport:
        subscription = transport.subscribe(an_interest("shop"), on_lost=Member(None).on_lost)
        async with subscription:
            pass
        with pytest.raises(TransportError, match="EB2105"):
            await subscription.__aenter__()


async def test_injecting_under_another_topic_is_refused() -> None:
    with pytest.raises(ValueError, match="topic"):
        MemoryBroker().inject("shop", a_message("bank"))


@pytest.mark.parametrize("style", ["log", "queue"])
async def test_stepwise_every_call_lets_others_run(style: Literal["log", "queue"]) -> None:
    transport = MemoryTransport(MemoryBroker(style=style, stepwise=True))
    mine = an_interest("shop")

    async def call(name: str, awaitable: Any) -> Any:
        turns = 0

        async def other() -> None:
            nonlocal turns
            turns += 1

        beside = asyncio.create_task(other(), name="beside")
        result = await awaitable
        assert turns == 1, f"{name} did not yield"
        await beside
        return result

    await call("enter", transport.__aenter__())
    await call("examine", transport.examine([mine]))
    subscription = transport.subscribe(mine, on_lost=Member(None).on_lost)
    await call("join", subscription.__aenter__())
    await call("publish", transport.publish([]))
    await call("publish", transport.publish([a_message("shop")]))
    await call("take", subscription.__anext__())
    await call("flush", subscription.flush())
    await call("backlog", subscription.backlog())
    await call("leave", subscription.leave())
    await call("close", transport.__aexit__(None, None, None))


async def test_stepwise_a_message_can_be_stored_though_its_publisher_never_hears_of_it() -> None:
    transport = MemoryTransport(MemoryBroker(stepwise=True))
    async with transport:
        task = asyncio.create_task(transport.publish([a_message("shop")]), name="publisher")
        while not transport.broker.published("shop"):
            await transport.broker.step()
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_otherwise_publishing_lets_others_run_every_256_messages() -> None:
    transport = MemoryTransport()
    turns: list[int] = []
    published = 0
    async with transport:
        loop = asyncio.get_running_loop()

        def note() -> None:
            turns.append(published)
            loop.call_soon(note)

        loop.call_soon(note)
        for message in counted("shop", count=2560):
            published += 1
            await transport.publish([message])
        assert turns == list(range(256, 2561, 256))


def history(run: Callable[[MemoryBroker], Any], seed: int) -> list[str]:
    """Partitions of the messages in the order in which a member got them."""
    broker = MemoryBroker(seed=seed)
    asyncio.run(run(broker))
    return [message.source for message in broker.published("seen")]


async def unkeyed_to_seen(broker: MemoryBroker) -> None:
    mine = an_interest("shop")
    async with (
        entered(lambda: MemoryTransport(broker), mine) as transport,
        joined(transport, mine) as member,
    ):
        await transport.publish([a_message("shop", None, number) for number in range(500)])
        for each in await member.receive(500, ack=True):
            origin = f"{each.partition}/{each.offset}"
            seen = Message(id="x", type="a.b", source=origin, topic="seen", key="k", payload=b"")
            await transport.publish([seen])


def test_the_same_seed_makes_the_same_history() -> None:
    assert history(unkeyed_to_seen, 1) == history(unkeyed_to_seen, 1)
    assert history(unkeyed_to_seen, 1) != history(unkeyed_to_seen, 2)
