"""A bus with the order saga and its participants, over each storage."""

from collections.abc import AsyncIterator, Iterator

import pytest

from eventbus import EventBus
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.sqlite import SqliteStorage
from eventbus.storage import Storage
from eventbus.testing.conformance.samples import unique
from tests.conformance.postgres import database
from tests.integration.sagas.rig import Clock, PostgresTime, Rig
from tests.integration.sagas.shop import PARTICIPANTS, TABLES, Told, told
from tests.unit.saga.shop import Mixed, PlaceOrder


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def participants() -> Told:
    """Nobody refuses anything."""
    for refusals in (told.declined, told.no_release, told.not_shipped):
        refusals.clear()
    return told


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with database() as url:
        yield url


@pytest.fixture
def sagas() -> list[type]:
    """The classes on the bus; a module may have others."""
    return [PlaceOrder, Mixed]


@pytest.fixture(params=["sqlite", "postgres"])
async def rig(
    request: pytest.FixtureRequest, clock: Clock, sagas: list[type]
) -> AsyncIterator[Rig]:
    schema = unique("saga")
    storage: Storage | str = SqliteStorage(now=clock)
    if request.param == "postgres":
        storage = f"{request.getfixturevalue('server')}?schema={schema}"
    handlers = [*sagas, *PARTICIPANTS]
    bus = EventBus(MemoryTransport(MemoryBroker()), storage=storage, handlers=handlers)
    await bus.upgrade()
    async with bus:
        async with bus.transaction() as tx:
            for table in TABLES:
                await tx.sql.execute(f"CREATE TABLE {schema}_{table}")
            await tx.sql.execute("CREATE TABLE IF NOT EXISTS orders (order_id text PRIMARY KEY)")
            await tx.sql.execute("DELETE FROM orders")
        time = clock if request.param == "sqlite" else PostgresTime(bus, schema)
        rig = Rig(bus, time, schema)
        told.prefix = schema
        yield rig
