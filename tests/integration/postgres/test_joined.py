"""The caller's own transaction: never committed, never rolled back, our rows in it, and last."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from eventbus.errors import EventBusError, StorageError, UnsafeConfigurationError
from eventbus.message import Message
from eventbus.postgres import PostgresStorage
from eventbus.testing.conformance.samples import (
    LONG,
    some_message,
    some_messages,
    take_partitions,
    unique,
)

Admin = Any  # asyncpg's connection, whose stubs want a record class


class Base(DeclarativeBase): ...


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    written: Mapped[str | None]


@pytest.fixture
async def engine(server: str, schema: str) -> AsyncIterator[AsyncEngine]:
    url = server.replace("postgresql://", "postgresql+asyncpg://", 1)
    engine = create_async_engine(url, connect_args={"server_settings": {"search_path": schema}})
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


async def _outbox(storage: PostgresStorage) -> list[Message]:
    leases = await take_partitions(storage, owner=unique("owner"))
    async with storage.transaction() as tx:
        rows = await tx.outbox.read(leases, limit=500)
        await tx.leases.release(leases)
    return [row.message for row in rows]


async def test_rows_join_an_asyncpg_transaction_and_commit_with_it(
    storage: PostgresStorage, admin: Admin
) -> None:
    message, table = some_message(key="k"), unique("t")
    await admin.execute(f"CREATE TABLE {table} (n int)")
    async with admin.transaction():
        await admin.execute(f"INSERT INTO {table} VALUES (1)")
        async with storage.enlist(admin) as tx:
            assert tx.resource(asyncpg.Connection) is admin
            await tx.sql.execute(f"INSERT INTO {table} VALUES (2)")
            await tx.outbox.add([message])
        assert await _outbox(storage) == []
    assert await _outbox(storage) == [message]
    assert await admin.fetchval(f"SELECT count(*) FROM {table}") == 2


async def test_what_the_caller_rolls_back_was_never_there(
    storage: PostgresStorage, admin: Admin
) -> None:
    transaction = admin.transaction()
    await transaction.start()
    async with storage.enlist(admin) as tx:
        await tx.outbox.add([some_message(key="k")])
    await transaction.rollback()
    assert await _outbox(storage) == []


async def test_a_savepoint_of_the_caller_takes_our_rows_with_it(
    storage: PostgresStorage, admin: Admin
) -> None:
    kept, lost = some_messages(2, key="k")
    async with admin.transaction():
        async with storage.enlist(admin) as tx:
            await tx.outbox.add([kept])
        with pytest.raises(LookupError):
            async with admin.transaction():
                async with storage.enlist(admin) as tx:
                    await tx.outbox.add([lost])
                raise LookupError
    assert await _outbox(storage) == [kept]


async def test_an_error_in_our_block_leaves_the_transaction_to_the_caller(
    storage: PostgresStorage, admin: Admin
) -> None:
    async with admin.transaction():
        with pytest.raises(LookupError):
            async with storage.enlist(admin) as tx:
                async with tx.savepoint():
                    await tx.sql.execute("CREATE TEMP TABLE kept (n int)")
                await tx.outbox.add([some_message(key="k")])
                raise LookupError
        assert admin.is_in_transaction()
        assert await admin.fetchval("SELECT count(*) FROM kept") == 0
    assert await _outbox(storage) == []


async def test_a_caller_that_dies_before_its_commit_leaves_neither_row_nor_event(
    storage: PostgresStorage, server: str, admin: Admin
) -> None:
    table = unique("t")
    await admin.execute(f"CREATE TABLE {table} (n int)")
    caller = await asyncpg.connect(server, timeout=10, command_timeout=10)
    await caller.execute("BEGIN")
    await caller.execute(f"INSERT INTO {table} VALUES (1)")
    async with storage.enlist(caller) as tx:
        await tx.outbox.add([some_message(key="k")])
    await admin.execute("SELECT pg_terminate_backend($1, 5000)", caller.get_server_pid())
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await caller.execute("COMMIT")
    assert await _outbox(storage) == []
    assert await admin.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_a_caller_that_swallows_our_error_cannot_commit_the_half(
    storage: PostgresStorage, admin: Admin
) -> None:
    table = unique("t")
    await admin.execute(f"CREATE TABLE {table} (n int)")
    transaction = admin.transaction()
    await transaction.start()
    await admin.execute(f"INSERT INTO {table} VALUES (1)")
    with pytest.raises(StorageError):  # and the caller goes on as if nothing had happened
        async with storage.enlist(admin) as tx:
            await tx.outbox.add([some_message(key="k")])
            await tx.sql.execute("SELECT 1 / 0")
    await transaction.commit()  # the server makes a rollback of it
    assert await _outbox(storage) == []
    assert await admin.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_savepoints_in_a_joined_transaction_undo_their_part_alone(
    storage: PostgresStorage, admin: Admin
) -> None:
    first, second = some_messages(2, key="k")
    async with admin.transaction():
        async with storage.enlist(admin) as tx:
            with pytest.raises(LookupError):
                async with tx.savepoint():
                    await tx.sql.execute("SELECT 1")
                    await tx.outbox.add([first])
                    raise LookupError
            async with tx.savepoint():
                await tx.sql.execute("SELECT 1")
                await tx.outbox.add([second])
        async with admin.transaction():  # ours is released: the caller's own go on as before
            await admin.execute("SELECT 1")
    assert await _outbox(storage) == [second]


async def test_what_is_in_no_transaction_is_refused(storage: PostgresStorage, admin: Admin) -> None:
    with pytest.raises(UnsafeConfigurationError) as caught:
        async with storage.enlist(admin):
            pass
    assert caught.value.code == "EB5008"


async def test_an_autocommit_connection_is_refused(
    storage: PostgresStorage, engine: AsyncEngine
) -> None:
    committing = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with committing.connect() as connection:
        with pytest.raises(UnsafeConfigurationError) as caught:
            async with storage.enlist(connection):
                pass
    assert caught.value.code == "EB5008"


async def test_another_driver_is_refused(storage: PostgresStorage) -> None:
    with pytest.raises(EventBusError) as caught:
        async with storage.enlist(object()):
            pass
    assert caught.value.code == "EB5008"


async def test_a_joined_block_inside_a_transaction_of_ours_is_refused(
    storage: PostgresStorage, admin: Admin
) -> None:
    async with storage.transaction(), admin.transaction():
        with pytest.raises(StorageError) as caught:
            async with storage.enlist(admin):
                pass
    assert caught.value.code == "EB5002"


async def test_rows_join_an_async_connection(storage: PostgresStorage, engine: AsyncEngine) -> None:
    message = some_message(key="k")
    async with engine.begin() as connection:
        async with storage.enlist(connection) as tx:
            assert tx.resource(AsyncConnection) is connection
            await tx.outbox.add([message])
        assert await _outbox(storage) == []
    assert await _outbox(storage) == [message]


async def test_a_session_is_joined_before_its_first_statement(
    storage: PostgresStorage, engine: AsyncEngine
) -> None:
    message = some_message(key="k")
    async with AsyncSession(engine) as session, session.begin():
        async with storage.enlist(session) as tx:
            assert tx.resource(AsyncSession) is session
            await tx.outbox.add([message])
        assert await _outbox(storage) == []
    assert await _outbox(storage) == [message]


async def test_what_the_session_still_holds_is_written_before_our_rows(
    storage: PostgresStorage, engine: AsyncEngine, admin: Admin
) -> None:
    """The outbox row must be the last: it tells whether the order's row was there before it."""
    name = storage.config.schema
    await admin.execute(
        f"CREATE FUNCTION {name}.told() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" UPDATE {name}.orders SET written = 'before'; RETURN NEW; END $$;"
        f"CREATE TRIGGER told BEFORE INSERT ON {name}.outbox"
        f" FOR EACH ROW EXECUTE FUNCTION {name}.told()"
    )
    async with AsyncSession(engine) as session, session.begin():
        async with storage.enlist(session) as tx:
            session.add(Order(id=1))
            await tx.outbox.add([some_message(key="k")])
    assert await admin.fetchval(f"SELECT written FROM {name}.orders") == "before"


async def test_a_nested_session_that_is_rolled_back_takes_our_rows_with_it(
    storage: PostgresStorage, engine: AsyncEngine
) -> None:
    kept, lost = some_messages(2, key="k")
    async with AsyncSession(engine) as session, session.begin():
        with pytest.raises(LookupError):
            async with session.begin_nested():
                async with storage.enlist(session) as tx:
                    session.add(Order(id=1))
                    await tx.outbox.add([lost])
                raise LookupError
        async with storage.enlist(session) as tx:
            await tx.outbox.add([kept])
        assert (await session.execute(text("SELECT count(*) FROM orders"))).scalar() == 0
    assert await _outbox(storage) == [kept]


async def test_a_session_that_is_rolled_back_leaves_nothing(
    storage: PostgresStorage, engine: AsyncEngine
) -> None:
    async with AsyncSession(engine) as session:
        async with storage.enlist(session) as tx:
            session.add(Order(id=1))
            await tx.outbox.add([some_message(key="k")])
        await session.rollback()
        assert (await session.execute(text("SELECT count(*) FROM orders"))).scalar() == 0
    assert await _outbox(storage) == []


async def test_the_hint_comes_with_the_sessions_commit_and_not_before(
    storage: PostgresStorage, engine: AsyncEngine
) -> None:
    hinted = asyncio.Event()

    async def wait() -> None:
        await storage.wait("outbox", at_most=LONG)
        hinted.set()

    async with AsyncSession(engine) as session:
        await session.begin()
        async with session.begin_nested():
            async with storage.enlist(session) as tx:
                await tx.outbox.add([some_message(key="k")])
        waiting = asyncio.create_task(_after_news(storage, wait), name="wait:1")
        await asyncio.sleep(0)
        assert not hinted.is_set(), "a released savepoint is no commit"
        await session.commit()
        async with asyncio.timeout(30):
            await waiting
    assert hinted.is_set()


async def test_the_hint_of_an_asyncpg_caller_comes_again_after_its_commit(
    storage: PostgresStorage, admin: Admin
) -> None:
    async with admin.transaction():
        async with storage.enlist(admin) as tx:
            await tx.outbox.add([some_message(key="k")])
    async with asyncio.timeout(30):
        await storage.wait("outbox", at_most=LONG)  # on leaving
        await storage.wait("outbox", at_most=LONG)  # 50 ms later
    assert len(await _outbox(storage)) == 1


async def _after_news(storage: PostgresStorage, wait: Any) -> None:
    """Wait for the next hint: what this task has not seen counts as news once."""
    await storage.wait("outbox", at_most=LONG * 0)
    await wait()
