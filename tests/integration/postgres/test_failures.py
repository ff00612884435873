"""What can go wrong between a transaction and its server: a clear error, and a whole pool."""

import asyncio
import gc
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from eventbus.errors import MigrationError, StorageError, UnsafeConfigurationError
from eventbus.postgres import PostgresConfig, PostgresStorage
from eventbus.postgres.pools import Pools
from eventbus.storage import Transaction
from eventbus.testing.conformance.samples import (
    LONG,
    failed,
    make_table,
    some_message,
    take,
    unique,
)
from tests.faults.proxy import Blackhole, Delay, FaultProxy, every

Admin = Any  # asyncpg's connection, whose stubs want a record class


def whole(storage: PostgresStorage) -> bool:
    return storage.pools.idle() == storage.pools.size()


async def _use(storage: PostgresStorage) -> None:
    async with storage.transaction() as tx:
        assert (await tx.sql.fetch("SELECT 1 AS n"))[0]["n"] == 1


async def test_cancelled_in_mid_statement_its_locks_go_soon(
    storage: PostgresStorage, admin: Admin
) -> None:
    table = await make_table(storage, "n bigint")
    for n in range(3):
        task = asyncio.create_task(_sleep(storage, table, n), name="sleep:1")
        await _running(admin, "pg_sleep(30)")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert whole(storage)
    async with asyncio.timeout(20):  # far below the 30 s that the statements would take
        await admin.execute(f"DROP TABLE {table}")


async def test_cancelled_while_all_connections_are_taken_nothing_is_lost(
    server: str, schema: str
) -> None:
    config = PostgresConfig(dsn=server, schema=schema, pool=1, acquire_seconds=1)
    await PostgresStorage(config).upgrade()
    async with PostgresStorage(config) as storage:
        ends, holds = asyncio.Event(), asyncio.Event()
        holder = asyncio.create_task(_hold(storage, holds, ends), name="hold:1")
        await holds.wait()
        waiting = asyncio.create_task(_use(storage), name="use:1")
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(StorageError) as caught:
            await _use(storage)
        assert caught.value.code == "EB5007"
        assert caught.value.what == "all 1 connections of the pool are taken"
        assert "within 1 s" in caught.value.why
        assert "?pool=" in caught.value.next
        ends.set()
        await holder
        await _use(storage)
        assert whole(storage)


async def test_cancelled_while_it_connects_the_driver_leaves_no_error_that_nobody_asked_for() -> (
    None
):
    """At every turn of the loop: it is the turn between two steps of the driver that counts."""
    left: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(str(context)))

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        for turns in range(100):
            pools = Pools(PostgresConfig(dsn=f"postgresql://postgres@127.0.0.1:{port}/postgres"))
            acquiring = asyncio.create_task(pools.acquire("work"), name=f"acquire:{turns}")
            for _ in range(turns):
                await asyncio.sleep(0)
            acquiring.cancel()
            await asyncio.wait([acquiring])
            if not acquiring.cancelled():
                assert isinstance(acquiring.exception(), StorageError)
            await pools.close()
    gc.collect()
    assert left == []


async def test_a_connection_that_ended_in_between_is_not_told_in_the_words_of_the_driver(
    storage: PostgresStorage, admin: Admin
) -> None:
    with pytest.raises(StorageError) as caught:
        async with storage.transaction() as tx:
            await tx.sql.fetch("SELECT 1")
            connection, ended = tx.resource(asyncpg.Connection), asyncio.Event()
            connection.add_termination_listener(lambda _: ended.set())
            await admin.execute(f"SELECT pg_terminate_backend({connection.get_server_pid()})")
            async with asyncio.timeout(60):
                await ended.wait()
            await tx.sql.fetch("SELECT 2")
    assert caught.value.code == "EB5001"
    assert caught.value.why == "the connection ended in between; the server's log says why"
    assert whole(storage)


STEPS = ["begin", "receive", "savepoint", "handler", "park", "flush"]


@pytest.mark.parametrize("step", STEPS)
async def test_terminated_between_two_statements_nothing_is_kept_and_the_next_one_works(
    storage: PostgresStorage, admin: Admin, step: str
) -> None:
    table = await make_table(storage, "n bigint")
    group, message = unique("group"), some_message(key="k")

    async def cut_before(here: str, tx: Transaction) -> None:
        if here == step:
            pid = tx.resource(asyncpg.Connection).get_server_pid()
            await admin.execute("SELECT pg_terminate_backend($1, 5000)", pid)

    with pytest.raises(StorageError) as caught:
        async with storage.transaction() as tx:
            await tx.sql.fetch("SELECT 1")
            await cut_before("begin", tx)
            await tx.inbox.receive([message], keys=["k"], group=group)
            await cut_before("receive", tx)
            async with tx.savepoint():
                await tx.sql.execute(f"INSERT INTO {table} VALUES (1)")
                await cut_before("savepoint", tx)
                await tx.sql.execute(f"INSERT INTO {table} VALUES (2)")
            await cut_before("handler", tx)
            await tx.parking.park([failed(some_message(key="q"))], group=group)
            await cut_before("park", tx)
            await tx.outbox.add([some_message(key="k")])
            await tx.sql.execute(f"INSERT INTO {table} VALUES (3)")
            await cut_before("flush", tx)
    assert caught.value.code in {"EB5001", "EB5004"}
    assert whole(storage)
    async with storage.transaction() as tx:
        found = await tx.inbox.receive([message], keys=["k"], group=group)
        assert found.new == {message.identity}
        assert await tx.sql.fetch(f"SELECT * FROM {table}") == []
        assert await tx.parking.keys(group=group, limit=9) == frozenset()
    assert storage.trouble is None


async def test_two_that_wait_for_each_other_the_loser_is_told_to_run_again(
    storage: PostgresStorage,
) -> None:
    table = await make_table(storage, "n bigint PRIMARY KEY, v bigint")
    async with storage.transaction() as tx:
        await tx.sql.execute(f"INSERT INTO {table} VALUES (1, 0), (2, 0)")
    both = asyncio.Barrier(2)

    async def add(first: int, second: int) -> None:
        async with storage.transaction() as tx:
            await tx.sql.execute(f"UPDATE {table} SET v = v + 1 WHERE n = $1", first)
            await both.wait()
            await tx.sql.execute(f"UPDATE {table} SET v = v + 1 WHERE n = $1", second)

    results = await asyncio.gather(add(1, 2), add(2, 1), return_exceptions=True)
    errors = [one for one in results if one is not None]
    assert [getattr(error, "code", None) for error in errors] == ["EB5011"]
    assert whole(storage)


async def test_a_lock_that_takes_too_long_is_no_fault_of_the_message(
    storage: PostgresStorage, admin: Admin
) -> None:
    table = await make_table(storage, "n bigint")
    async with admin.transaction():
        await admin.execute(f"LOCK TABLE {table}")
        with pytest.raises(StorageError) as caught:
            async with storage.transaction() as tx:
                await tx.sql.execute("SET LOCAL lock_timeout = '50ms'")
                await tx.sql.execute(f"INSERT INTO {table} VALUES (1)")
    assert caught.value.code == "EB5007"
    assert whole(storage)


@pytest.mark.parametrize(
    ("state", "ours", "code"),
    [
        ("40001", True, "EB5011"),
        ("40P01", True, "EB5011"),
        ("55P03", True, "EB5007"),
        ("57014", True, "EB5007"),
        ("53100", True, "EB5006"),
        ("53300", True, "EB5001"),
        ("57P01", True, "EB5001"),
        ("08006", True, "EB5001"),
        ("25006", True, "EB5013"),
        ("42501", True, "EB5012"),
        ("42501", False, "EB5005"),
        ("42P01", True, "EB5302"),
        ("42P01", False, "EB5005"),
        ("22P02", False, "EB5009"),
        ("22021", True, "EB5009"),
        ("23502", True, "EB5009"),
        ("23505", False, "EB5005"),
        ("23514", False, "EB5005"),
    ],
)
async def test_what_the_server_reports_becomes_one_of_our_codes(
    storage: PostgresStorage, state: str, ours: bool, code: str
) -> None:
    """A statement that raises this SQLSTATE: the server's own, not a made-up exception."""
    raises = f"DO $$ BEGIN RAISE EXCEPTION 'as asked' USING ERRCODE = '{state}'; END $$"
    with pytest.raises(StorageError) as caught:
        async with storage.transaction() as tx:
            session = tx.session
            if ours:
                await session.execute(raises, where="a statement of ours")
            else:
                await tx.sql.execute(raises)
    assert caught.value.code == code
    assert state in caught.value.why
    assert "as asked" in caught.value.why
    assert (caught.value.what == "a constraint refuses the row") == (
        state.startswith("23") and code == "EB5005"
    )
    assert whole(storage)


async def test_no_connection_left_says_what_to_change(server: str, schema: str) -> None:
    role = unique("few")
    admin = await asyncpg.connect(server)
    try:
        await PostgresStorage(PostgresConfig(dsn=server, schema=schema)).upgrade()
        await admin.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0")
        await admin.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        with pytest.raises(StorageError) as caught:
            async with PostgresStorage(PostgresConfig(dsn=as_role(server, role), schema=schema)):
                pass
    finally:
        await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        admin.terminate()
    assert caught.value.code == "EB5001"
    assert "53300" in caught.value.why
    assert "runbooks, sizing" in caught.value.next


async def test_nobody_listens_there(schema: str, unused_tcp_port: int) -> None:
    config = PostgresConfig(dsn=f"postgresql://x@127.0.0.1:{unused_tcp_port}/x", schema=schema)
    storage = PostgresStorage(config)
    with pytest.raises(StorageError) as caught:
        async with storage:
            pass
    assert caught.value.code == "EB5001"
    assert storage.trouble is not None
    assert storage.pools.size() == 0


async def test_a_setting_that_nobody_knows_is_no_outage(server: str, schema: str) -> None:
    config = PostgresConfig(dsn=f"{server}?shcema=shop", schema=schema)
    with pytest.raises(StorageError) as caught:
        async with PostgresStorage(config):
            pass
    assert (caught.value.code, caught.value.what) == (
        "EB5001",
        "the database knows no such setting",
    )
    assert "shcema" in caught.value.why
    assert "schema, pool, pgbouncer and idle" in caught.value.next


async def test_a_schema_that_is_not_there_names_the_command(server: str, schema: str) -> None:
    with pytest.raises(MigrationError) as caught:
        async with PostgresStorage(PostgresConfig(dsn=server, schema=schema)):
            pass
    assert caught.value.code == "EB5302"
    assert caught.value.next == f"eventbus db upgrade --storage '{server}?schema={schema}'"


async def test_a_schema_of_a_newer_version_is_refused(
    server: str, schema: str, admin: Admin
) -> None:
    config = PostgresConfig(dsn=server, schema=schema)
    await PostgresStorage(config).upgrade()
    await admin.execute(
        f"INSERT INTO {schema}.migrations (number, name, kind, digest)"
        " VALUES (9999, 'later', 'expand', 'x')"
    )
    for action in (PostgresStorage(config).upgrade, PostgresStorage(config).__aenter__):
        with pytest.raises(MigrationError) as caught:
            await action()
        assert caught.value.code == "EB5301"


async def test_a_history_that_is_not_ours_is_refused_and_never_repaired(
    server: str, schema: str, admin: Admin
) -> None:
    config = PostgresConfig(dsn=server, schema=schema)
    await PostgresStorage(config).upgrade()
    await admin.execute(f"UPDATE {schema}.migrations SET digest = 'edited'")
    with pytest.raises(MigrationError) as caught:
        await PostgresStorage(config).upgrade()
    assert caught.value.code == "EB5302"
    assert await admin.fetchval(f"SELECT digest FROM {schema}.migrations") == "edited"


async def test_two_upgrades_at_once_wait_for_each_other(server: str, schema: str) -> None:
    config = PostgresConfig(dsn=server, schema=schema)
    await asyncio.gather(*(PostgresStorage(config).upgrade() for _ in range(4)))
    async with PostgresStorage(config) as storage:
        await _use(storage)


async def test_a_role_without_rights_is_told_which(server: str, schema: str, admin: Admin) -> None:
    role = unique("poor")
    await PostgresStorage(PostgresConfig(dsn=server, schema=schema)).upgrade()
    await admin.execute(f"CREATE ROLE {role} LOGIN")
    poor = PostgresConfig(dsn=as_role(server, role), schema=schema)
    try:
        with pytest.raises(StorageError) as outside:
            async with PostgresStorage(poor):
                pass
        await admin.execute(
            f"GRANT USAGE ON SCHEMA {schema} TO {role};"
            f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}"
        )
        with pytest.raises(StorageError) as inside:
            async with PostgresStorage(poor) as storage:
                await take(storage, "name")
        with pytest.raises(StorageError) as making:
            await PostgresStorage(replace(poor, schema=unique("new"))).upgrade()
    finally:
        await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert outside.value.code == inside.value.code == making.value.code == "EB5012"
    assert "USAGE on the schema" in outside.value.next
    assert "db upgrade --sql" in making.value.next


async def test_a_role_with_these_rights_needs_no_others(
    server: str, schema: str, admin: Admin
) -> None:
    role = unique("worker")
    await PostgresStorage(PostgresConfig(dsn=server, schema=schema)).upgrade()
    await admin.execute(
        f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}"
    )
    group, message = unique("group"), some_message(key="k")
    try:
        async with PostgresStorage(
            PostgresConfig(dsn=as_role(server, role), schema=schema)
        ) as storage:
            lease = await take(storage, f"parked/{group}")
            async with storage.transaction() as tx:
                await tx.inbox.receive([message], keys=["k"], group=group)
                await tx.inbox.count([message], group=group)
                await tx.outbox.add([message], delay=LONG)
                await tx.parking.park([failed(message)], group=group, lease=lease)
            assert await storage.inspection.verify() == []
            await storage.examine()
    finally:
        await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_a_role_that_may_only_read_is_refused(
    server: str, schema: str, storage: PostgresStorage, admin: Admin
) -> None:
    role = f"reader_{schema}"
    await admin.execute(f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role}")
    await admin.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
    try:
        with pytest.raises(StorageError) as caught:
            async with PostgresStorage(PostgresConfig(dsn=as_role(server, role), schema=schema)):
                pass
    finally:
        await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert (caught.value.code, caught.value.where[:13]) == ("EB5013", "postgresql://")
    assert "default_transaction_read_only" in caught.value.why


async def test_a_joined_transaction_that_may_only_read_says_so(
    storage: PostgresStorage, admin: Admin
) -> None:
    with pytest.raises(StorageError) as caught:
        async with admin.transaction(readonly=True), storage.enlist(admin) as tx:
            await tx.outbox.add([some_message()])
    assert caught.value.code == "EB5013"


@pytest.mark.parametrize("level", ["repeatable_read", "serializable"])
async def test_above_read_committed_outbox_rows_join_and_the_inbox_refuses(
    storage: PostgresStorage, admin: Admin, level: Any
) -> None:
    message = some_message(key="k")
    async with admin.transaction(isolation=level):
        async with storage.enlist(admin) as tx:
            await tx.outbox.add([message])
            with pytest.raises(UnsafeConfigurationError) as caught:
                await tx.inbox.receive([message], keys=["k"], group="g")
            assert caught.value.code == "EB5008"
    assert await admin.fetchval(f"SELECT count(*) FROM {storage.config.schema}.outbox") == 1


async def test_a_server_that_says_nothing_is_left_at_the_deadline(
    server: str, schema: str, proxied_url: str, proxy: FaultProxy
) -> None:
    await PostgresStorage(PostgresConfig(dsn=server, schema=schema)).upgrade()
    config = PostgresConfig(dsn=proxied_url, schema=schema, command_seconds=1)
    async with PostgresStorage(config) as storage:
        await _use(storage)
        proxy.rule(toward="server", when=every(), do=Blackhole(), times=10_000)
        with pytest.raises(StorageError) as caught:
            async with asyncio.timeout(8):  # less than statements are waited for if nobody says so
                await _use(storage)
        assert caught.value.code == "EB5007"
        assert storage.trouble is not None
        proxy.heal()
        await _use(storage)
        assert storage.trouble is None
        assert whole(storage)


async def test_a_slow_link_is_only_slow(proxied: PostgresStorage, proxy: FaultProxy) -> None:
    proxy.rule(toward="client", when=every(), do=Delay(0.002, 0.004), times=10_000)
    for _ in range(5):
        await _use(proxied)
    assert len(proxy.hits) > 10
    assert whole(proxied)


async def test_a_flapping_link_leaves_the_pool_whole(
    proxied: PostgresStorage, proxy: FaultProxy
) -> None:
    async def work() -> None:
        for _ in range(40):
            with suppress(StorageError):
                await _use(proxied)

    async def flap() -> None:
        for _ in range(20):
            proxy.cut_all()
            await proxied.wait("timers", at_most=timedelta(milliseconds=5))

    await asyncio.gather(*(work() for _ in range(8)), flap())
    await _use(proxied)
    assert whole(proxied)
    assert proxied.trouble is None


def as_role(url: str, role: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}@{host}"))


async def _sleep(storage: PostgresStorage, table: str, n: int) -> None:
    async with storage.transaction() as tx:
        await tx.sql.execute(f"INSERT INTO {table} VALUES ($1)", n)
        await tx.sql.fetch("SELECT pg_sleep(30)")


async def _hold(storage: PostgresStorage, holds: asyncio.Event, ends: asyncio.Event) -> None:
    async with storage.transaction() as tx:
        await tx.sql.fetch("SELECT 1")
        holds.set()
        await ends.wait()


async def _running(admin: Admin, text: str) -> None:
    async with asyncio.timeout(30):
        while not await admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE state = 'active' AND pid <> pg_backend_pid()"
            " AND position($1 in query) > 0 AND datname = current_database()",
            text,
        ):
            pass
