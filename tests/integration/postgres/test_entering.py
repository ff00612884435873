"""One storage object, several buses: the connections go with the last that leaves."""

import asyncio
import contextvars
from datetime import timedelta

import pytest

from eventbus import Context, EventBus, Untyped, subscribe
from eventbus.errors import MigrationError
from eventbus.memory import MemoryTransport
from eventbus.postgres import PostgresConfig, PostgresStorage
from eventbus.testing.conformance.samples import make_table, unique


async def test_who_leaves_first_takes_nothing_from_the_others(server: str, schema: str) -> None:
    storage = PostgresStorage(PostgresConfig(dsn=server, schema=schema))
    await storage.upgrade()
    seen: list[int] = []

    @subscribe("entering.counted", group="seen")
    async def count(event: Untyped, ctx: Context) -> None:
        await ctx.sql.execute("SELECT 1")
        seen.append(event.data["n"])

    async with EventBus(MemoryTransport(), storage=storage, handlers=[count]) as bus:
        table = await make_table(storage, "n bigint")
        async with bus.transaction() as tx:
            await tx.sql.execute(f"INSERT INTO {table} VALUES (1)")
            beside = _enter_and_leave(storage)  # a task that inherits nothing of this transaction
            await asyncio.create_task(beside, name="other:1", context=contextvars.Context())
            await tx.sql.execute(f"INSERT INTO {table} VALUES (2)")
            await tx.publish("entering.counted", {"n": 1}, key="a")
        await bus.until_idle(at_most=timedelta(seconds=30))
    assert seen == [1]
    assert storage.pools.size() == 0


async def _enter_and_leave(storage: PostgresStorage) -> None:
    async with EventBus(MemoryTransport(), storage=storage).client() as other:
        await other.publish("entering.other", {}, key="a")


async def test_entered_at_once_it_is_opened_once_and_closed_once(server: str, schema: str) -> None:
    storage = PostgresStorage(PostgresConfig(dsn=server, schema=schema))
    await storage.upgrade()
    async with asyncio.TaskGroup() as tasks:
        for number in range(4):
            tasks.create_task(_enter_and_leave(storage), name=f"other:{number}")
    assert storage.pools.size() == 0
    async with storage, storage.transaction() as tx:  # again
        assert len(await tx.sql.fetch("SELECT 1 AS one")) == 1


async def test_one_that_could_not_be_entered_is_not_inside(server: str) -> None:
    storage = PostgresStorage(PostgresConfig(dsn=server, schema=unique("nothing")))
    for _ in range(2):
        with pytest.raises(MigrationError):
            await storage.__aenter__()
    await storage.upgrade()
    async with storage:
        assert storage.pools.size() > 0
    assert storage.pools.size() == 0
