"""Sagas on PostgreSQL: what of the adapter is not in the contract."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from eventbus.errors import UnsafeConfigurationError
from eventbus.postgres import PostgresStorage
from eventbus.storage import Transaction
from eventbus.storage.sagas import Arm, SagaRecord
from eventbus.testing.conformance.saga_samples import some_change, some_start, some_step
from eventbus.testing.conformance.samples import unique

Admin = Any  # asyncpg's connection, whose stubs want a record class
SECOND = timedelta(seconds=1)
_UPDATES = """
SELECT relname AS name, n_tup_upd AS updated, n_tup_hot_upd AS in_place
  FROM pg_stat_xact_all_tables
 WHERE schemaname = $1 AND relname IN ('saga', 'saga_step') AND n_tup_upd > 0"""


async def started(storage: PostgresStorage, amount: int = 1) -> Sequence[SagaRecord]:
    saga = unique("saga")
    state = b"s" * 400
    starts = [replace(some_start(saga, f"key-{n}"), data=state) for n in range(amount)]
    async with storage.transaction() as tx:
        await tx.sagas.start(starts)
    async with storage.transaction() as tx:
        return await tx.sagas.lock([start.saga_id for start in starts])


async def updates(tx: Transaction, schema: str) -> Counter[str]:
    """Of this connection, since it last told the server: not within a transaction."""
    rows = await tx.sql.fetch(_UPDATES, schema)
    return Counter({row["name"]: row["updated"] for row in rows}) + Counter(
        {f"{row['name']}, in place": row["in_place"] for row in rows}
    )


async def test_transitions_update_instances_and_steps_in_place(
    storage: PostgresStorage, admin: Admin
) -> None:
    for table in ("saga", "saga_step"):  # room for all versions: pruning waits for old snapshots
        await admin.execute(f"ALTER TABLE {storage.config.schema}.{table} SET (fillfactor = 10)")
    ids = [record.saga_id for record in await started(storage, 64)]
    steps = {saga_id: some_step(1) for saga_id in ids}
    found: Counter[str] = Counter()
    for turn in range(6):
        for place in range(0, len(ids), 16):
            async with storage.transaction() as tx:
                before = await updates(tx, storage.config.schema)
                records = await tx.sagas.lock(ids[place : place + 16])
                changes = [
                    some_change(
                        record,
                        data=bytes([turn]) * 400,
                        steps=[steps[record.saga_id]],
                        arm=[Arm("deadline", record.version, SECOND)],
                    )
                    for record in records
                ]
                await tx.sagas.save(changes)
                found += await updates(tx, storage.config.schema) - before
    assert (found["saga"], found["saga_step"]) == (6 * 64, 5 * 64)
    in_place = (found["saga, in place"], found["saga_step, in place"])
    assert in_place == (6 * 64, 5 * 64), "an index names what a transition changes"


async def test_a_journal_stands_in_its_month_and_goes_with_it_when_its_sagas_are_gone(
    storage: PostgresStorage, admin: Admin
) -> None:
    name = storage.config.schema
    (record,) = await started(storage)
    async with storage.transaction() as tx:
        await tx.sagas.save([some_change(record, status="completed")])
    journal = f"{name}.saga_journal"
    month = await admin.fetchval(f"SELECT tableoid::regclass::text FROM {journal}")
    this = await admin.fetchval("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMM')")
    assert month == f"{name}.saga_journal_{this}"
    old = f"{name}.saga_journal_200001"
    assert await admin.fetchval(f"SELECT {name}.ensure_journal_month('2000-01-15')")
    assert not await admin.fetchval(f"SELECT {name}.ensure_journal_month('2000-01-15')")
    await admin.execute(f"UPDATE {journal} SET at = '2000-01-31 23:59:59 UTC'")
    assert await admin.fetchval(f"SELECT count(*) FROM {old}") == 1
    assert await storage.prune(inbox=timedelta(days=7), limit=10) == 0, "its saga is there"
    assert await admin.fetchval("SELECT to_regclass($1)::text", old) == old
    await admin.execute(f"UPDATE {name}.saga SET finished_at = finished_at - interval '31 days'")
    async with storage.transaction() as tx:
        assert await tx.sagas.sweep(older_than=timedelta(days=30), limit=10) == 1
    assert await storage.prune(inbox=timedelta(days=7), limit=10) == 1
    assert await admin.fetchval("SELECT to_regclass($1)::text", old) is None


async def test_a_month_without_a_partition_is_swept_with_its_saga(
    storage: PostgresStorage, admin: Admin
) -> None:
    name = storage.config.schema
    (record,) = await started(storage)
    async with storage.transaction() as tx:
        await tx.sagas.save([some_change(record, status="completed")])
    await admin.execute(f"UPDATE {name}.saga_journal SET at = '1999-01-01 UTC'")
    assert await admin.fetchval(f"SELECT count(*) FROM {name}.saga_journal_other") == 1
    assert not await admin.fetchval(f"SELECT {name}.ensure_journal_month('1999-01-01')")
    async with storage.transaction() as tx:
        assert await tx.sagas.sweep(older_than=timedelta(0), limit=10) == 1
    assert await admin.fetchval(f"SELECT count(*) FROM {name}.saga_journal") == 0


async def test_a_saga_is_not_locked_in_a_transaction_that_sees_the_past(
    storage: PostgresStorage, admin: Admin
) -> None:
    (record,) = await started(storage)
    async with admin.transaction(isolation="repeatable_read"):
        async with storage.enlist(admin) as tx:
            with pytest.raises(UnsafeConfigurationError, match="EB5008"):
                await tx.sagas.lock([record.saga_id])


async def test_a_delay_beyond_the_calendar_is_a_long_one(storage: PostgresStorage) -> None:
    (record,) = await started(storage)
    async with storage.transaction() as tx:
        await tx.sagas.save([some_change(record, arm=[Arm("t", 1, timedelta.max)])])
    async with storage.transaction() as tx:
        wait = await tx.sagas.next_due([(record.saga, 1)])
    assert wait is not None
    assert wait > timedelta(days=100_000)
