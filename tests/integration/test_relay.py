"""What a relay says of itself while it cannot work, and afterwards."""

import asyncio
from datetime import timedelta

from eventbus import EventBus
from eventbus.errors import StorageError
from eventbus.memory import MemoryTransport
from eventbus.service import pause
from eventbus.sqlite import SqliteStorage
from eventbus.testing.faults import Fail, FaultPlan, FaultyStorage

AWAY = StorageError("EB5001", "the database is away", where="a test", why="it says so", next="wait")


async def test_a_relay_that_has_nothing_to_send_is_well_again_when_its_database_is() -> None:
    plan = FaultPlan().add("relay:outbox.read", 2, Fail(AWAY))
    storage = FaultyStorage(SqliteStorage(), plan)
    bus = EventBus(MemoryTransport(), storage=storage, service="shop")
    async with asyncio.timeout(60), bus:
        await until_causes(bus, ["the database is away"])
        await until_causes(bus, [])
        await bus.until_idle(at_most=timedelta(seconds=30))


async def until_causes(bus: EventBus, wanted: list[str]) -> None:
    while list((await bus.health()).causes) != wanted:
        await pause(asyncio.Event(), 0.01)
