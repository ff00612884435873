"""N6: the relay, from rows of PostgreSQL's outbox to RabbitMQ's confirms.

By hand: rows are read by 500, published by a hundred tasks through aio-pika, deleted once all are
confirmed; it keeps no order per key. Ours has one relay, keeps it, and fences what it deletes.
"""

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta

import aio_pika
import asyncpg

from benchmarks.in_memory import IN_FLIGHT
from benchmarks.postgres import World, case, message, timed
from benchmarks.rabbit import INTEREST, TYPE, a_transport, raw
from benchmarks.rounds import Bar, Figures, Goal
from eventbus import EventBus
from eventbus.postgres import PostgresStorage
from eventbus.testing.services import running
from eventbus.testing.services.rabbitmq import create_vhost, delete_vhost

N, PAGE = 20_000, 500
READ = "SELECT id, payload FROM hand ORDER BY id LIMIT $1"
DELETE = "DELETE FROM hand WHERE id = ANY($1::bigint[])"


def bar() -> Bar:
    """Many keys, which is what the goal is about, and one."""
    goal = Goal(figure="rate", at_least=10_000, where_base=6_600)
    return Bar(
        name="N6",
        what="relay PostgreSQL to RabbitMQ, each message confirmed",
        ratio_of="rate",
        cases=[
            case("N6", f"asyncpg and aio-pika, {IN_FLIGHT} in flight", N, _by_hand),
            case("N6", "eventbus, 1,000 keys", N, _relayed, goal),
            case("N6", "eventbus, one key", N, _relayed_in_order),
        ],
    )


async def _by_hand(world: World, n: int) -> None:
    await world.admin.execute(
        "CREATE TABLE hand (id bigserial PRIMARY KEY, payload bytea NOT NULL)"
    )
    rows = [(message(number).payload,) for number in range(n)]
    await world.admin.copy_records_to_table("hand", records=rows, columns=["payload"])
    with running("rabbit") as server:
        url = create_vhost(server.url)
        try:
            async with raw(url) as made, timed(world):
                while page := await world.admin.fetch(READ, PAGE):
                    await _publish(made.exchange, page)
                    await world.admin.execute(DELETE, [row["id"] for row in page])
        finally:
            delete_vhost(url)


async def _publish(exchange: aio_pika.abc.AbstractExchange, page: Sequence[asyncpg.Record]) -> None:
    rows = iter(page)

    async def work() -> None:
        for row in rows:
            out = aio_pika.Message(
                row["payload"],
                content_type="application/json",
                message_id=str(row["id"]),
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                headers={"ce-specversion": "1.0", "ce-type": TYPE, "ce-source": "/bench"},
            )
            await exchange.publish(out, TYPE, mandatory=True)

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


async def _relayed(world: World, n: int) -> Figures:
    await world.fill(n)
    return await _emptied(world)


async def _relayed_in_order(world: World, n: int) -> Figures:
    await world.fill(n)
    await world.admin.execute(
        f"UPDATE {world.storage.config.schema}.outbox SET key = 'order-1', part = "
        f"(SELECT part FROM {world.storage.config.schema}.outbox WHERE key = 'order-1' LIMIT 1)"
    )
    return await _emptied(world)


async def _emptied(world: World) -> Figures:
    """A bus without handlers: it relays, and nothing else."""
    with running("rabbit") as server:
        url = create_vhost(server.url)
        try:
            transport = a_transport(url)
            storage = PostgresStorage(world.storage.config)
            async with EventBus(transport, service="bench", handlers=[]).client():
                await transport.examine([INTEREST])
            bus = EventBus(a_transport(url), storage=storage, service="bench")
            async with timed(world), bus:
                await bus.until_idle(at_most=timedelta(seconds=120))
            left = await world.admin.fetchval(
                f"SELECT count(*) FROM {world.storage.config.schema}.outbox"
            )
            if left:
                raise AssertionError(json.dumps({"left": left}))
        finally:
            delete_vhost(url)
    return {}
