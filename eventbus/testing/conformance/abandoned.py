"""A transaction whose task does not end it: given up by another one, it holds nothing any more."""
# ruff: noqa: D102, PT012, S101, S608 - a suite: names are sentences, it asserts, its tables are
# its own, and what raises is a whole transaction

import asyncio
from contextlib import suppress

import pytest

from eventbus.errors import StorageError
from eventbus.storage import Storage, Transaction
from eventbus.testing.conformance.samples import (
    DEADLINE,
    LONG,
    make_table,
    numbers,
    some_message,
    take_partitions,
    turns,
    unique,
)


class AbandonedSuite:
    """Subclass it with a fixture `storage`: an entered storage, empty or not."""

    async def test_others_get_what_it_held_while_its_task_is_still_in_it(
        self, storage: Storage
    ) -> None:
        table, lease, key = await make_table(storage, "n bigint"), unique("lease"), unique("key")
        await _set(storage, table, 0)
        async with _Zombie(storage) as zombie:
            await zombie.tx.sql.execute(f"UPDATE {table} SET n = 1")
            await zombie.tx.outbox.add([some_message(key=key)])
            await zombie.tx.leases.acquire([lease], owner="zombie", ttl=LONG, limit=1)
            zombie.tx.abandon()
            async with asyncio.timeout(DEADLINE), storage.transaction() as tx:
                await tx.sql.execute(f"UPDATE {table} SET n = n + 10")
                assert await tx.leases.acquire([lease], owner="us", ttl=LONG, limit=1)
        assert await _rows(storage, table) == [10]
        leases = await take_partitions(storage, owner=unique("owner"))
        async with storage.transaction() as tx:
            sent = await tx.outbox.read(leases, limit=500)
        assert numbers(row for row in sent if row.message.key == key) == []

    async def test_its_own_task_can_do_nothing_more_in_it(self, storage: Storage) -> None:
        table = await make_table(storage, "n bigint")
        with pytest.raises(StorageError) as left:
            async with storage.transaction() as tx:
                await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (1)")
                tx.abandon()
                with pytest.raises(StorageError) as refused:
                    await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (2)")
                with suppress(StorageError):
                    async with tx.savepoint():
                        await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (3)")
                tx.abandon()  # again: nothing more to give up
        assert refused.value.code == left.value.code == "EB5004"
        assert await _rows(storage, table) == []

    async def test_in_a_savepoint_it_cannot_be_saved_by_leaving_that(
        self, storage: Storage
    ) -> None:
        table = await make_table(storage, "n bigint")
        with pytest.raises(StorageError) as left:
            async with storage.transaction() as tx:
                await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (1)")
                with suppress(StorageError):
                    async with tx.savepoint():
                        await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (2)")
                        tx.abandon()
                        await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (3)")
        assert left.value.code == "EB5004"
        assert await _rows(storage, table) == []

    async def test_before_its_first_statement_it_never_begins(self, storage: Storage) -> None:
        table = await make_table(storage, "n bigint")
        with pytest.raises(StorageError) as left:
            async with storage.transaction() as tx:
                tx.abandon()
                with pytest.raises(StorageError):
                    await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (1)")
        assert left.value.code == "EB5004"
        assert await _rows(storage, table) == []

    async def test_at_any_point_of_its_work_it_is_all_or_nothing(self, storage: Storage) -> None:
        table = await make_table(storage, "n bigint")
        kept: set[int] = set()
        running: list[Transaction] = []

        async def write(n: int) -> None:
            async with storage.transaction() as tx:
                running.append(tx)
                async with tx.savepoint():
                    await tx.sql.execute(f"INSERT INTO {table} (n) VALUES ($1)", n)
                await tx.sql.execute(f"INSERT INTO {table} (n) VALUES ($1)", n + 100)
            kept.add(n)

        async with asyncio.timeout(DEADLINE):
            for n in range(40):
                task = asyncio.create_task(write(n), name=f"write:{n}")
                await turns(n)
                if running:
                    running.pop().abandon()
                await _set(storage, await make_table(storage, "n bigint"), n)  # others go on
                with suppress(StorageError):
                    await task
        assert await _rows(storage, table) == sorted([*kept, *(n + 100 for n in kept)])

    async def test_what_is_committed_stays_committed(self, storage: Storage) -> None:
        table = await make_table(storage, "n bigint")
        async with storage.transaction() as tx:
            await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (1)")
        tx.abandon()
        await _set(storage, table, 2)
        assert await _rows(storage, table) == [1, 2]


class _Zombie:
    """A task that stays in its transaction until the block is left, whatever becomes of that."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._has: asyncio.Future[Transaction] = asyncio.get_running_loop().create_future()
        self._end = asyncio.Event()
        self.tx: Transaction

    async def __aenter__(self) -> "_Zombie":
        self._task = asyncio.create_task(self._stay(), name="zombie:1")
        self.tx = await self._has
        return self

    async def __aexit__(self, *error: object) -> None:
        self._end.set()
        with suppress(StorageError):
            await self._task

    async def _stay(self) -> None:
        async with self._storage.transaction() as tx:
            self._has.set_result(tx)
            await self._end.wait()


async def _set(storage: Storage, table: str, value: int) -> None:
    async with storage.transaction() as tx:
        await tx.sql.execute(f"INSERT INTO {table} (n) VALUES ($1)", value)


async def _rows(storage: Storage, table: str) -> list[int]:
    async with storage.transaction() as tx:
        return [row["n"] for row in await tx.sql.fetch(f"SELECT n FROM {table} ORDER BY n")]
