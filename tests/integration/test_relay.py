"""A relay that cannot work, and afterwards; and one that has much to do."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from random import Random

import pytest

from eventbus import EventBus, Untyped, subscribe
from eventbus.errors import StorageError, TransportError
from eventbus.memory import MemoryTransport
from eventbus.message import Message, new_id
from eventbus.outbox import relay
from eventbus.outbox.pace import LONGEST_GATHERING_SECONDS, MANY
from eventbus.service import pause
from eventbus.sqlite import SqliteStorage
from eventbus.testing.faults import Fail, FaultPlan, FaultyStorage

CARRIED = 16
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


@pytest.mark.parametrize(
    ("rows", "batch", "gathers"),
    [(MANY, None, True), (MANY - 1, None, False), (MANY, MANY, False)],
    ids=["many", "few", "a full call"],
)
async def test_a_relay_that_moved_many_rows_lets_more_gather(
    monkeypatch: pytest.MonkeyPatch, rows: int, batch: int | None, *, gathers: bool
) -> None:
    """Unless more waits already: then it goes on at once; and of few it never waits for more."""
    rests: list[float] = []

    async def rest(stopping: asyncio.Event, seconds: float) -> bool:
        rests.append(seconds)
        return await pause(stopping, seconds)

    monkeypatch.setattr(relay, "pause", rest)
    storage, transport = SqliteStorage(), MemoryTransport()
    async with storage:
        async with storage.transaction() as tx:
            await tx.outbox.add([message(number) for number in range(rows)])
        one = relay.Relay(storage, transport, scheme="memory", random=Random(1), batch=batch)
        stopping = asyncio.Event()
        async with asyncio.timeout(60), transport:
            task = asyncio.create_task(one.run(stopping))
            while one.relayed < rows or not await one.idle():
                await pause(stopping, 0.001)
            stopping.set()
            await task
    assert bool(rests) == gathers
    assert all(0 <= seconds <= LONGEST_GATHERING_SECONDS for seconds in rests)


def message(number: int) -> Message:
    return Message(
        id=new_id(), type="shop.sold", source="shop", topic="shop", payload=b"{}", key=f"k{number}"
    )


class Slow(MemoryTransport):
    """A link that carries few messages in the time that a relay has for them."""

    async def publish(self, messages: Sequence[Message], *, again: bool = False) -> None:
        """Take them, or never answer."""
        if len(messages) > CARRIED:
            await asyncio.Event().wait()
        await super().publish(messages)


async def test_over_a_slow_link_fewer_go_at_once_and_all_arrive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "TTL", timedelta(seconds=1.1))  # a second less for a call
    handled: list[str] = []

    @subscribe("shop.sold", group="counting")
    async def count(event: Untyped) -> None:
        handled.append(event.data["sku"])

    bus = EventBus(Slow(), storage=SqliteStorage(), handlers=[count], service="shop")
    async with asyncio.timeout(100), bus:
        async with bus.transaction() as tx:
            for number in range(8 * CARRIED):
                await tx.publish("shop.sold", {"sku": str(number)})
        await bus.until_idle(at_most=timedelta(seconds=90))
    assert sorted(handled, key=int) == [str(number) for number in range(8 * CARRIED)]


async def until_causes(bus: EventBus, wanted: list[str]) -> None:
    while list((await bus.health()).causes) != wanted:
        await pause(asyncio.Event(), 0.01)
