"""P2 from a broker: an inbox row and one write per message, beside a transaction each by hand.

By hand: the broker's client as its documentation advises, then BEGIN, the id, the write, COMMIT on
one connection, and the ack (RabbitMQ) or a commit of offsets once a second (Kafka).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks import kafka, rabbit
from benchmarks.in_memory import Count
from benchmarks.measure import Clock
from benchmarks.message import OrderFields, OrderPlaced, orders, raw_orders
from benchmarks.postgres import BILL, SEEN, World, case, timed
from benchmarks.rounds import Bar, Goal
from eventbus import Context, EventBus, subscribe
from eventbus.postgres import PostgresStorage
from eventbus.testing.services import running
from eventbus.testing.services.rabbitmq import create_vhost, delete_vhost
from eventbus.transport import Transport

N = 4_000


def from_kafka() -> Bar:
    """Six partitions."""
    return _bar("P2KAFKA", "Kafka", _kafka_by_hand, _kafka)


def from_rabbit() -> Bar:
    """A quorum queue."""
    return _bar("P2RABBIT", "RabbitMQ", _rabbit_by_hand, _rabbit)


BARS = {"P2KAFKA": from_kafka, "P2RABBIT": from_rabbit}
Work = Callable[[World, int], Awaitable[None]]


def _bar(name: str, broker: str, by_hand: Work, ours: Work) -> Bar:
    three_times = Goal(figure="ratio", at_least=3)
    return Bar(
        name=name,
        what=f"{broker} to PostgreSQL: inbox row and one write per message",
        ratio_of="rate",
        cases=[
            case(name, "a transaction per message, by hand", N, by_hand),
            case(name, "eventbus", N, ours, three_times),
        ],
    )


class _ByHand:
    """One transaction per message, on a connection of its own."""

    def __init__(self, world: World) -> None:
        self._connection = world.admin

    async def handle(self, body: bytes) -> None:
        order = str(OrderFields.model_validate_json(body).order_id)
        async with self._connection.transaction():
            await self._connection.execute(SEEN, order)
            await self._connection.execute(BILL, order, 4200)


async def _seen(world: World) -> _ByHand:
    await world.admin.execute("CREATE TABLE seen (message text PRIMARY KEY)")
    return _ByHand(world)


async def _rabbit_by_hand(world: World, n: int) -> None:
    hand, count = await _seen(world), Count(n)

    async def handle(message: Any) -> None:
        async with lock:  # there is one connection
            await hand.handle(message.body)
        await message.ack()
        count.one()

    lock = asyncio.Lock()
    with running("rabbit") as server:
        url = create_vhost(server.url)
        try:
            async with rabbit.raw(url) as made:
                await rabbit.publish_raw(made, raw_orders(n), Clock(), Count(0))
                async with timed(world):
                    await made.queue.consume(handle)
                    await count.all.wait()
        finally:
            delete_vhost(url)


async def _rabbit(world: World, n: int) -> None:
    with running("rabbit") as server:
        url = create_vhost(server.url)
        try:
            await rabbit.fill(url, orders(n))
            await _handled(world, rabbit.a_transport(url), OrderPlaced, "bench", n)
        finally:
            delete_vhost(url)


async def _kafka_by_hand(world: World, n: int) -> None:
    hand = await _seen(world)
    with running("kafka") as server:
        async with kafka.filled(server.url, n) as topic:
            reader = await kafka.reader_of(server.url, topic)
            left, committed = n, time.monotonic()
            async with timed(world):
                async for record in reader:
                    await hand.handle(record.value or b"")
                    left -= 1
                    if not left:
                        break
                    if time.monotonic() - committed > 1:
                        await reader.commit()
                        committed = time.monotonic()
                await reader.commit()
            await reader.stop()


async def _kafka(world: World, n: int) -> None:
    with running("kafka") as server:
        async with kafka.filled(server.url, n) as topic:
            url = kafka.bus_url(server.url)
            await _handled(world, url, kafka.here(topic), f"{topic}-group", n)


async def _handled(
    world: World, transport: str | Transport, cls: type[OrderPlaced], group: str, n: int
) -> None:
    count = Count(n)

    @subscribe(cls, group=group)
    async def bill(event: OrderPlaced, ctx: Context) -> None:
        await ctx.sql.execute(BILL, str(event.order_id), 4200)
        count.one()

    storage = PostgresStorage(world.storage.config)
    bus = EventBus(transport, storage=storage, service="bench", handlers=[bill])
    async with timed(world), bus:
        await count.all.wait()
