"""Sagas and their participants on PostgreSQL, two processes of each: whole flows, whole ledgers."""

from collections import Counter
from collections.abc import Iterator

import pytest

from eventbus import EventBus
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.postgres import PostgresStorage
from tests.integration.sagas.shop import PARTICIPANTS, TABLES, Told, told
from tests.unit.saga.shop import OrderPlaced, PlaceOrder

ORDERS = 120


@pytest.fixture
def declining() -> Iterator[Told]:
    for refusals in (told.declined, told.no_release, told.not_shipped):
        refusals.clear()
    told.declined.update(f"A-{number}" for number in range(0, ORDERS, 3))
    yield told
    told.declined.clear()


async def test_every_order_is_completed_or_compensated_and_each_effect_happens_once(
    storage: PostgresStorage, declining: Told
) -> None:
    broker = MemoryBroker()
    told.prefix = schema = storage.config.schema

    def worker() -> EventBus:
        return EventBus(
            MemoryTransport(broker),
            storage=PostgresStorage(storage.config),
            handlers=[PlaceOrder, *PARTICIPANTS],
        )

    async with worker() as one, worker() as other:
        async with one.transaction() as tx:
            for table in TABLES:
                await tx.sql.execute(f"CREATE TABLE {schema}_{table}")
        for number in range(ORDERS):
            bus = (one, other)[number % 2]
            await bus.publish(OrderPlaced(order_id=f"A-{number}", sku="x", cents=100))
        await one.until_idle()
        await other.until_idle()
        await one.until_idle()
        async with one.transaction() as tx:
            sagas = await tx.sql.fetch(f"SELECT business_key, status FROM {schema}.saga")
            applied = await tx.sql.fetch(f"SELECT order_id, step FROM {schema}_applied")
            undone = await tx.sql.fetch(f"SELECT order_id, step FROM {schema}_undone")
    declined = {f"A-{number}" for number in range(0, ORDERS, 3)}
    assert {row["business_key"]: row["status"] for row in sagas} == {
        f"A-{number}": "compensated" if f"A-{number}" in declined else "completed"
        for number in range(ORDERS)
    }
    done = Counter((row["order_id"], row["step"]) for row in applied)
    assert set(done.values()) == {1}, "an effect happened twice"
    assert Counter((row["order_id"], row["step"]) for row in undone) == Counter(
        (order, "reserve") for order in declined
    )
    assert Counter(step for _, step in done) == {
        "reserve": ORDERS,
        "charge": ORDERS - len(declined),
        "ship": ORDERS - len(declined),
    }
