"""Entering, leaving, finding: one bus per file, data that stays, URLs."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from eventbus.errors import ConfigurationError, MigrationError, StorageError
from eventbus.inspection import Inspected
from eventbus.sqlite import SqliteStorage, open_storage
from tests.unit.sqlite.helpers import notes, with_table


def test_it_is_an_inspected_storage() -> None:
    storage: Inspected = SqliteStorage()
    assert storage.capabilities.durable is False


async def test_a_second_bus_on_a_file_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "a.db")
    async with SqliteStorage(path) as first:
        with pytest.raises(StorageError) as raised:
            await SqliteStorage(path).__aenter__()
        assert raised.value.code == "EB5303"
        with pytest.raises(StorageError) as again:
            await first.__aenter__()
        assert again.value.code == "EB5303"
    async with SqliteStorage(path), SqliteStorage(str(tmp_path / "b.db")):
        pass


async def test_a_file_keeps_its_data(tmp_path: Path) -> None:
    async with with_table(tmp_path / "a.db") as storage, storage.transaction() as tx:
        await tx.sql.execute("INSERT INTO note VALUES ('kept')")
    async with with_table(tmp_path / "a.db") as storage:
        assert await notes(storage) == ["kept"]
        assert storage.capabilities.durable is True


def test_in_memory_the_data_outlives_the_loop() -> None:
    storage = SqliteStorage()

    async def write() -> None:
        async with storage, storage.transaction() as tx:
            await tx.sql.execute("CREATE TABLE note (text TEXT)")
            await tx.sql.execute("INSERT INTO note VALUES ('kept')")

    async def read() -> list[str]:
        async with storage:
            return await notes(storage)

    asyncio.run(write())
    assert asyncio.run(read()) == ["kept"]


def test_in_memory_what_a_lost_loop_left_open_is_rolled_back() -> None:
    storage = SqliteStorage()

    async def crash() -> None:
        await storage.__aenter__()
        async with storage.transaction() as tx:
            await tx.sql.execute("CREATE TABLE note (text TEXT)")
        lost = await storage.transaction().__aenter__()
        await lost.sql.execute("INSERT INTO note VALUES ('lost')")

    async def read() -> list[str]:
        async with storage:
            return await notes(storage)

    asyncio.run(crash())
    assert asyncio.run(read()) == []


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_in_memory_by_every_name_that_people_know(url: str) -> None:
    """As a file of that name each connection had a database of its own, and a lock was left."""
    storage = open_storage(url, "shop")
    assert storage.path is None
    assert not storage.capabilities.durable


async def test_closing_drops_the_data_in_memory() -> None:
    storage = SqliteStorage()
    async with storage, storage.transaction() as tx:
        await tx.sql.execute("CREATE TABLE note (text TEXT)")
    storage.close()
    async with storage:
        with pytest.raises(StorageError):
            await notes(storage)


async def test_outside_of_its_block_it_says_that_it_is_not_open() -> None:
    storage = SqliteStorage()
    assert storage.trouble is not None
    with pytest.raises(StorageError) as raised:
        storage.transaction()
    assert raised.value.code == "EB5010"


async def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with SqliteStorage(str(path)):
        pass
    tamper(path, "INSERT INTO eventbus_migrations VALUES (9999, 'later', 'expand', 'x', 0)")
    with pytest.raises(MigrationError) as raised:
        await SqliteStorage(str(path)).__aenter__()
    assert raised.value.code == "EB5301"


async def test_history_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with SqliteStorage(str(path)):
        pass
    tamper(path, "UPDATE eventbus_migrations SET digest = 'edited'")
    with pytest.raises(MigrationError) as raised:
        await SqliteStorage(str(path)).__aenter__()
    assert raised.value.code == "EB5302"


def tamper(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


async def test_upgrade_creates_the_schema_of_a_storage_that_is_not_entered(tmp_path: Path) -> None:
    storage = SqliteStorage(str(tmp_path / "a.db"))
    await storage.upgrade()
    async with SqliteStorage(str(tmp_path / "a.db"), inspect_only=True) as operators:
        assert await operators.inspection.verify() == []


@pytest.mark.parametrize("kind", ["missing directory", "file as directory", "directory", "text"])
async def test_what_is_no_database_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "text.db").write_text("no database, " * 1000)
    (tmp_path / "folder").mkdir()
    path = {
        "missing directory": tmp_path / "missing" / "a.db",
        "file as directory": tmp_path / "text.db" / "a.db",
        "directory": tmp_path / "folder",
        "text": tmp_path / "text.db",
    }[kind]
    for _ in range(2):  # the failure left no lock behind
        with pytest.raises(StorageError) as raised:
            await SqliteStorage(str(path)).__aenter__()
        assert raised.value.code == "EB5001"


async def test_an_operators_process_creates_and_upgrades_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with pytest.raises(StorageError) as raised:
        await SqliteStorage(str(path), inspect_only=True).__aenter__()
    assert raised.value.code == "EB5001"
    sqlite3.connect(path).close()
    path.touch()
    with pytest.raises(MigrationError) as older:
        await SqliteStorage(str(path), inspect_only=True).__aenter__()
    assert older.value.code == "EB5302"


async def test_a_url_names_a_file_or_none_and_nothing_else() -> None:
    assert open_storage("sqlite://", "shop").path is None
    assert open_storage("sqlite:///app.db", "shop").path == "app.db"
    assert open_storage("sqlite:////var/lib/app%20one.db", "shop").path == "/var/lib/app one.db"
    for url in ("sqlite://host/app.db", "sqlite:///app.db?mode=ro", "sqlite:///a?synchronous=OFF"):
        with pytest.raises(ConfigurationError) as raised:
            open_storage(url, "shop")
        assert raised.value.code == "EB1006"


@pytest.mark.parametrize(("option", "level"), [("", 2), ("?synchronous=NORMAL", 1)])
async def test_commits_are_forced_to_the_disk_unless_told_otherwise(
    tmp_path: Path, option: str, level: int
) -> None:
    async with open_storage(f"sqlite:///{tmp_path / 'a.db'}{option}", "shop") as storage:
        connection = storage._worker.connection
        assert connection.execute("PRAGMA synchronous").fetchone() == (level,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        codes = {finding.code for finding in await storage.examine()}
        assert ("EB1108" in codes) is (option != "")
