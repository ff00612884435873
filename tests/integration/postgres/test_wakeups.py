"""Hints between tasks, and between processes: told in time, never needed (S3)."""

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from eventbus.postgres import PostgresConfig, PostgresStorage
from eventbus.postgres.wakeups import NOTIFY_EVERY_SECONDS
from eventbus.testing.conformance.samples import LONG, failed, some_message, unique

Admin = Any  # asyncpg's connection, whose stubs want a record class


async def _publish(storage: PostgresStorage) -> None:
    async with storage.transaction() as tx:
        await tx.outbox.add([some_message(key="k")])


async def _listening(*storages: PostgresStorage) -> None:
    async with asyncio.timeout(30):
        for storage in storages:
            await storage.wakeups.listening.wait()


async def _all_seen(storage: PostgresStorage) -> None:
    await storage.wait("outbox", at_most=timedelta())


async def test_a_commit_wakes_those_who_wait_in_this_process(storage: PostgresStorage) -> None:
    await _listening(storage)

    async def wait() -> None:
        await _all_seen(storage)
        await storage.wait("outbox", at_most=LONG)

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        for n in range(3):
            tasks.create_task(wait(), name=f"wait:{n}")
        await asyncio.sleep(0)
        await _publish(storage)


async def test_a_hint_between_read_and_wait_is_not_lost(storage: PostgresStorage) -> None:
    await _listening(storage)
    await _all_seen(storage)
    await _publish(storage)
    async with asyncio.timeout(30):
        await storage.wait("outbox", at_most=LONG)


async def test_a_wait_without_news_sleeps_it_out(storage: PostgresStorage) -> None:
    await _listening(storage)
    await _all_seen(storage)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await storage.wait("outbox", at_most=timedelta(milliseconds=30))
    assert loop.time() - began >= 0.029


async def test_another_storage_of_the_schema_is_told(storage: PostgresStorage) -> None:
    async with PostgresStorage(storage.config) as other:
        await _listening(storage, other)
        await _all_seen(other)
        await _publish(storage)
        async with asyncio.timeout(30):
            await other.wait("outbox", at_most=LONG)


async def test_another_schema_is_not_told(storage: PostgresStorage, server: str) -> None:
    config = PostgresConfig(dsn=server, schema=unique("other"))
    await PostgresStorage(config).upgrade()
    async with PostgresStorage(config) as other, PostgresStorage(storage.config) as same:
        await _listening(storage, other, same)
        await _all_seen(other)
        await _all_seen(same)
        hints = other.wakeups._hints["outbox"]
        await _publish(storage)
        async with asyncio.timeout(30):
            await same.wait("outbox", at_most=LONG)
        assert other.wakeups._hints["outbox"] == hints


async def test_many_commits_are_few_notifications(storage: PostgresStorage) -> None:
    async with PostgresStorage(storage.config) as other:
        await _listening(storage, other)
        before = other.wakeups._hints["outbox"]
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(100):
            await _publish(storage)
        spent = loop.time() - began
        await asyncio.sleep(3 * NOTIFY_EVERY_SECONDS)
        told = other.wakeups._hints["outbox"] - before
    assert 1 <= told <= spent / NOTIFY_EVERY_SECONDS + 3


async def test_our_own_notification_wakes_us_only_once(storage: PostgresStorage) -> None:
    async with PostgresStorage(storage.config) as other:
        await _listening(storage, other)
        await _all_seen(other)
        before = storage.wakeups._hints["outbox"]
        await _publish(storage)
        async with asyncio.timeout(30):
            await other.wait("outbox", at_most=LONG)  # it was told, so we would have heard it too
        assert storage.wakeups._hints["outbox"] == before + 1


async def test_parked_rows_and_verbs_of_operators_wake_too(storage: PostgresStorage) -> None:
    from eventbus.inspection import Selection

    await _listening(storage)
    await storage.wait("parked", at_most=timedelta())
    async with storage.transaction() as tx:
        await tx.parking.park([failed(some_message(key="k"), delay=None)], group="g")
    async with asyncio.timeout(30):
        await storage.wait("parked", at_most=LONG)
    what = Selection(place="dead-letter", group="g")
    assert await storage.inspection.change("redrive", what, actor="ops") == 1
    async with asyncio.timeout(30):
        await storage.wait("parked", at_most=LONG)


async def test_a_listener_that_was_killed_comes_back_and_says_there_may_be_work(
    storage: PostgresStorage, admin: Admin
) -> None:
    await _listening(storage)
    await _all_seen(storage)
    killed = await admin.fetchval(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
        " WHERE application_name LIKE '%/listen' AND datname = current_database()"
    )
    assert killed == 1
    async with asyncio.timeout(30):
        await storage.wait("outbox", at_most=LONG)
    await _listening(storage)


async def test_a_notifier_that_meets_what_nobody_foresaw_begins_again(
    storage: PostgresStorage,
    server: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with PostgresStorage(PostgresConfig(dsn=server, schema=storage.config.schema)) as other:
        await _listening(storage, other)
        await _publish(other)  # its notifier is there
        async with asyncio.timeout(30):
            await storage.wait("outbox", at_most=LONG)
        failed_once = asyncio.Event()
        execute = asyncpg.Connection.execute

        async def fails_once(self: Any, query: str, *args: Any, **more: Any) -> str:
            if query.startswith("NOTIFY") and not failed_once.is_set():
                failed_once.set()
                raise RuntimeError("the driver's state is not what it thought")
            return await execute(self, query, *args, **more)

        monkeypatch.setattr(asyncpg.Connection, "execute", fails_once)
        await _publish(other)
        async with asyncio.timeout(30):
            await failed_once.wait()
            await _publish(other)
            await storage.wait("outbox", at_most=LONG)
    assert "polling goes on" in caplog.text


async def test_left_while_its_notifier_connects_nothing_stays_behind(
    storage: PostgresStorage, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_go_on = asyncio.Event(), asyncio.Event()
    made: list[Any] = []
    connect = asyncpg.connect

    async def slow(**options: Any) -> Any:
        begun.set()
        await may_go_on.wait()  # cancelled here, the driver would leave a future without an owner
        made.append(await connect(**options))
        return made[-1]

    monkeypatch.setattr(asyncpg, "connect", slow)
    other = PostgresStorage(PostgresConfig(dsn=server, schema=storage.config.schema))
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        async with other:
            await begun.wait()
            tasks.create_task(_go_on_once_stopped(other, may_go_on), name="lets-it-connect")
    assert len(made) == 2, "listener and notifier"
    assert all(connection.is_closed() for connection in made)


async def _go_on_once_stopped(storage: PostgresStorage, may_go_on: asyncio.Event) -> None:
    await storage.wakeups._stopping.wait()  # in the same turn its tasks are cancelled
    may_go_on.set()


def test_who_is_entered_in_one_loop_after_another_is_heard_in_each(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = PostgresConfig(dsn=postgres_url, service="loops")
    storage = PostgresStorage(config)

    async def quiet() -> None:
        async with storage:
            await _listening(storage)

    async def heard() -> None:
        async with storage, PostgresStorage(config) as other:
            await _listening(storage, other)
            await _all_seen(other)
            await _publish(storage)
            async with asyncio.timeout(30):
                await other.wait("outbox", at_most=LONG)

    asyncio.run(storage.upgrade())
    for work in (quiet, heard, heard):
        asyncio.run(work())
    assert "wake-ups from other processes pause" not in caplog.text
