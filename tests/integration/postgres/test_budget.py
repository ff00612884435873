"""Round trips are counted on the wire: they are what a database far away costs."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest
from pydantic import BaseModel

from eventbus import Command, Context, Event, EventBus, Reply, handles, subscribe
from eventbus.postgres import PostgresConfig, PostgresStorage
from eventbus.saga import Saga, starts_on, step
from eventbus.testing.conformance.samples import (
    failed,
    make_table,
    some_message,
    some_messages,
    take_partitions,
    unique,
)
from tests.faults.proxy import Delay, FaultProxy

COUNTERS = Path(__file__).parents[2] / "counters" / "counters.json"
BOUND: int = json.loads(COUNTERS.read_text(encoding="utf-8"))["postgresql"]["round trips"]


Admin: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def until(admin: Admin, amount: int, query: str) -> None:
    """Asked beside the proxy: what `until_idle` asks while a machine stands still counts not."""
    async with asyncio.timeout(90):
        while await admin.fetchval(f"SELECT ({query}) FROM pg_sleep(0.005)") < amount:
            pass


class Wire:
    """Counts what asks for an answer: simple queries, and Sync after extended ones."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        ask = proxy.rule(
            toward="server",
            when=lambda frame: frame[:1] in {b"Q", b"S"},
            do=Delay(0),
            times=1_000_000,
        )
        assert ask.left

    async def trips(self, work: Callable[[], Awaitable[None]]) -> int:
        """Of the second run: the first one also prepares statements, and connects."""
        await work()
        before = len(self._proxy.hits)
        await work()
        return len(self._proxy.hits) - before


@pytest.fixture
async def quiet(proxied: PostgresStorage) -> PostgresStorage:
    """Nothing else talks: no hints between processes."""
    await proxied.wakeups.stop()
    return proxied


async def test_a_block_without_statements_costs_nothing(
    quiet: PostgresStorage, proxy: FaultProxy
) -> None:
    async def work() -> None:
        async with quiet.transaction() as tx, tx.savepoint():
            pass

    assert await Wire(proxy).trips(work) == 0


async def test_an_idle_tick_of_the_relay_is_two_looks(
    quiet: PostgresStorage, proxy: FaultProxy
) -> None:
    leases = list(await take_partitions(quiet))

    async def work() -> None:
        async with quiet.transaction() as tx:
            await tx.outbox.promote(leases, limit=100)
            await tx.outbox.read(leases, limit=500)

    assert await Wire(proxy).trips(work) == 2


async def test_a_batch_of_the_relay_is_four(quiet: PostgresStorage, proxy: FaultProxy) -> None:
    leases = list(await take_partitions(quiet))
    async with quiet.transaction() as tx:
        await tx.outbox.add(some_messages(20))

    async def work() -> None:
        async with quiet.transaction() as tx:
            rows = await tx.outbox.read(leases, limit=500)
        async with quiet.transaction() as tx:
            await tx.outbox.settle(leases, rows[:10])

    assert await Wire(proxy).trips(work) == 1 + 3


async def test_a_business_transaction_with_an_event_is_four(
    quiet: PostgresStorage, proxy: FaultProxy
) -> None:
    table = await make_table(quiet, "n bigint")

    async def work() -> None:
        async with quiet.transaction() as tx:
            await tx.sql.execute(f"INSERT INTO {table} VALUES ($1)", 1)
            await tx.outbox.add(some_messages(3))

    assert await Wire(proxy).trips(work) == 4


@pytest.mark.parametrize("amount", [0, 1, 5])
async def test_a_consumers_batch_is_five_and_two_per_message_that_writes(
    quiet: PostgresStorage, proxy: FaultProxy, amount: int
) -> None:
    table, group = await make_table(quiet, "n bigint"), unique("group")

    async def work() -> None:
        messages = some_messages(10, key="k")
        async with quiet.transaction() as tx:
            await tx.inbox.receive(messages, keys=["k"] * 10, group=group)
            for number in range(10):
                async with tx.savepoint():
                    if number < amount:
                        await tx.sql.execute(f"INSERT INTO {table} VALUES ($1)", number)
            await tx.outbox.add([some_message()])
            await tx.parking.park([failed(some_message())], group=group)

    begin, receive, park, flush, commit = 1, 1, 1, 1, 1
    trips = await Wire(proxy).trips(work)
    assert trips == begin + receive + park + flush + commit + 2 * amount


async def test_a_lease_that_is_renewed_is_three(quiet: PostgresStorage, proxy: FaultProxy) -> None:
    leases = list(await take_partitions(quiet))

    async def work() -> None:
        async with quiet.transaction() as tx:
            await tx.leases.renew(leases, ttl=timedelta(seconds=10))

    assert await Wire(proxy).trips(work) == 3


class Placed(Event, type="budget.placed", key="order"):
    order: str


async def test_a_thousand_messages_from_publish_to_handled_cost_what_is_written_down(
    server: str,
    schema: str,
    proxied_url: str,
    proxy: FaultProxy,
    admin: Admin,
    record_property: Any,
) -> None:
    """One write each, published by hundreds: a savepoint each would be a thousand more."""
    await PostgresStorage(PostgresConfig(dsn=server, schema=schema)).upgrade()
    storage = PostgresStorage(PostgresConfig(dsn=proxied_url, schema=schema))
    table = f"{schema}.placed"

    @subscribe(Placed, group="budget")
    async def write(event: Placed, ctx: Context) -> None:
        await ctx.sql.execute(f"INSERT INTO {table} VALUES ($1)", event.order)

    written = 0

    async def thousand() -> None:
        nonlocal written
        written += 1_000
        for _ in range(10):
            async with bus.transaction() as tx:
                for _ in range(100):
                    await tx.publish(Placed(order=unique("order")))
        await until(admin, written, f"SELECT count(*) FROM {table}")

    bus = EventBus("memory://", storage=storage, handlers=[write])
    async with bus:
        async with bus.transaction() as tx:
            await tx.sql.execute(f"CREATE TABLE {table} (name text)")
        trips = await Wire(proxy).trips(thousand)
        async with bus.transaction() as tx:
            rows = await tx.sql.fetch(f"SELECT count(*) AS n FROM {table}")
    record_property("trips", trips)
    assert rows[0]["n"] == written == 2_000
    assert 1_000 < trips <= BOUND, trips


class Done(Reply, type="budget.done"): ...


class Step(Command[Done], type="budget.step", key="order"):
    order: str


class Order(BaseModel):
    order: str


class Orders(Saga[Order], name="budget", step_timeout=timedelta(minutes=30)):
    @starts_on(Placed)
    def begin(self, event: Placed) -> Order:
        return Order(order=event.order)

    @step(no_undo="counted without")
    def first(self, s: Order) -> Step:
        return Step(order=s.order)

    @step(no_undo="counted without")
    def second(self, s: Order) -> Step:
        return Step(order=s.order)


@handles(Step, group="budget-step")
async def do_step(command: Step, ctx: Context) -> Done:
    return Done()


async def test_sagas_share_their_transactions(
    server: str, schema: str, proxied_url: str, proxy: FaultProxy, admin: Admin
) -> None:
    """Two steps each: one by one, every transition and every command would cost 20 a saga."""
    await PostgresStorage(PostgresConfig(dsn=server, schema=schema)).upgrade()
    storage = PostgresStorage(PostgresConfig(dsn=proxied_url, schema=schema))

    completed = f"SELECT count(*) FROM {schema}.saga WHERE status = 'completed'"
    begun = 0

    async def two_hundred() -> None:
        nonlocal begun
        begun += 200
        async with bus.transaction() as tx:
            for _ in range(200):
                await tx.publish(Placed(order=unique("order")))
        await until(admin, begun, completed)

    bus = EventBus("memory://", storage=storage, handlers=[Orders, do_step])
    async with bus:
        trips = await Wire(proxy).trips(two_hundred)
    assert await admin.fetchval(completed) == begun == 400
    assert 100 < trips <= 200 * 14, trips
