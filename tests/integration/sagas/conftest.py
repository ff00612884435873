"""A bus with the order saga, its participants, and a clock that tests move."""

from collections.abc import AsyncIterator

import pytest

from eventbus import EventBus
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.sqlite import SqliteStorage
from tests.integration.sagas.rig import Clock, Rig
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


@pytest.fixture
async def rig(clock: Clock) -> AsyncIterator[Rig]:
    broker = MemoryBroker()
    bus = EventBus(
        MemoryTransport(broker),
        storage=SqliteStorage(now=clock),
        handlers=[PlaceOrder, Mixed, *PARTICIPANTS],
    )
    async with bus:
        async with bus.transaction() as tx:
            for table in TABLES:
                await tx.sql.execute(table)
        yield Rig(bus, clock)
