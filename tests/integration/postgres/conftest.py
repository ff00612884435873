"""A database for the tests of this directory, a schema and a storage for each test."""

from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from eventbus.postgres import PostgresStorage
from eventbus.testing.conformance.samples import unique
from tests.conformance.postgres import database, entered
from tests.faults.proxy import FaultProxy, postgres


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with database() as url:
        yield url


@pytest.fixture
def schema() -> str:
    return unique("bus")


@pytest.fixture
async def storage(server: str, schema: str) -> AsyncIterator[PostgresStorage]:
    async with entered(server, schema=schema) as storage:
        yield storage


@pytest.fixture
async def admin(server: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection beside the bus."""
    connection = await asyncpg.connect(server, timeout=10, command_timeout=10)
    yield connection
    connection.terminate()


@pytest.fixture
async def proxy(server: str) -> AsyncIterator[FaultProxy]:
    """Between a storage and the server: `through(proxy, url)`."""
    parts = urlsplit(server)
    async with FaultProxy((parts.hostname or "", parts.port or 5432), framing=postgres) as proxy:
        yield proxy


@pytest.fixture
def proxied_url(server: str, proxy: FaultProxy) -> str:
    parts = urlsplit(server)
    user = parts.netloc.rpartition("@")[0]
    return urlunsplit(
        parts._replace(netloc=f"{user}@127.0.0.1:{proxy.port}", query="sslmode=disable")
    )


@pytest.fixture
async def proxied(schema: str, proxied_url: str) -> AsyncIterator[PostgresStorage]:
    """A storage behind the proxy."""
    async with entered(proxied_url, schema=schema) as storage:
        yield storage
