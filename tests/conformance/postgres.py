"""A PostgreSQL storage for suites: a schema of its own, a clock that moves what is stored."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg

from eventbus.postgres import PostgresConfig, PostgresStorage

_TIMES = {
    "leases": ("until",),
    "outbox": ("due_at", "created_at"),
    "outbox_scheduled": ("due_at",),
    "parked_keys": ("due_at", "held_since"),
    "parked": ("parked_at",),
    "attempts": ("at",),
}


class ShiftingClock:
    """Moves everything stored into the past: the database's own clock stays the truth."""

    jumps = True

    def __init__(self, url: str, schema: str = "eventbus") -> None:
        self._url = url
        self._schema = schema

    async def advance(self, seconds: float) -> None:
        connection = await asyncpg.connect(self._url, timeout=10, command_timeout=10)
        try:
            for table, columns in _TIMES.items():
                moved = ", ".join(f"{column} = {column} - $1::interval" for column in columns)
                await connection.execute(
                    f"UPDATE {self._schema}.{table} SET {moved}", timedelta(seconds=seconds)
                )
        finally:
            connection.terminate()


class WaitingClock:
    """For what runs while time goes by."""

    jumps = False

    async def advance(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@asynccontextmanager
async def entered(url: str, **options: Any) -> AsyncIterator[PostgresStorage]:
    """A storage whose schema was just made; in the end its pools are whole."""
    config = PostgresConfig(dsn=url, service="tests", **options)
    await PostgresStorage(config).upgrade()
    async with PostgresStorage(config) as storage:
        yield storage
        assert storage.pools.idle() == storage.pools.size(), "a connection was not given back"
