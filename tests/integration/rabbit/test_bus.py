"""A bus on RabbitMQ: with SQLite, with PostgreSQL, without a storage."""

import asyncio
from collections.abc import AsyncIterator

import aio_pika
import pytest

from eventbus import Context, Event, EventBus, Group, RetryPolicy, subscribe
from eventbus.errors import EventBusError
from tests.integration.rabbit.waiting import until


class Placed(Event, type="orders.placed", key="order"):
    order: str
    number: int


class Billed(Event, type="orders.billed", key="order"):
    order: str
    number: int


@pytest.fixture(params=["sqlite", "postgres"])
async def storage(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield "sqlite://"
        return
    from eventbus.postgres.storage import open_storage

    url = request.getfixturevalue("postgres_url")
    await open_storage(url, "orders").upgrade()
    yield url


async def test_effects_are_exactly_once_and_follow_up_events_arrive(
    rabbit_url: str, storage: str
) -> None:
    billed: dict[str, list[int]] = {}
    seen: dict[str, list[int]] = {}

    @subscribe(Placed, group="billing")
    async def bill(event: Placed, ctx: Context) -> None:
        seen.setdefault(event.order, []).append(event.number)
        await ctx.publish(Billed(order=event.order, number=event.number))

    @subscribe(Billed, group="mail")
    async def mail(event: Billed) -> None:
        billed.setdefault(event.order, []).append(event.number)

    bus = EventBus(rabbit_url, storage=storage, service="orders", handlers=[bill, mail])
    async with bus:
        for number in range(20):
            async with bus.transaction() as tx:
                for order in range(5):
                    await tx.publish(Placed(order=f"A-{order}", number=number))
        await until(lambda: sum(map(len, billed.values())) == 100, within=60)
        await bus.until_idle()
    assert seen == billed == {f"A-{order}": list(range(20)) for order in range(5)}


async def test_a_group_without_storage_buries_what_fails_for_good(rabbit_url: str) -> None:
    done: list[int] = []

    @subscribe(Placed, group=Group("billing", retry=RetryPolicy(in_place=0, parked=())))
    async def bill(event: Placed) -> None:
        if event.number == 1:
            raise ValueError("no")
        done.append(event.number)

    url = rabbit_url.replace("amqp://", "rabbit://")  # the scheme stands in the letter
    async with EventBus(url, service="orders", handlers=[bill]) as bus:
        for number in range(3):
            await bus.publish(Placed(order="A", number=number))
        await until(lambda: done == [0, 2])
    connection = await aio_pika.connect(rabbit_url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.get_queue("orders.billing.dlq")
        async with asyncio.timeout(30):
            letter = await queue.get(timeout=30)
    assert letter is not None
    assert letter.headers["ce-type"] == "orders.placed"
    assert letter.headers["eventbus-dead-group"] == "billing"
    assert str(letter.headers["eventbus-dead-origin"]).startswith("rabbit:billing/")


async def test_a_structured_event_arrives_with_the_type_of_its_envelope(rabbit_url: str) -> None:
    seen: list[tuple[str, str]] = []

    @subscribe(Placed, group="billing")
    async def bill(event: Placed, ctx: Context) -> None:
        seen.append((event.order, ctx.message.id))

    body = (
        b'{"specversion":"1.0","id":"7","source":"/x","type":"orders.placed",'
        b'"data":{"order":"A","number":1}}'
    )
    async with EventBus(rabbit_url, storage="sqlite://", service="orders", handlers=[bill]):
        async with await aio_pika.connect(rabbit_url) as connection:
            channel = await connection.channel()
            exchange = await channel.get_exchange("orders")
            written = aio_pika.Message(body, content_type="application/cloudevents+json")
            await exchange.publish(written, routing_key="orders.placed")
        await until(lambda: bool(seen))
    assert seen == [("A", "7")]


async def test_messages_of_others_reach_handlers_under_the_type_of_their_exchange(
    rabbit_url: str,
) -> None:
    seen: list[tuple[str, str]] = []

    class Legacy(Event, type="legacy.placed"):
        order: str

    @subscribe(Legacy, group="billing")
    async def bill(event: Legacy, ctx: Context) -> None:
        seen.append((event.order, ctx.message.id))

    bus = EventBus(
        f"{rabbit_url}?foreign=legacy:legacy.placed",
        storage="sqlite://",
        service="shop",
        handlers=[bill],
    )
    with pytest.raises(EventBusError, match="EB2205"):
        async with bus:
            pass
    async with await aio_pika.connect(rabbit_url) as connection:
        channel = await connection.channel()
        others = await channel.declare_exchange("legacy", "fanout", durable=True)
        async with bus:
            for _ in range(2):
                body = aio_pika.Message(b'{"order": "A-1"}', message_id="7")
                await others.publish(body, routing_key="any")
            await until(lambda: bool(seen), within=30)
            await bus.until_idle()
    assert seen == [("A-1", "7")]  # the second one is a repeat
