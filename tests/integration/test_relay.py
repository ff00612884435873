"""What a relay says of itself while it cannot work, and afterwards."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from eventbus import EventBus
from eventbus.errors import StorageError, TransportError
from eventbus.memory import MemoryTransport
from eventbus.message import Message
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


class Away(MemoryTransport):
    """A broker that never takes anything."""

    async def publish(self, messages: Sequence[Message], *, again: bool = False) -> None:
        """Refuse."""
        raise TransportError("EB2001", "no broker", where="a test", why="it says so", next="wait")


async def test_a_relay_whose_rows_are_gone_does_not_wait_for_the_broker_any_more() -> None:
    """Another relay sent them, or an operator dropped them: there is nothing that it cannot do."""
    bus = EventBus(Away(), storage=SqliteStorage(), service="shop")
    async with asyncio.timeout(60), bus:
        await bus.publish("shop.sold", {"sku": "a"})
        await until_causes(bus, ["no broker"])
        async with bus.transaction() as tx:
            await tx.sql.execute("DELETE FROM eventbus_outbox")
        await until_causes(bus, [])


async def until_causes(bus: EventBus, wanted: list[str]) -> None:
    while list((await bus.health()).causes) != wanted:
        await pause(asyncio.Event(), 0.01)
