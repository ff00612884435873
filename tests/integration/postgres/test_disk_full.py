"""Rows 24 and 25: no space left for tables, and none for the log of the server."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from eventbus import Context, Event, EventBus, Group, subscribe
from eventbus.errors import StorageError
from eventbus.postgres import PostgresConfig, PostgresStorage
from eventbus.testing.conformance.samples import make_table, numbers, take_partitions, unique
from eventbus.testing.services import PostgresServer, ServiceMissingError, private_postgres
from tests.integration.postgres.book import Book

WAITING = timedelta(milliseconds=20)


@pytest.fixture
async def own() -> AsyncIterator[PostgresServer]:
    try:
        async with private_postgres({"min_wal_size": "32MB"}) as server:
            yield server
    except ServiceMissingError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"capability native-postgres: {' '.join(str(error).split())}")


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    """A file system in memory; not every sandbox lets us mount one."""
    place.mkdir()
    size = f"size={megabytes}m,mode=0777"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        pytest.skip(f"capability mount: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, timeout=30)


def grow(place: Path, megabytes: int) -> None:
    """Make room."""
    mount = ["mount", "-o", f"remount,size={megabytes}m", str(place)]
    subprocess.run(mount, check=True, timeout=30)


def owned(place: Path) -> Path:
    """A folder there that the server may write, whoever we are."""
    folder = place / "postgres"
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    return folder


async def until(fact: Callable[[], Awaitable[bool]], storage: PostgresStorage) -> None:
    async with asyncio.timeout(90):
        while not await fact():
            await storage.wait("timers", at_most=WAITING)


class Filled(Event, type="disk.filled", key="name"):
    name: str


@subscribe(Filled, group=Group("keeping", lanes=1, batch_messages=1))
async def keep(event: Filled, ctx: Context) -> None:
    await ctx.sql.execute("INSERT INTO kept VALUES ($1, $2)", event.name, "x" * 200_000)


async def test_without_space_for_tables_nothing_half_is_kept_and_work_waits(
    own: PostgresServer,
) -> None:
    with small_disk(own.directory / "disk", 48) as disk:
        url = await database_on(own.url, owned(disk))
        storage = PostgresStorage(PostgresConfig(dsn=url))
        await storage.upgrade()
        bus = EventBus("memory://", storage=storage, handlers=[keep], service="disk")
        async with bus.client():
            async with bus.transaction() as tx:
                for table in ("written", "kept"):
                    await tx.sql.execute(f"CREATE TABLE {table} (name text, text text)")
                    await tx.sql.execute(f"ALTER TABLE {table} ALTER text SET STORAGE EXTERNAL")
            told = await published_until_full(bus)
            assert storage.trouble is not None
            assert await names(url, "SELECT name FROM written") == told
            assert len(await names(url, "SELECT message_id FROM eventbus.outbox")) == len(told)
        async with bus:
            await until(lambda: in_trouble(storage), storage)
            await names(url, "DROP TABLE filler")
            await until(lambda: all_kept(url, told), storage)
            await bus.until_idle()
            assert storage.trouble is None
            assert await names(url, "SELECT name FROM kept") == told, "once each"
            assert await bus.parked.list() == []
            assert await bus.dead_letters.list() == []
        await names(own.url, "DROP DATABASE small WITH (FORCE)")
        await names(own.url, "DROP TABLESPACE small")


async def database_on(url: str, folder: Path) -> str:
    """A database of its own there, half full with what can go."""
    await names(url, f"CREATE TABLESPACE small LOCATION '{folder}'")
    await names(url, "CREATE DATABASE small TABLESPACE small")
    there = url.removesuffix("/postgres") + "/small"
    await names(
        there, "CREATE TABLE filler AS SELECT repeat('x', 2000) FROM generate_series(1, 9000)"
    )
    return there


async def published_until_full(bus: EventBus) -> list[str]:
    told: list[str] = []
    with pytest.raises(StorageError) as caught:
        while True:
            name = f"n{len(told):03}"
            async with bus.transaction() as tx:
                await tx.sql.execute("INSERT INTO written VALUES ($1, $2)", name, "x" * 500_000)
                await tx.publish(Filled(name=name))
            told.append(name)
    assert caught.value.code == "EB5006"
    return told


async def in_trouble(storage: PostgresStorage) -> bool:
    return storage.trouble is not None and "full" in storage.trouble


async def all_kept(url: str, told: list[str]) -> bool:
    return len(await names(url, "SELECT name FROM kept")) >= len(told)


async def names(url: str, statement: str) -> list[str]:
    """The first column, in order."""
    connection = await asyncpg.connect(url, timeout=10, command_timeout=30)
    try:
        return sorted(row[0] for row in await connection.fetch(statement))
    finally:
        await connection.close(timeout=30)


async def test_without_space_for_its_log_the_server_crashes_and_nothing_committed_is_lost(
    own: PostgresServer,
) -> None:
    config = PostgresConfig(dsn=own.url)
    await PostgresStorage(config).upgrade()
    await own.stop()
    with small_disk(own.directory / "wal", 64) as disk:
        log = own.directory / "data" / "pg_wal"
        moved = owned(disk) / "pg_wal"
        shutil.move(log, moved)
        log.symlink_to(moved)
        if os.geteuid() == 0:
            for place in (moved, *moved.rglob("*")):
                shutil.chown(place, "postgres", "postgres")
        await own.start()
        await crashed_and_back(own, config, disk)
        await own.stop("immediate")


async def crashed_and_back(own: PostgresServer, config: PostgresConfig, disk: Path) -> None:
    book = Book()
    async with PostgresStorage(config) as storage:
        table = await make_table(storage, "n bigint")

        async def has_written(more: int) -> bool:
            return len(book.committed) >= more

        async with asyncio.timeout(200), asyncio.TaskGroup() as tasks:
            for first in range(0, 4_000_000, 1_000_000):
                tasks.create_task(book.write(storage, table, first), name=f"write:{first}")
            await until(lambda: has_written(50), storage)
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                await names(own.url, "CREATE TABLE flood AS " + FLOOD)
            assert "PANIC" in (own.directory / "log").read_text(errors="replace")
            grow(disk, 512)
            await own.stop("immediate")
            await own.start()
            before = len(book.committed)
            await until(lambda: has_written(before + 20), storage)
            book.stop.set()
        rows = [int(n) for n in await names(own.url, f"SELECT n::text FROM {table}")]
        leases = await take_partitions(storage, owner=unique("owner"))
        async with storage.transaction() as tx:
            messages = numbers(await tx.outbox.read(leases, limit=11_000))
    assert set(rows) == book.committed
    assert len(rows) == len(set(rows))
    assert sorted(messages) == sorted(rows), "a row and its message, or neither"


FLOOD = "SELECT repeat(md5(n::text), 60) FROM generate_series(1, 100000) n"
