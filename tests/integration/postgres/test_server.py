"""A server of the test's own, broken on purpose: restarts and crashes under load, a standby."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta

import asyncpg
import pytest

from eventbus import EventBus
from eventbus.errors import StorageError
from eventbus.postgres import PostgresConfig, PostgresStorage
from eventbus.postgres.fate import WITNESS, Fate
from eventbus.testing.conformance.samples import (
    make_table,
    numbers,
    take_partitions,
    unique,
)
from eventbus.testing.services import PostgresServer, ServiceMissingError, private_postgres
from tests.integration.postgres.book import Book

FULL = os.environ.get("EVENTBUS_FAULTS") == "full"
FREEZES = 10 if FULL else 1
FROZEN_TOLD = 400 if FULL else 16  # errors of eight writers: 25 s, or 1 s


@pytest.fixture
async def own() -> AsyncIterator[PostgresServer]:
    try:
        async with private_postgres() as server:
            yield server
    except ServiceMissingError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(" ".join(str(error).split()))


@pytest.mark.parametrize("how", ["fast", "immediate"])
async def test_a_server_that_restarts_under_load_loses_and_invents_nothing(
    own: PostgresServer, how: str
) -> None:
    config = PostgresConfig(dsn=own.url)
    await PostgresStorage(config).upgrade()
    book = Book()
    async with PostgresStorage(config) as storage:
        table = await make_table(storage, "n bigint")
        async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
            for first in range(0, 8_000_000, 1_000_000):
                tasks.create_task(book.write(storage, table, first), name=f"write:{first}")
            for _ in range(2):
                before = len(book.committed)
                while len(book.committed) < before + 100:
                    await storage.wait("timers", at_most=timedelta(milliseconds=10))
                await own.restart("immediate" if how == "immediate" else "fast")
            before = len(book.committed)
            while len(book.committed) < before + 50:
                await storage.wait("timers", at_most=timedelta(milliseconds=10))
            book.stop.set()
        async with storage.transaction() as tx:
            rows = [row["n"] for row in await tx.sql.fetch(f"SELECT n FROM {table}")]
        leases = await take_partitions(storage, owner=unique("owner"))
        async with storage.transaction() as tx:
            messages = numbers(await tx.outbox.read(leases, limit=100_000))
        assert storage.pools.idle() == storage.pools.size()
        assert storage.trouble is None
    assert len(rows) == len(set(rows))
    assert set(rows) == book.committed
    assert sorted(messages) == sorted(rows), "a row and its message, or neither"
    assert not book.rolled_back & set(rows)


@pytest.mark.timeout(100 * FREEZES + 60)
async def test_a_server_that_freezes_under_load_loses_and_invents_nothing(
    own: PostgresServer,
) -> None:
    """Row 53: it stands still until writers were told so, and commits are unknown; then goes on."""
    await PostgresStorage(PostgresConfig(dsn=own.url)).upgrade()
    config = PostgresConfig(dsn=own.url, command_seconds=0.5, acquire_seconds=0.5)
    book = Book()
    async with PostgresStorage(config) as storage:
        table = await make_table(storage, "n bigint")
        async with asyncio.timeout(100 * FREEZES), asyncio.TaskGroup() as tasks:
            for first in range(0, 8_000_000, 1_000_000):
                tasks.create_task(book.write(storage, table, first), name=f"write:{first}")
            for _ in range(FREEZES):
                before = len(book.committed)
                while len(book.committed) < before + 50:
                    await storage.wait("timers", at_most=timedelta(milliseconds=10))
                before = book.told
                await own.freeze()
                try:
                    while book.told < before + FROZEN_TOLD:
                        await storage.wait("timers", at_most=timedelta(milliseconds=10))
                finally:
                    await own.thaw()
            book.stop.set()
        await _until_it_answers(storage)
        async with storage.transaction() as tx:
            rows = [row["n"] for row in await tx.sql.fetch(f"SELECT n FROM {table}")]
        leases = await take_partitions(storage, owner=unique("owner"))
        async with storage.transaction() as tx:
            messages = numbers(await tx.outbox.read(leases, limit=100_000))
        assert storage.pools.idle() == storage.pools.size()
        assert storage.trouble is None
    assert set(rows) == book.committed
    assert sorted(messages) == sorted(rows), "a row and its message, or neither"


async def test_while_the_server_is_away_it_says_so_and_then_goes_on(own: PostgresServer) -> None:
    config = PostgresConfig(dsn=own.url, acquire_seconds=1, connect_seconds=1)
    await PostgresStorage(config).upgrade()
    async with PostgresStorage(config) as storage:
        table = await make_table(storage, "n bigint")
        await own.stop()
        with pytest.raises(StorageError) as caught:
            async with storage.transaction() as tx:
                await tx.sql.execute(f"INSERT INTO {table} VALUES (1)")
        assert caught.value.code in {"EB5001", "EB5007"}
        assert storage.trouble is not None
        await own.start()
        async with storage.transaction() as tx:
            await tx.sql.execute(f"INSERT INTO {table} VALUES (1)")
        assert storage.trouble is None


async def test_a_worker_whose_server_is_away_says_it_once_without_a_traceback(
    own: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = PostgresConfig(dsn=own.url, acquire_seconds=1, connect_seconds=1)
    await PostgresStorage(config).upgrade()
    async with asyncio.timeout(120), EventBus("memory://", storage=PostgresStorage(config)) as bus:
        await own.stop()
        while not (await bus.health()).causes:
            await turn()
        for _ in range(20):  # looks of the relay: what it says goes by time
            await turn()
        await own.start()
        while "the relay has its database again" not in caplog.messages:
            await turn()
    waits = [one for one in caplog.messages if one.startswith("the relay waits for the database")]
    assert len(waits) == len({one.split()[6] for one in waits}), "each code once"
    assert not any(one.exc_info for one in caplog.records)


async def turn() -> None:
    """A tenth of a second of the loop."""
    later = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.1, later.set_result, None)
    await later


async def test_a_frozen_server_costs_the_deadline_and_no_connection(own: PostgresServer) -> None:
    await PostgresStorage(PostgresConfig(dsn=own.url)).upgrade()
    config = PostgresConfig(dsn=own.url, command_seconds=0.5, acquire_seconds=0.5)
    async with PostgresStorage(config) as storage:
        table = await make_table(storage, "n bigint")
        await own.freeze()
        try:
            for _ in range(3):
                with pytest.raises(StorageError) as caught:
                    async with asyncio.timeout(10), storage.transaction() as tx:
                        await tx.sql.execute(f"INSERT INTO {table} VALUES (1)")
                assert caught.value.code in {"EB5001", "EB5007"}
        finally:
            await own.thaw()
        await _until_it_answers(storage)
        async with storage.transaction() as tx:
            await tx.sql.execute(f"INSERT INTO {table} VALUES (2)")
            rows = await tx.sql.fetch(f"SELECT n FROM {table}")
        assert [row["n"] for row in rows] == [2]
        assert storage.pools.idle() == storage.pools.size()


async def _until_it_answers(storage: PostgresStorage) -> None:
    """Again within its deadlines: a server that was frozen has much to do first."""
    async with asyncio.timeout(30):
        while True:
            with suppress(StorageError):
                async with storage.transaction() as tx:
                    await tx.sql.execute("SELECT 1")
                return


async def test_a_standby_is_refused(own: PostgresServer) -> None:
    config = PostgresConfig(dsn=own.url)
    await PostgresStorage(config).upgrade()
    await own.stop()
    (own.directory / "data" / "standby.signal").touch()
    await own.start()
    with pytest.raises(StorageError) as caught:
        async with PostgresStorage(config):
            pass
    assert caught.value.code == "EB5013"


async def test_a_transaction_that_a_crash_left_no_trace_of_is_rolled_back(
    own: PostgresServer,
) -> None:
    """Its id is one that the server, started again, has not given: asked for it, it fails."""
    config = PostgresConfig(dsn=own.url)
    await PostgresStorage(config).upgrade()
    async with PostgresStorage(config) as storage:
        fate = await _lost_in_a_crash(own)
        later = await asyncpg.connect(own.url)
        with pytest.raises(asyncpg.InvalidParameterValueError, match="in the future"):
            await later.fetchval("SELECT pg_xact_status($1::text::xid8)", str(fate.xid))
        await later.close()
        assert await fate.ask(storage.pools) == "rolled_back"


async def test_a_crash_that_was_only_looked_after_is_remembered_at_the_next_one(
    own: PostgresServer,
) -> None:
    """Whoever wrote between the two has the id now, and committed: the first crash took ours."""
    config = PostgresConfig(dsn=own.url)
    await PostgresStorage(config).upgrade()
    async with PostgresStorage(config) as storage:
        fate = await _lost_in_a_crash(own)
        await _until_answered(storage)
        later = await asyncpg.connect(own.url)
        for _ in range(3):
            await later.execute("INSERT INTO lost VALUES (2)")
        status = await later.fetchval("SELECT pg_xact_status($1::text::xid8)", str(fate.xid))
        assert status == "committed"
        await own.kill()
        later.terminate()
        await own.start()
        assert await fate.ask(storage.pools) == "rolled_back"


async def _until_answered(storage: PostgresStorage) -> None:
    """Somebody looks, and writes nothing."""
    for _ in range(100):
        with suppress(StorageError):
            async with storage.transaction() as tx:
                await tx.parking.keys(group="billing", limit=1)
                return
        await asyncio.sleep(0)
    raise AssertionError("no answer")


async def _lost_in_a_crash(own: PostgresServer) -> Fate:
    """Of a transaction of which the server keeps no trace; it runs again."""
    admin = await asyncpg.connect(own.url)
    await admin.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
    await admin.execute("SELECT pg_reload_conf()")
    await admin.execute("CREATE TABLE lost (n bigint)")
    await admin.execute("CHECKPOINT")
    await admin.execute("BEGIN")
    await admin.execute("INSERT INTO lost VALUES (1)")
    told = await admin.fetchrow(f"SELECT {WITNESS}")
    assert told is not None
    await own.kill()
    admin.terminate()
    await own.start()
    return Fate(xid=int(told["xid"]), written=told["written"], recovered=told["recovered"])
