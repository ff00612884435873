"""What every transaction keeps: all of it or nothing, one at a time, SQL that is portable."""
# ruff: noqa: D102, PT012, S101, S608 - a suite: names are sentences, it asserts, its tables are
# its own, and what raises is a whole transaction

import asyncio
from contextlib import suppress
from datetime import timedelta, timezone

import pytest

from eventbus.errors import EventBusError, StorageError
from eventbus.storage import Storage, Transaction
from eventbus.testing.conformance.samples import (
    DEADLINE,
    LONG,
    at_once,
    failed,
    make_table,
    numbers,
    some_message,
    take,
    take_partitions,
    turns,
    unique,
)

NO_TABLE = "SELECT x FROM there_is_no_such_table"
SLOW = (
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 1000000)"
    " SELECT count(*) AS c FROM n"
)
INDIA = timezone(timedelta(hours=5, minutes=30))


class BoomError(Exception):
    """What the user's code raises in these tests."""


class TransactionSuite:
    """Subclass it with a fixture `storage`: an entered storage, empty or not."""

    async def test_what_is_committed_is_there(self, storage: Storage) -> None:
        table = await make_table(storage, "n bigint")
        async with storage.transaction() as tx:
            await tx.sql.execute(f"INSERT INTO {table} (n) VALUES ($1)", 1)
        assert await _column(storage, table) == [1]

    async def test_a_rollback_leaves_nothing(self, storage: Storage) -> None:
        table = await make_table(storage, "n bigint")
        group, message = unique("group"), some_message(key=unique("key"))
        boom = BoomError()
        with pytest.raises(BoomError) as caught:
            async with storage.transaction() as tx:
                await _write_everywhere(tx, table, group, unique("lease"))
                await tx.inbox.receive([message], keys=[str(message.key)], group=group)
                await tx.inbox.count([message], group=group)
                raise boom
        assert caught.value is boom
        assert await _column(storage, table) == []
        assert await _traces(storage, group) == (0, 0)
        async with storage.transaction() as tx:
            assert (await tx.inbox.count([message], group=group))[message.identity] == 1
            found = await tx.inbox.receive([message], keys=[str(message.key)], group=group)
        assert found.new == {message.identity}

    async def test_a_rolled_back_lease_and_checkpoint_were_never_there(
        self, storage: Storage
    ) -> None:
        name = unique("projection")
        with suppress(BoomError):
            async with storage.transaction() as tx:
                await tx.leases.acquire([name], owner="us", ttl=LONG, limit=1)
                await tx.checkpoints.load(name, fingerprint=b"1")
                raise BoomError
        async with storage.transaction() as tx:
            assert await tx.leases.owners(name) == 0
            assert await tx.checkpoints.positions(name) == {}

    async def test_a_rolled_back_savepoint_leaves_nothing_and_the_rest_stays(
        self, storage: Storage
    ) -> None:
        table = await make_table(storage, "n bigint")
        group = unique("group")
        async with storage.transaction() as tx:
            await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (1)")
            with suppress(BoomError):
                async with tx.savepoint():
                    await _write_everywhere(tx, table, group, unique("lease"))
                    raise BoomError
            await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (3)")
        assert await _column(storage, table) == [1, 3]
        assert await _traces(storage, group) == (0, 0)

    async def test_a_finished_savepoint_is_kept(self, storage: Storage) -> None:
        table = await make_table(storage, "n bigint")
        group = unique("group")
        async with storage.transaction() as tx:
            async with tx.savepoint():
                await _write_everywhere(tx, table, group, unique("lease"))
            with suppress(BoomError):
                async with tx.savepoint():
                    raise BoomError
        assert await _column(storage, table) == [2]
        assert await _traces(storage, group) == (1, 1)

    async def test_savepoints_nest(self, storage: Storage) -> None:
        table = await make_table(storage, "n bigint")
        insert = f"INSERT INTO {table} (n) VALUES ($1)"
        async with storage.transaction() as tx:
            async with tx.savepoint():
                await tx.sql.execute(insert, 1)
                with suppress(BoomError):
                    async with tx.savepoint():
                        await tx.sql.execute(insert, 2)
                        raise BoomError
                await tx.sql.execute(insert, 3)
            with suppress(BoomError):
                async with tx.savepoint():
                    async with tx.savepoint():
                        await tx.sql.execute(insert, 4)
                    raise BoomError
            await tx.sql.execute(insert, 5)
        assert await _column(storage, table) == [1, 3, 5]

    async def test_a_hundred_savepoints_one_after_the_other(self, storage: Storage) -> None:
        table = await make_table(storage, "n bigint")
        async with storage.transaction() as tx:
            for n in range(100):
                with suppress(BoomError):
                    async with tx.savepoint():
                        await tx.sql.execute(f"INSERT INTO {table} (n) VALUES ($1)", n)
                        if n % 2:
                            raise BoomError
        assert await _column(storage, table) == list(range(0, 100, 2))

    async def test_a_block_that_does_nothing(self, storage: Storage) -> None:
        async with storage.transaction() as tx, tx.savepoint():
            pass
        with pytest.raises(BoomError):
            async with storage.transaction():
                raise BoomError

    async def test_a_block_that_did_nothing_yet_holds_nobody_up(self, storage: Storage) -> None:
        table = await make_table(storage, "n bigint")
        opened, written = asyncio.Event(), asyncio.Event()

        async def idle() -> None:
            async with storage.transaction() as tx, tx.savepoint():
                opened.set()
                await written.wait()

        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
            tasks.create_task(idle(), name="idle:1")
            await opened.wait()
            await _insert(storage, table, 1)
            written.set()
        assert await _column(storage, table) == [1]

    async def test_a_transaction_inside_a_transaction_is_refused(self, storage: Storage) -> None:
        table = await make_table(storage, "n bigint")
        async with storage.transaction() as tx:
            await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (1)")
            with pytest.raises(StorageError) as caught:
                await _insert(storage, table, 2)
            assert caught.value.code == "EB5002"
            await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (3)")
        await _insert(storage, table, 4)
        assert await _column(storage, table) == [1, 3, 4]

    async def test_a_transaction_inside_a_block_that_did_nothing_is_refused_too(
        self, storage: Storage
    ) -> None:
        table = await make_table(storage, "n bigint")
        async with storage.transaction():
            with pytest.raises(StorageError) as caught:
                await _insert(storage, table, 1)
        assert caught.value.code == "EB5002"

    async def test_a_failed_statement_dooms_and_the_next_one_says_why(
        self, storage: Storage
    ) -> None:
        table = await make_table(storage, "n bigint")
        with pytest.raises(BoomError):
            async with storage.transaction() as tx:
                await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (1)")
                with pytest.raises(StorageError) as first:
                    await tx.sql.fetch(NO_TABLE)
                assert first.value.code == "EB5005"
                assert first.value.__cause__ is not None
                with pytest.raises(StorageError) as second:
                    await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (2)")
                assert second.value.code == "EB5004"
                assert second.value.__cause__ is first.value
                raise BoomError
        assert await _column(storage, table) == []

    async def test_a_doomed_transaction_never_commits(self, storage: Storage) -> None:
        table = await make_table(storage, "n bigint")
        with pytest.raises(StorageError) as caught:
            async with storage.transaction() as tx:
                await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (1)")
                with suppress(StorageError):
                    await tx.sql.fetch(NO_TABLE)
        assert caught.value.code == "EB5004"
        assert await _column(storage, table) == []

    async def test_a_failed_statement_in_a_savepoint_costs_only_the_savepoint(
        self, storage: Storage
    ) -> None:
        table = await make_table(storage, "n bigint")
        async with storage.transaction() as tx:
            with suppress(StorageError):
                async with tx.savepoint():
                    await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (1)")
                    await tx.sql.fetch(NO_TABLE)
            await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (2)")
        assert await _column(storage, table) == [2]

    async def test_a_swallowed_failure_still_costs_its_savepoint(self, storage: Storage) -> None:
        table = await make_table(storage, "n bigint")
        async with storage.transaction() as tx:
            with pytest.raises(StorageError) as caught:
                async with tx.savepoint():
                    await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (1)")
                    with suppress(StorageError):
                        await tx.sql.fetch(NO_TABLE)
            await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (2)")
        assert caught.value.code == "EB5004"
        assert await _column(storage, table) == [2]

    async def test_a_transaction_that_is_over_takes_no_statement(self, storage: Storage) -> None:
        table = await make_table(storage, "n bigint")
        async with storage.transaction() as tx:
            await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (1)")
        with pytest.raises(StorageError):
            await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (2)")
        assert await _column(storage, table) == [1]

    async def test_cancelled_in_mid_statement_the_storage_stays_usable(
        self, storage: Storage
    ) -> None:
        table = await make_table(storage, "n bigint")
        for n in range(3):
            started = asyncio.Event()
            task = asyncio.create_task(_never_ends(storage, table, n, started), name="slow:1")
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with asyncio.timeout(DEADLINE):
            await _insert(storage, table, 9)
            assert await _column(storage, table) == [9]

    async def test_cancelled_at_any_point_it_is_all_or_nothing(self, storage: Storage) -> None:
        table, group = await make_table(storage, "n bigint"), unique("group")

        async def write(n: int) -> None:
            async with storage.transaction() as tx:
                async with tx.savepoint():
                    await tx.sql.execute(f"INSERT INTO {table} (n) VALUES ($1)", n)
                await tx.outbox.add([some_message(n, key=group)])
                await tx.parking.park([failed(some_message(n, key=group))], group=group)

        async with asyncio.timeout(DEADLINE):
            for n in range(40):
                task = asyncio.create_task(write(n), name=f"write:{n}")
                await turns(n)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await write(99)
        rows = await _column(storage, table)
        leases, lease = await take_partitions(storage), await take(storage, unique("parked"))
        async with storage.transaction() as tx:
            sent = await tx.outbox.read(leases, limit=500)
            parked = await tx.parking.behind(lease, group, group=group, limit=500)
        assert numbers(row for row in sent if row.message.key == group) == rows
        assert numbers(parked or ()) == rows
        assert rows[-1] == 99

    async def test_cancelled_while_it_waits_for_its_turn_nothing_is_held(
        self, storage: Storage
    ) -> None:
        table = await make_table(storage, "n bigint primary key")
        asks, asked, ends = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            async with storage.transaction() as tx:
                await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (1)")
                asks.set()
                for _ in range(5):  # statements, so that the other comes as far as it can
                    await tx.sql.fetch(f"SELECT n FROM {table}")
                asked.set()
                await ends.wait()

        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
            tasks.create_task(hold(), name="hold:1")
            await asks.wait()
            waiting = asyncio.create_task(_insert(storage, table, 1), name="waiting:1")
            await asked.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            ends.set()
            await _insert(storage, table, 2)
        assert await _column(storage, table) == [1, 2]

    async def test_concurrent_transactions_lose_no_update(self, storage: Storage) -> None:
        table = await make_table(storage, "n bigint")
        await _insert(storage, table, 0)

        async def increment() -> None:
            for _ in range(5):
                async with storage.transaction() as tx:
                    await tx.sql.execute(f"UPDATE {table} SET n = n + 1")

        await at_once(*(increment() for _ in range(8)))
        assert await _column(storage, table) == [40]

    async def test_a_resource_that_it_has_not_is_a_lookup_error(self, storage: Storage) -> None:
        async with storage.transaction() as tx:
            with pytest.raises(LookupError):
                tx.resource(BoomError)

    async def test_a_connection_that_cannot_be_joined_is_refused(self, storage: Storage) -> None:
        with pytest.raises(EventBusError) as caught:
            async with storage.enlist(object()):
                pass
        assert caught.value.code == "EB5008"

    async def test_upgrading_again_changes_nothing(self, storage: Storage) -> None:
        message = some_message(key=unique("key"))
        async with storage.transaction() as tx:
            await tx.outbox.add([message])
        await storage.upgrade()
        leases = await take_partitions(storage)
        async with storage.transaction() as tx:
            assert message in [row.message for row in await tx.outbox.read(leases, limit=500)]

    async def test_it_is_healthy_and_examines_itself(self, storage: Storage) -> None:
        assert storage.trouble is None
        assert all(finding.level != "refuse" for finding in await storage.examine())

    async def test_waiting_ends(self, storage: Storage) -> None:
        async with asyncio.timeout(DEADLINE):
            for work in ("outbox", "parked"):
                await storage.wait(work, at_most=timedelta(milliseconds=10))


async def _insert(storage: Storage, table: str, value: object) -> None:
    async with storage.transaction() as tx:
        await tx.sql.execute(f"INSERT INTO {table} (n) VALUES ($1)", value)


async def _column(storage: Storage, table: str) -> list[int]:
    async with storage.transaction() as tx:
        return [row["n"] for row in await tx.sql.fetch(f"SELECT n FROM {table} ORDER BY n")]


async def _never_ends(storage: Storage, table: str, n: int, started: asyncio.Event) -> None:
    async with storage.transaction() as tx:
        await tx.sql.execute(f"INSERT INTO {table} (n) VALUES ($1)", n)
        started.set()
        await tx.sql.fetch(SLOW)
        await asyncio.Event().wait()  # where statements run inline, the cancelling comes here


async def _write_everywhere(tx: Transaction, table: str, group: str, lease: str) -> None:
    """A row, a message in the outbox under the group's name as key, a parked one."""
    await tx.sql.execute(f"INSERT INTO {table} (n) VALUES (2)")
    await tx.outbox.add([some_message(key=group)])
    await tx.parking.park([failed(some_message(key="k"))], group=group)
    await tx.leases.acquire([lease], owner="us", ttl=LONG, limit=1)


async def _traces(storage: Storage, group: str) -> tuple[int, int]:
    """How many messages of `_write_everywhere` are in the outbox, and parked."""
    leases = await take_partitions(storage, owner=unique("owner"))
    lease = await take(storage, unique("parked"))
    async with storage.transaction() as tx:
        rows = await tx.outbox.read(leases, limit=500)
        parked = await tx.parking.behind(lease, "k", group=group, limit=100)
    return sum(row.message.key == group for row in rows), len(parked or ())
