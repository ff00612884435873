"""COMMIT whose answer is lost, late or unwelcome: never guessed, always resolvable (X2, X12)."""

import asyncio
from typing import Any

import pytest

from eventbus.errors import CommitUnknownError, StorageError
from eventbus.message import Message
from eventbus.postgres import PostgresConfig, PostgresStorage
from eventbus.postgres.completion import commit
from eventbus.postgres.fate import Fate
from eventbus.postgres.session import Session
from eventbus.testing.conformance.samples import (
    make_table,
    some_message,
    take_partitions,
    unique,
)
from tests.faults.proxy import Blackhole, Cut, FaultProxy, Swallow, commit_reply, query

Admin = Any  # asyncpg's connection, whose stubs want a record class


async def _publish(storage: PostgresStorage, message: Message) -> None:
    async with storage.transaction() as tx:
        await tx.outbox.add([message])


async def _ids(storage: PostgresStorage) -> list[str]:
    leases = await take_partitions(storage, owner=unique("owner"))
    async with storage.transaction() as tx:
        rows = await tx.outbox.read(leases, limit=500)
        await tx.leases.release(leases)
    return [row.message.id for row in rows]


async def test_a_lost_answer_to_a_commit_that_happened_resolves_to_committed(
    proxied: PostgresStorage, proxy: FaultProxy
) -> None:
    message = some_message(key="k")
    proxy.rule(toward="client", when=commit_reply, do=Cut())
    with pytest.raises(CommitUnknownError) as caught:
        await _publish(proxied, message)
    assert caught.value.code == "EB5101"
    assert caught.value.ids == (message.id,)
    assert await caught.value.resolve() == "committed"
    assert await _ids(proxied) == [message.id]


async def test_a_commit_that_never_arrived_resolves_to_rolled_back(
    proxied: PostgresStorage, proxy: FaultProxy
) -> None:
    proxy.rule(toward="server", when=query("COMMIT"), do=Cut())
    with pytest.raises(CommitUnknownError) as caught:
        await _publish(proxied, some_message(key="k"))
    assert await caught.value.resolve() == "rolled_back"
    assert await _ids(proxied) == []


async def test_a_transaction_of_the_applications_own_statements_resolves_too(
    proxied: PostgresStorage, proxy: FaultProxy
) -> None:
    table = await make_table(proxied, "n bigint")
    proxy.rule(toward="client", when=commit_reply, do=Cut())
    with pytest.raises(CommitUnknownError) as caught:
        async with proxied.transaction() as tx:
            await tx.sql.execute(f"INSERT INTO {table} VALUES (1)")
    assert await caught.value.resolve() == "committed"


async def test_while_the_commit_is_in_progress_resolving_waits_for_the_truth(
    proxied: PostgresStorage, proxy: FaultProxy, admin: Admin
) -> None:
    """The connection goes while the server still works on COMMIT: a deferred trigger holds it."""
    table = await _held_up_at_commit(proxied, admin)
    await admin.execute("SELECT pg_advisory_lock(7)")

    async def write() -> None:
        async with proxied.transaction() as tx:
            await tx.sql.execute(f"INSERT INTO {table} VALUES (1)")

    writing = asyncio.create_task(write(), name="write:1")
    await _waiting_for_lock(admin)
    assert proxy.cut_all() > 0
    with pytest.raises(CommitUnknownError) as caught:
        await writing
    resolving = asyncio.create_task(caught.value.resolve(), name="resolve:1")
    while not await admin.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_xact_status%'"
        " AND pid <> pg_backend_pid()"
    ):
        pass
    assert not resolving.done()
    await admin.execute("SELECT pg_advisory_unlock(7)")
    answer = await resolving
    there = await admin.fetchval(f"SELECT count(*) FROM {table}")
    assert answer == ("committed" if there else "rolled_back")


async def test_no_answer_within_the_deadline_is_unknown_and_the_pool_is_whole(
    server: str, schema: str, proxied_url: str, proxy: FaultProxy
) -> None:
    await PostgresStorage(PostgresConfig(dsn=server, schema=schema)).upgrade()
    config = PostgresConfig(dsn=proxied_url, schema=schema, command_seconds=1)
    async with PostgresStorage(config) as storage:
        proxy.rule(toward="client", when=commit_reply, do=Swallow())
        with pytest.raises(CommitUnknownError) as caught:
            await _publish(storage, some_message(key="k"))
        assert await caught.value.resolve() == "committed"
        proxy.rule(toward="server", when=query("COMMIT"), do=Blackhole())
        with pytest.raises(CommitUnknownError) as lost:
            await _publish(storage, some_message(key="k"))
        proxy.heal()
        assert await lost.value.resolve() == "rolled_back"
        assert len(await _ids(storage)) == 1
        assert storage.pools.idle() == storage.pools.size()


async def test_cancelled_in_commit_the_outcome_comes_first(
    proxied: PostgresStorage, admin: Admin
) -> None:
    table = await _held_up_at_commit(proxied, admin)
    await admin.execute("SELECT pg_advisory_lock(7)")

    async def write() -> None:
        async with proxied.transaction() as tx:
            await tx.sql.execute(f"INSERT INTO {table} VALUES (1)")

    writing = asyncio.create_task(write(), name="write:1")
    await _waiting_for_lock(admin)
    writing.cancel()
    await admin.execute("SELECT pg_advisory_unlock(7)")
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await admin.fetchval(f"SELECT count(*) FROM {table}") == 1
    assert proxied.pools.idle() == proxied.pools.size()


async def test_a_commit_that_the_server_refuses_is_known_to_be_rolled_back(
    storage: PostgresStorage,
) -> None:
    table = await make_table(storage, "n bigint UNIQUE DEFERRABLE INITIALLY DEFERRED")
    with pytest.raises(StorageError) as caught:
        async with storage.transaction() as tx:
            await tx.sql.execute(f"INSERT INTO {table} VALUES (1), (1)")
    assert not isinstance(caught.value, CommitUnknownError)
    assert "23505" in caught.value.why


async def test_a_warning_in_commit_is_no_confirmation(
    storage: PostgresStorage, admin: Admin
) -> None:
    """What a cancelled wait for a synchronous standby looks like: WARNING 01000, tag COMMIT."""
    table = await make_table(storage, "n bigint")
    function = unique("warn")
    await admin.execute(
        f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE WARNING 'not replicated'; RETURN NULL; END $$;"
        f"CREATE CONSTRAINT TRIGGER late AFTER INSERT ON {table} INITIALLY DEFERRED"
        f" FOR EACH ROW EXECUTE FUNCTION {function}()"
    )
    with pytest.raises(CommitUnknownError) as caught:
        async with storage.transaction() as tx:
            await tx.sql.execute(f"INSERT INTO {table} VALUES (1)")
    assert await caught.value.resolve() == "committed"


async def test_on_another_server_an_old_transaction_is_unknown(
    proxied: PostgresStorage, proxy: FaultProxy
) -> None:
    proxy.rule(toward="client", when=commit_reply, do=Cut())
    with pytest.raises(CommitUnknownError) as caught:
        await _publish(proxied, some_message(key="k"))
    proxied.pools.server = ("a restored copy", "00000002")
    assert await caught.value.resolve() == "unknown"


async def test_a_failure_of_the_driver_outside_our_statements_is_found_at_commit(
    storage: PostgresStorage,
) -> None:
    """The application took the connection, swallowed an error, and left: nothing is kept."""
    table = await make_table(storage, "n bigint")
    session = Session(storage.pools, storage.config.schema)
    connection = await session.raw()
    await connection.execute(f"INSERT INTO {table} VALUES (1)")
    with pytest.raises(Exception, match="does not exist"):
        await connection.execute("SELECT * FROM there_is_no_such_table")
    session.fate = Fate(xid=1)  # no further statement
    with pytest.raises(StorageError) as caught:
        await commit(session, lambda work: None)
    assert caught.value.code == "EB5004"


async def _held_up_at_commit(storage: PostgresStorage, admin: Admin) -> str:
    """A table whose inserts wait in COMMIT for the advisory lock 7."""
    table = await make_table(storage, "n bigint")
    function = unique("hold")
    await admin.execute(
        f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NULL; END $$;"
        f"CREATE CONSTRAINT TRIGGER late AFTER INSERT ON {table} INITIALLY DEFERRED"
        f" FOR EACH ROW EXECUTE FUNCTION {function}()"
    )
    return table


async def _waiting_for_lock(admin: Admin) -> None:
    async with asyncio.timeout(30):
        while not await admin.fetchval(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ):
            pass
