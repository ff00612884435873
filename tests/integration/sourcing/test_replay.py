"""bus.replay: beside the live group, with rows written and nothing let out."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from eventbus import Context, Event, EventBus, Group, Untyped, subscribe
from eventbus.errors import (
    ConfigurationError,
    HandlerTimeoutError,
    SourcingError,
    UnitOfWorkError,
)
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.pubsub import replay
from eventbus.storage.events import Position
from tests.unit.sourcing import orders
from tests.unit.sourcing.orders import LineAdded, OrderPlaced, OrderShipped, Ship, handle_order


async def with_orders(url: str, *handlers: object) -> EventBus:
    """A bus, not entered, whose log holds orders that nobody has handled yet."""
    bus = EventBus(MemoryTransport(MemoryBroker()), storage=url, handlers=[orders, *handlers])
    await bus.upgrade()
    return bus


async def record(bus: EventBus, count: int) -> list[Position]:
    return [
        (
            await bus.events.append(
                f"order-{number}",
                [OrderPlaced(order_id=f"{number}", cents=number)],
                expected="absent",
                publish=False,
            )
        ).position
        for number in range(count)
    ]


async def make_table(bus: EventBus) -> None:
    async with bus.transaction() as tx:
        await tx.sql.execute("CREATE TABLE IF NOT EXISTS seen (name text)")
        await tx.sql.execute("DELETE FROM seen")


async def seen(bus: EventBus) -> list[str]:
    async with bus.transaction() as tx:
        return [row["name"] for row in await tx.sql.fetch("SELECT name FROM seen ORDER BY name")]


async def see(name: str, ctx: Context) -> None:
    await ctx.sql.execute("INSERT INTO seen VALUES ($1)", name)


@subscribe(OrderPlaced, group="shipping")
async def ship(event: OrderPlaced, ctx: Context) -> None:
    assert ctx.replaying
    await see(event.order_id, ctx)
    await ctx.publish(OrderShipped(order_id=event.order_id))
    assert (await handle_order(Ship(event.order_id), ctx)) != ()
    await ctx.append("parcel-1", [OrderShipped(order_id=event.order_id)], expected="any")


async def test_rows_are_written_and_nothing_leaves(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "PAGE", 2)
    told: list[int] = []
    bus = await with_orders(url, ship)
    async with bus.client():
        await make_table(bus)
        positions = await record(bus, 5)
        done = await bus.replay("shipping", tell=lambda now: told.append(now.events))
        assert (done.events, done.withheld) == (5, 15)
        assert done.read_to >= positions[-1]
        assert told[:2] == [2, 4]
        assert await seen(bus) == [f"{number}" for number in range(5)]
        assert not await bus.outbox.list()
        assert len((await bus.events.read_all()).events) == 5
        await bus.replay("shipping")  # the inbox is not asked
        assert len(await seen(bus)) == 10


async def test_only_what_lies_between_is_fed(url: str) -> None:
    bus = await with_orders(url, ship)
    async with bus.client():
        await make_table(bus)
        positions = await record(bus, 5)
        await bus.replay("shipping", after=positions[0], upto=positions[2])
        assert await seen(bus) == ["1", "2"]


async def test_only_what_was_recorded_then_is_fed(url: str) -> None:
    bus = await with_orders(url, ship)
    async with bus.client():
        await make_table(bus)
        await record(bus, 3)
        times = [one.recorded.recorded_at for one in (await bus.events.read_all()).events]
        await bus.replay("shipping", between=(None, times[0] - timedelta(seconds=1)))
        assert await seen(bus) == []
        done = await bus.replay("shipping", between=(times[0], times[-1]))
        assert (done.events, await seen(bus)) == (3, ["0", "1", "2"])


async def test_a_failure_keeps_what_came_before_and_says_where(url: str) -> None:
    @subscribe(OrderPlaced, group="shipping")
    async def fail(event: OrderPlaced, ctx: Context) -> None:
        await see(event.order_id, ctx)
        if event.cents == 2:
            raise LookupError("no such parcel")

    bus = await with_orders(url, fail)
    async with bus.client():
        await make_table(bus)
        positions = await record(bus, 4)
        with pytest.raises(SourcingError, match=f"position {positions[2]}: LookupError") as caught:
            await bus.replay("shipping")
        assert caught.value.code == "EB4206"
        assert isinstance(caught.value.__cause__, LookupError)
        assert await seen(bus) == ["0", "1"]
        assert not [*await bus.parked.list(), *await bus.dead_letters.list()]


async def test_handlers_have_their_timeout_and_publish_by_their_context(url: str) -> None:
    class Errors(list[Exception]):
        pass

    errors = Errors()
    impatient = Group("impatient", timeout=timedelta(milliseconds=20))

    @subscribe(OrderPlaced, group=impatient)
    async def hang(event: OrderPlaced, ctx: Context) -> None:
        try:
            await bus.publish(OrderShipped(order_id=event.order_id))
        except UnitOfWorkError as error:
            errors.append(error)
        await asyncio.Event().wait()

    bus = await with_orders(url, hang)
    async with bus.client():
        await record(bus, 1)
        with pytest.raises(SourcingError) as caught:
            await bus.replay("impatient")
    assert isinstance(caught.value.__cause__, HandlerTimeoutError)
    assert len(errors) == 1


async def test_every_kind_of_handler_gets_what_it_asked_for(url: str) -> None:
    got: list[object] = []

    class Mailer:
        @subscribe(Event, group="all")
        async def every(self, event: Event) -> None:
            got.append(event)

        @subscribe("shop.*", group="wild")
        async def wild(self, message: Untyped, ctx: Context) -> None:
            got.append(message.data["order_id"])

    @subscribe(OrderPlaced, group="batch", batch=True)
    async def together(events: Sequence[OrderPlaced], ctx: Context) -> None:
        got.append([event.order_id for event in events])

    @subscribe(OrderPlaced, group=Group("outside", transactional=False))
    async def outside(event: OrderPlaced, ctx: Context) -> None:
        await ctx.publish(OrderShipped(order_id=event.order_id))
        got.append(ctx.idempotency_key)

    bus = await with_orders(url, Mailer(), together, outside)
    async with bus.client():
        await record(bus, 1)
        line = LineAdded(order_id="0", product="tea", cents=1)
        await bus.events.append("order-0", [line], expected=1, publish=False)
        for group, expected in {
            "all": [OrderPlaced(order_id="0", cents=0), line],
            "wild": ["0", "0"],
            "batch": [["0"]],
        }.items():
            got.clear()
            await bus.replay(group)
            assert got == expected
        assert (await bus.replay("outside")).withheld == 1
        assert not await bus.outbox.list()


async def test_a_group_or_a_position_that_is_not_there_is_refused(url: str) -> None:
    bus = await with_orders(url, ship)
    async with bus.client():
        with pytest.raises(ConfigurationError, match="no group 'shiping'") as wrong:
            await bus.replay("shiping")
        assert (wrong.value.code, wrong.value.next) == ("EB1006", "--group shipping")
        with pytest.raises(SourcingError) as caught:
            await bus.replay("shipping", after=Position(10**6))
        assert caught.value.code == "EB4205"
        async with bus.transaction():
            with pytest.raises(UnitOfWorkError):
                await bus.replay("shipping")
