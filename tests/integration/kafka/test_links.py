"""The link to the broker goes dark: row 12 of the matrix."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from eventbus.errors import PublishError
from eventbus.message import Message
from eventbus.testing.conformance.transport.member import a_message, an_interest, joined, of_key
from eventbus.testing.services import private_kafka
from eventbus_kafka import KafkaTransport
from eventbus_kafka.clients import producer, stop_producer
from tests.faults.proxy import FaultProxy, Swallow, every, kafka
from tests.integration.kafka.conftest import on
from tests.integration.kafka.waiting import until

FOREVER = 1 << 40  # frames


@asynccontextmanager
async def a_link() -> AsyncIterator[tuple[str, FaultProxy]]:
    """The URL of a broker that is reached through a proxy only."""
    async with private_kafka(start=False) as server:
        async with FaultProxy(server.upstream(1), framing=kafka) as link:
            server.proxy(link.port, 1)
            await server.start()
            yield server.proxied_url, link


async def test_a_producer_ends_though_what_it_sent_is_never_answered() -> None:
    """Its sender waits for the answer, and then for metadata of a client that is closed."""
    async with a_link() as (url, link), on(url, partitions=1) as transport:
        await transport.apply(await transport.plan([an_interest("shop")]))
        abandoned = producer(transport.config)
        await abandoned.start()
        await abandoned.send_and_wait("shop", b"answered", partition=0)
        silent = link.rule(toward="client", when=every(), do=Swallow(), times=FOREVER)
        await abandoned.send("shop", b"not answered", partition=0)
        await until(lambda: silent.left < FOREVER)
        assert not await stop_producer(abandoned, 0.5)
        sender = abandoned._sender.sender_task
        assert sender is not None
        assert sender.done()
        link.heal()


async def test_publishing_and_consuming_go_on_after_a_black_hole() -> None:
    """The worst way: the broker hears, and is not heard."""
    interest = an_interest("shop")
    async with a_link() as (url, link), on(url, publish_seconds=1, partitions=1) as transport:
        await transport.apply(await transport.plan([interest]))
        async with joined(transport, interest) as member:
            await transport.publish([a_message("shop", "k", number=0)])
            got = list(await member.receive(1, ack=True))
            link.rule(toward="client", when=every(), do=Swallow(), times=FOREVER)
            with pytest.raises(PublishError):
                await transport.publish([a_message("shop", "k", number=1)])
            await until(lambda: transport.trouble is not None, 60)
            link.heal()
            link.cut_all()
            await _published(transport, last := a_message("shop", "k", number=2))
            got += await member.receive_until([last])
            assert of_key(got, "k")[-1] == 2


async def _published(transport: KafkaTransport, message: Message) -> None:
    async with asyncio.timeout(120):
        while True:
            try:
                await transport.publish([message])
            except PublishError:
                continue
            return
