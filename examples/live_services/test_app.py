"""Tests on real services: Kafka, RabbitMQ, PostgreSQL; a container or a native process each.

    pytest examples/live_services                                    both brokers, PostgreSQL
    pytest examples/live_services --eventbus-transport=rabbit --eventbus-storage=postgres,sqlite

What is missing skips its tests and says how to get it; `--eventbus-require=kafka,rabbit,postgres`
fails them instead.
"""

# ruff: noqa: D103, S101 - the name of a test says what it checks

import aio_pika
import asyncpg
import pytest

from eventbus import Event, EventBus
from eventbus_kafka import KafkaConfig, KafkaTransport
from examples.live_services.app import TABLES, OrderPlaced


@pytest.fixture
async def shop(live_bus: EventBus) -> EventBus:
    """`live_bus` is entered, its schema made, its topics and groups are this test's own."""
    async with live_bus.transaction() as tx:
        for table in TABLES:
            await tx.sql.execute(table)
    return live_bus


async def count(bus: EventBus, table: str) -> int:
    async with bus.transaction() as tx:
        rows = await tx.sql.fetch(f"SELECT count(*) AS n FROM {table}")  # noqa: S608 - our own word
    return int(rows[0]["n"])


async def test_each_order_is_billed_and_thanked_for_once(shop: EventBus) -> None:
    for number in range(20):
        await shop.publish(OrderPlaced(order_id=f"A-{number}", cents=4200))
    await shop.until_idle()
    assert (await count(shop, "bills"), await count(shop, "thanks")) == (20, 20)


@pytest.mark.eventbus(failures="collect")
async def test_what_cannot_be_billed_waits_and_nobody_is_thanked(shop: EventBus) -> None:
    await shop.publish(OrderPlaced(order_id="A-1", cents=-1))
    await shop.publish(OrderPlaced(order_id="A-2", cents=4200))
    await shop.until_idle()
    [parked] = await shop.parked.list()
    assert (parked["key"], parked["error"]) == ("A-1", "no order costs less than nothing")
    assert (await count(shop, "bills"), await count(shop, "thanks")) == (1, 1)


async def test_others_read_our_events_from_rabbitmq(
    eventbus_app: EventBus, rabbit_url: str
) -> None:
    """`rabbit_url` is an empty vhost, for a bus of one's own and any other client."""
    async with (
        eventbus_app.replace(transport=rabbit_url) as bus,
        await aio_pika.connect(rabbit_url) as connection,
    ):
        channel = await connection.channel()
        queue = await channel.declare_queue("analytics", exclusive=True)
        await queue.bind("shop", "shop.order-placed")
        async with bus.transaction() as tx:
            for table in TABLES:
                await tx.sql.execute(table)
        await bus.publish(OrderPlaced(order_id="A-1", cents=4200))
        await bus.until_idle()
        message = await queue.get(timeout=10)
    assert message.headers["ce-partitionkey"] == "A-1"


async def test_events_are_kept_in_kafka(kafka_url: str, kafka_prefix: str) -> None:
    """All tests share the cluster: topics begin with `kafka_prefix`, and are deleted afterwards."""
    url = f"{kafka_url}?provision=true&partitions=1&replication=1"
    transport = KafkaTransport(KafkaConfig.from_url(url, "shop"))
    topic = f"{kafka_prefix}stock"

    class Counted(Event, type="stock.counted", key="article", topic=topic):
        article: str

    async with EventBus(transport, service="shop") as bus:
        await bus.publish(Counted(article="A-1"))
        kept = [
            delivery.message.key
            async for batch in transport.replay([topic], start="first", stop="now")
            for delivery in batch
        ]
    assert kept == ["A-1"]


async def test_bills_are_plain_rows_of_postgresql(
    eventbus_app: EventBus, postgres_url: str
) -> None:
    """`postgres_url` is an empty database, for the bus and for any other client."""
    bus = eventbus_app.replace(storage=postgres_url)
    await bus.upgrade()
    connection = await asyncpg.connect(postgres_url)
    for table in TABLES:
        await connection.execute(table)
    async with bus:
        await bus.publish(OrderPlaced(order_id="A-1", cents=4200))
        await bus.until_idle()
    rows = await connection.fetch("SELECT order_id, cents FROM bills")
    await connection.close()
    assert [tuple(row) for row in rows] == [("A-1", 4200)]
