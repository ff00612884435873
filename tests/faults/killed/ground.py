"""The database that the processes share, looked into beside the bus: what waits must not count."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from eventbus.postgres.storage import PostgresStorage, open_storage

SCHEMA = "killed"
_TABLES = (
    "CREATE TABLE effects"
    " (at bigint GENERATED ALWAYS AS IDENTITY, grp text, id text, key text, seq int)",
    "CREATE TABLE business (id text, key text, seq int, kind text)",
    "CREATE TABLE repaired (at int)",
    "CREATE TABLE attempts_seen (key text, seq int, attempts int)",
)
_EMPTIED = (
    *("effects", "business", "repaired", "attempts_seen"),
    *(f"{SCHEMA}.{table}" for table in ("outbox", "outbox_scheduled", "inbox", "attempts")),
    *(f"{SCHEMA}.{table}" for table in ("parked", "parked_keys", "discarded", "audit", "leases")),
)
_OTHERS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
_LATER = f"""
UPDATE {SCHEMA}.leases SET until = until - interval '11 s'
 WHERE until BETWEEN '2000-01-01' AND '3000-01-01'"""
# What the server itself does to a transaction that is idle for 45 s; one that still does what its
# client sent before it stood still will be idle.
_CUT_IDLE = f"{_OTHERS} AND xact_start IS NOT NULL"
_LOOKS = 3


class Look:
    """A connection of our own."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def rows(self, query: str, *values: object) -> list[Any]:
        """All of them."""
        return list(await self._connection.fetch(query, *values))

    async def number(self, query: str, *values: object) -> int:
        """The first column of the first row."""
        return int(await self._connection.fetchval(query, *values))

    async def dead(self) -> int:
        """Keys whose first message is a dead letter."""
        return await self.number(f"SELECT count(*) FROM {SCHEMA}.parked_keys WHERE state = 1")

    async def effects(self, group: str) -> int:
        """Messages that have one in a group."""
        return await self.number("SELECT count(DISTINCT id) FROM effects WHERE grp = $1", group)


@asynccontextmanager
async def looking(url: str) -> AsyncIterator[Look]:
    """Into the database, past the bus and past any proxy."""
    connection = await asyncpg.connect(url, timeout=10, command_timeout=30)
    try:
        yield Look(connection)
    finally:
        connection.terminate()


def storage_at(url: str) -> PostgresStorage:
    """What the bus is built on; a proxy understands no TLS."""
    return open_storage(f"{url}?schema={SCHEMA}&pool=6&sslmode=disable", "killed")


async def prepare(url: str) -> None:
    """The schema of the bus, and the tables of the application, which hide no duplicate."""
    await storage_at(url).upgrade()
    async with looking(url) as look:
        for statement in _TABLES:
            await look.rows(statement)


async def empty(url: str) -> None:
    """As it was prepared; whoever is still connected is not any more."""
    async with looking(url) as look:
        await look.rows(_OTHERS)
        for table in _EMPTIED:
            await look.rows(f"DELETE FROM {table}")


async def pass_time(url: str, *, cut_idle: bool = False) -> int:
    """Leases run out; how many idle transactions the server has ended meanwhile.

    They end first: one of them may have locked the row of a lease.
    """
    async with looking(url) as look:
        cut = 0
        for _ in range(_LOOKS if cut_idle else 0):
            cut += len(await look.rows(_CUT_IDLE))
            await look.rows("SELECT pg_sleep(0.1)")
        await look.rows(_LATER)
        return cut
