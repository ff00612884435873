"""Rows 41 and 58: an upgrade that is interrupted anywhere, and one beside workers that run."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest

from eventbus import Context, Event, EventBus, Group, subscribe
from eventbus.errors import MigrationError, StorageError
from eventbus.postgres import PostgresConfig, PostgresStorage, upgrade
from eventbus.postgres.upgrade import migrations
from eventbus.storage.migrations import Migration
from eventbus.testing.conformance.samples import unique
from tests.faults.proxy import Cut, FaultProxy, Toward, nth

CATALOG = """
SELECT c.relname, c.relkind, a.attname, format_type(a.atttypid, a.atttypmod) AS type
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
 WHERE c.relnamespace = $1::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
   AND c.relname !~ '_[0-9]{4}_?[0-9]{2}'  -- partitions of days and months
 ORDER BY 1, 3"""
FILES = len(migrations())
Seen = Callable[[bytes], bool]


def a_file(frame: bytes) -> bool:
    """The text of a migration, toward the server."""
    return frame[:1] == b"Q" and b"-- kind:" in frame


def a_commit(frame: bytes) -> bool:
    """Of a file, toward the server."""
    return frame[:1] == b"Q" and frame[5:].startswith(b"COMMIT")


def committed(frame: bytes) -> bool:
    """Toward the client, who will not hear of it."""
    return frame[:1] == b"C" and frame[5:] == b"COMMIT\0"


@pytest.mark.parametrize("number", range(1, FILES + 1))
@pytest.mark.parametrize(
    ("toward", "seen", "applied"),
    [("server", a_file, -1), ("server", a_commit, -1), ("client", committed, 0)],
    ids=["in the file", "before its commit", "after its commit"],
)
async def test_an_upgrade_that_is_cut_in_any_file_is_completed_by_the_next_one(
    server: str,
    schema: str,
    proxied_url: str,
    proxy: FaultProxy,
    number: int,
    toward: Toward,
    seen: Seen,
    applied: int,
) -> None:
    proxy.rule(toward=toward, when=nth(number, seen), do=Cut())
    with pytest.raises(StorageError) as caught:
        await PostgresStorage(PostgresConfig(dsn=proxied_url, schema=schema)).upgrade()
    assert caught.value.code == "EB5001"
    assert len(proxy.hits) == 1
    whole = PostgresConfig(dsn=server, schema=schema)
    connection = await asyncpg.connect(server, timeout=10, command_timeout=10)
    try:
        there = f"{schema}.migrations"
        if await connection.fetchval("SELECT to_regclass($1)", there) is not None:
            assert await connection.fetchval(f"SELECT count(*) FROM {there}") == number + applied
        else:
            assert number + applied == 0
        await PostgresStorage(whole).upgrade()
        other = unique("bus")
        await PostgresStorage(PostgresConfig(dsn=server, schema=other)).upgrade()
        mended, fresh = [await connection.fetch(CATALOG, each) for each in (schema, other)]
        assert mended == fresh
    finally:
        connection.terminate()
    async with PostgresStorage(whole) as storage:
        assert await storage.inspection.verify() == []


class Counted(Event, type="upgrades.counted", key="key"):
    key: str
    n: int


@subscribe(Counted, group=Group("counting"))
async def count(event: Counted, ctx: Context) -> None:
    await ctx.sql.execute("INSERT INTO counted VALUES ($1, $2)", event.key, event.n)


NEXT = Migration(
    number=FILES + 1,
    name="of_the_next_version",
    kind="expand",
    text="-- kind: expand\n"
    "ALTER TABLE {schema}.outbox ADD COLUMN hue text;\n"
    "ALTER TABLE {schema}.parked ADD COLUMN hue text DEFAULT 'blue';\n"
    "CREATE INDEX ON {schema}.audit (actor);\n",
)


async def test_an_expanding_upgrade_beside_workers_of_the_old_version_disturbs_nothing(
    server: str, schema: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = PostgresConfig(dsn=server, schema=schema)
    await PostgresStorage(config).upgrade()
    storage = PostgresStorage(config)
    bus = EventBus("memory://", storage=storage, handlers=[count], service="old")
    stop, published = asyncio.Event(), 0

    async def publish(key: str) -> None:
        nonlocal published
        while not stop.is_set():
            await bus.publish(Counted(key=key, n=published))
            published += 1

    async def more(than: int) -> None:
        while published < than + 30:
            await storage.wait("timers", at_most=timedelta(milliseconds=10))

    async with asyncio.timeout(100), bus:
        async with bus.transaction() as tx:
            await tx.sql.execute("CREATE TABLE counted (key text, n int)")
        async with asyncio.TaskGroup() as tasks:
            for key in ("a", "b", "c"):
                tasks.create_task(publish(key), name=f"client:{key}")
            await more(0)
            newer = (*migrations(), NEXT)
            with monkeypatch.context() as of_the_next_version:
                of_the_next_version.setattr(upgrade, "migrations", lambda: newer)
                await PostgresStorage(config).upgrade()
            await more(published)
            stop.set()
        await bus.until_idle()
        async with bus.transaction() as tx:
            rows = await tx.sql.fetch("SELECT count(*) AS n FROM counted")
            await tx.sql.execute("DROP TABLE counted")
        assert rows[0]["n"] == published
        assert await bus.parked.list() == []
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
    with pytest.raises(MigrationError) as caught:  # the fence: who starts now is of the new version
        async with PostgresStorage(config):
            pass
    assert caught.value.code == "EB5301"


CONTRACT = Migration(
    number=FILES + 1,
    name="drops_what_was",
    kind="contract",
    workers=FILES + 1,
    text="-- kind: contract\nALTER TABLE {schema}.attempts DROP COLUMN at;\n",
)


async def test_a_contracting_upgrade_waits_until_no_worker_of_an_older_version_is_left(
    server: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PostgresConfig(dsn=server, schema=schema)
    await PostgresStorage(config).upgrade()
    newer = (*migrations(), CONTRACT)

    async def upgrades() -> None:
        with monkeypatch.context() as of_the_next_version:
            of_the_next_version.setattr(upgrade, "migrations", lambda: newer)
            await PostgresStorage(config).upgrade()

    storage = PostgresStorage(config)
    async with EventBus("memory://", storage=storage, handlers=[count], service="old") as bus:
        await bus.until_idle()
        with pytest.raises(MigrationError) as caught:
            await upgrades()
        assert caught.value.code == "EB5304"
        assert "relay/" in caught.value.why or "outbox/" in caught.value.why
        async with storage.transaction() as tx:  # nothing of it was applied
            await tx.sql.fetch(f"SELECT at FROM {schema}.attempts")
    await upgrades()
    with pytest.raises(MigrationError, match="EB5301"):
        await PostgresStorage(config).__aenter__()


@pytest.mark.parametrize("workers", [FILES, FILES + 1])
async def test_workers_that_do_without_it_already_are_not_waited_for(
    server: str, schema: str, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    config = PostgresConfig(dsn=server, schema=schema)
    await PostgresStorage(config).upgrade()
    async with PostgresStorage(config) as storage, storage.transaction() as tx:
        [lease] = await tx.leases.acquire(
            ["relay/one"], owner="host:1:a", ttl=timedelta(hours=1), limit=1
        )
    assert lease.owner == "host:1:a"
    newer = (*migrations(), replace(CONTRACT, workers=workers))
    monkeypatch.setattr(upgrade, "migrations", lambda: newer)
    if workers == FILES:
        await PostgresStorage(config).upgrade()
        return
    with pytest.raises(MigrationError) as caught:
        await PostgresStorage(config).upgrade()
    assert f"relay/one by host:1:a@{FILES}" in caught.value.why


async def test_a_lease_that_says_nothing_is_of_an_older_version_and_a_pause_is_nobodys(
    server: str,
    schema: str,
    monkeypatch: pytest.MonkeyPatch,
    admin: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    config = PostgresConfig(dsn=server, schema=schema)
    await PostgresStorage(config).upgrade()
    lease = (
        f"INSERT INTO {schema}.leases (name, owner, epoch, until)"
        " VALUES ($1, $2, 1, $3::text::timestamptz)"
    )
    await admin.execute(lease, "paused/outbox/", "an operator", "infinity")
    await admin.execute(lease, "relay/gone", "host:1:a", "yesterday")
    monkeypatch.setattr(upgrade, "migrations", lambda: (*migrations(), CONTRACT))
    script = upgrade.part(schema, CONTRACT)
    await admin.execute(lease, "relay/here", "host:2:b", "tomorrow")
    with pytest.raises(MigrationError) as caught:
        await PostgresStorage(config).upgrade()
    assert caught.value.why.endswith("leases: relay/here by host:2:b")
    with pytest.raises(asyncpg.RaiseError, match="workers of an older version"):
        await admin.execute(script)
    await admin.execute(f"DELETE FROM {schema}.leases WHERE name = 'relay/here'")
    await admin.execute(script)
