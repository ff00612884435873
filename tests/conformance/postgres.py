"""A PostgreSQL storage for suites: a schema of its own, a clock that moves what is stored."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from eventbus.postgres import PostgresConfig, PostgresStorage
from eventbus.testing import conformance
from eventbus.testing.services.find import running
from eventbus.testing.services.postgres import create_database, drop_database
from eventbus.testing.services.service import ServiceMissingError

_TIMES = {
    "leases": ("until",),
    "outbox": ("due_at", "created_at"),
    "outbox_scheduled": ("due_at",),
    "parked_keys": ("due_at", "held_since"),
    "parked": ("parked_at",),
    "attempts": ("at",),
    "saga": ("created_at", "updated_at", "status_since", "finished_at"),
    "saga_timer": ("due_at",),
    "saga_call": ("due_at",),
    "saga_stash": ("expires_at",),
    "saga_effect": ("lease_until", "created_at"),
}
_SAGAS = ("saga_step", "saga_correlation", "saga_journal", "saga_definition")


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


@contextmanager
def database() -> Iterator[str]:
    """A new database for many tests, each with a schema of its own: making those is quick."""
    try:
        with running("postgres") as server:
            url = create_database(server.url)
            try:
                yield url
            finally:
                drop_database(url)
    except ServiceMissingError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(" ".join(str(error).split()))


@asynccontextmanager
async def entered(url: str, **options: Any) -> AsyncIterator[PostgresStorage]:
    """A storage with an empty schema; in the end its pools are whole."""
    config = PostgresConfig(dsn=url, service="tests", **options)
    await PostgresStorage(config).upgrade()
    async with PostgresStorage(config) as storage:
        async with storage.pools.connecting() as connection:
            tables = ("discarded", "audit", "inbox", "checkpoints", *_SAGAS, *_TIMES)
            wiped = "; ".join(f"DELETE FROM {config.schema}.{table}" for table in tables)
            await connection.execute(wiped)
        yield storage
        assert storage.pools.idle() == storage.pools.size(), "a connection was not given back"


class OnPostgres:
    """The fixtures of every suite: a database for the class, emptied for each test."""

    options: Mapping[str, Any] = {}  # of the configuration

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls) -> Iterator[str]:
        with database() as url:
            yield url

    @pytest.fixture
    def clock(self, server: str) -> conformance.Clock:
        return ShiftingClock(server)

    @pytest.fixture
    async def storage(self, server: str) -> AsyncIterator[PostgresStorage]:
        async with entered(server, **self.options) as storage:
            yield storage
