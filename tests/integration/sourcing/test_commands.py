"""Command handlers: one transaction, decided again after a conflict, the same ids on the broker."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from eventbus import Context, Event, EventBus, UnitOfWork, subscribe
from eventbus.errors import (
    ConcurrencyError,
    LimitError,
    NoTransactionError,
    StreamClosedError,
    UnknownTypeError,
)
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.sourcing import CommandHandler
from eventbus.storage.events import Appended, Expected
from tests.unit.sourcing import orders
from tests.unit.sourcing.orders import (
    Add,
    LineAdded,
    Order,
    OrderDecider,
    OrderPlaced,
    OrderShipped,
    Place,
    Ship,
    handle_order,
    order_of,
)


class Overtaken:
    """A unit of work in which somebody else appends first, so often; counts what is loaded."""

    def __init__(self, tx: UnitOfWork, rivals: Sequence[Event]) -> None:
        self._tx = tx
        self._rivals = list(rivals)
        self.tries = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    async def append(
        self, stream: str, events: Sequence[Event], *, expected: Expected, publish: bool = True
    ) -> Appended:
        self.tries += 1
        if self._rivals:
            await self._tx.append(stream, [self._rivals.pop(0)], expected="any", publish=False)
        return await self._tx.append(stream, events, expected=expected, publish=publish)


class CountingDecider(OrderDecider):
    """Counts what is folded."""

    def __init__(self) -> None:
        self.begun = self.folded = 0

    def initial(self) -> orders.State:
        self.begun += 1
        return super().initial()

    def evolve(self, state: orders.State, event: Event) -> orders.State:
        self.folded += 1
        return super().evolve(state, event)


async def told(bus: EventBus, *commands: Place | Add | Ship) -> None:
    for command in commands:
        async with bus.transaction() as tx:
            await handle_order(command, tx)


async def stream(bus: EventBus, name: str) -> list[Event]:
    return [each.event for each in await bus.events.read(name)]


async def test_what_is_decided_is_recorded_and_returned(bus: EventBus) -> None:
    async with bus.transaction() as tx:
        placed = await handle_order(Place("A-1", 5), tx)
        assert placed == (OrderPlaced(order_id="A-1", cents=5),)
        assert await handle_order(Place("A-1", 9), tx) == ()  # seen within the transaction
        await handle_order(Ship("A-1"), tx)
    assert await stream(bus, "order-A-1") == [*placed, OrderShipped(order_id="A-1")]


async def test_a_refused_command_and_a_rolled_back_one_leave_nothing(bus: EventBus) -> None:
    with pytest.raises(orders.RefusedError):
        await told(bus, Ship("A-1"))
    with pytest.raises(LookupError):
        async with bus.transaction() as tx:
            await handle_order(Place("A-1", 5), tx)
            raise LookupError
    await bus.until_idle()
    assert await stream(bus, "order-A-1") == []
    assert not await bus.outbox.list()


async def test_recorded_events_go_out_under_the_same_ids(url: str) -> None:
    broker = MemoryBroker()
    bus = EventBus(MemoryTransport(broker), storage=url, handlers=[orders])
    await bus.upgrade()
    async with bus:
        await told(bus, Place("A-1", 5), Ship("A-1"))
        await bus.until_idle()
        recorded = [each.recorded.message for each in await bus.events.read("order-A-1")]
    assert [message.id for message in broker.published("shop")] == [each.id for each in recorded]
    assert [message.payload for message in broker.published("shop")] == [
        each.payload for each in recorded
    ]
    assert [
        (m.headers["subject"], int(m.headers["sequence"])) for m in broker.published("shop")
    ] == [
        ("order-A-1", 1),
        ("order-A-1", 2),
    ]


async def test_after_a_conflict_it_folds_what_came_between_and_decides_again(
    bus: EventBus,
) -> None:
    decider = CountingDecider()
    handle = CommandHandler(decider, stream=order_of, snapshot=0)
    await told(bus, Place("A-1", 5))
    async with bus.transaction() as tx:
        rival = LineAdded(order_id="A-1", product="tea", cents=1)
        overtaken = Overtaken(tx, [rival])
        added = await handle(Add("A-1", "milk", 2), overtaken)
        assert overtaken.tries == 2
    assert (decider.begun, decider.folded) == (1, 2)  # from the start once, and no event twice
    assert await stream(bus, "order-A-1") == [OrderPlaced(order_id="A-1", cents=5), rival, *added]


async def test_what_came_between_may_change_the_decision(bus: EventBus) -> None:
    await told(bus, Place("A-1", 5))
    async with bus.transaction() as tx:
        overtaken = Overtaken(tx, [OrderShipped(order_id="A-1")])
        with pytest.raises(orders.RefusedError, match="on its way"):
            await handle_order(Add("A-1", "milk", 2), overtaken)
        overtaken = Overtaken(tx, [OrderPlaced(order_id="A-2", cents=1)])
        assert await handle_order(Place("A-2", 5), overtaken) == ()


async def test_more_may_come_between_than_an_error_holds(bus: EventBus) -> None:
    class Crowd(Overtaken):
        async def append(
            self, stream: str, events: Sequence[Event], *, expected: Expected, publish: bool = True
        ) -> Appended:
            if not self.tries:
                many = [LineAdded(order_id="A-1", product=f"{n}", cents=1) for n in range(1200)]
                await self._tx.append(stream, many, expected="any", publish=False)
            return await super().append(stream, events, expected=expected, publish=publish)

    decider = CountingDecider()
    handle = CommandHandler(decider, stream=order_of, snapshot=0)
    async with bus.transaction() as tx:
        await handle(Add("A-1", "milk", 2), Crowd(tx, []))
    assert (decider.begun, decider.folded) == (1, 1200)
    assert [one.recorded.version for one in await bus.events.read("order-A-1", after=1199)] == [
        *(1200, 1201)
    ]


async def test_retries_are_counted(bus: EventBus) -> None:
    rivals = [LineAdded(order_id="A-1", product=f"{number}", cents=1) for number in range(3)]
    handle = CommandHandler(OrderDecider(), stream=order_of, retries=2)
    async with bus.transaction() as tx:
        overtaken = Overtaken(tx, rivals)
        with pytest.raises(ConcurrencyError) as caught:
            await handle(Add("A-1", "milk", 2), overtaken)
        assert (caught.value.code, overtaken.tries) == ("EB5003", 3)
        overtaken = Overtaken(tx, rivals[:2])
        await handle(Add("A-1", "milk", 2), overtaken)  # the transaction goes on
    assert len(await stream(bus, "order-A-1")) == 6


async def test_many_at_once_lose_nothing(bus: EventBus) -> None:
    handle = CommandHandler(OrderDecider(), stream=order_of, retries=50, snapshot=10)

    async def add(number: int) -> None:
        async with bus.transaction() as tx:
            await handle(Add("A-1", f"{number}", number), tx)

    await asyncio.gather(*(add(number) for number in range(40)))
    added = await bus.events.read("order-A-1")
    assert sorted(int(each.event.product) for each in added) == list(range(40))  # type: ignore[attr-defined]
    assert [each.recorded.version for each in added] == list(range(1, 41))


async def test_a_handler_records_in_the_flow_it_is_in(url: str) -> None:
    @subscribe(OrderPlaced, group="shipping")
    async def ship(event: OrderPlaced, ctx: Context) -> None:
        await handle_order(Ship(event.order_id), ctx)

    bus = EventBus("memory://", storage=url, handlers=[orders, ship])
    await bus.upgrade()
    async with bus:
        for tenant in ("t1", "t2"):
            placed = OrderPlaced(order_id="A-1", cents=5)
            await bus.events.append(
                "order-A-1", [placed], expected="absent", headers={"tenant": tenant}
            )
        await bus.until_idle()
        assert not [*await bus.parked.list(), *await bus.dead_letters.list()]
        for tenant in ("t1", "t2"):
            first, shipped = await bus.events.read("order-A-1", tenant=tenant)
            assert shipped.event == OrderShipped(order_id="A-1")
            message = shipped.recorded.message
            assert message.tenant == tenant
            assert message.headers["causationid"] == first.recorded.message.id
            assert message.headers["correlationid"] == first.recorded.message.id


async def test_a_transaction_begins_the_flow_of_a_tenant(url: str) -> None:
    broker = MemoryBroker()
    bus = EventBus(MemoryTransport(broker), storage=url, handlers=[orders])
    await bus.upgrade()
    async with bus:
        for tenant in ("t1", "t2", ""):
            async with bus.transaction(tenant=tenant) as tx:
                assert tx.tenant == tenant
                assert len(await handle_order(Place("A-1", 5), tx)) == 1
                assert await handle_order(Place("A-1", 5), tx) == ()
                order = await Order.load("A-1", tx)
                assert order.version == 1
                await tx.publish("user.created", {"id": 1}, key="1")
                if tenant:
                    with pytest.raises(LimitError, match="EB3002"):
                        await tx.publish("user.created", {}, headers={"tenant": "t3"})
        assert len(await bus.events.read("order-A-1", tenant="t2")) == 1
        with pytest.raises(LimitError, match="EB3002"):
            async with bus.transaction(tenant="\0") as tx:
                await tx.publish("user.created", {})
        await bus.until_idle()
    # in any order: their keys differ
    assert {message.key for message in broker.published("shop")} == {"t1/A-1", "t2/A-1", "A-1"}
    assert {message.key for message in broker.published("user")} == {"t1/1", "t2/1", "1"}
    assert len(broker.published("shop")) == len(broker.published("user")) == 3


async def test_an_unknown_type_in_the_stream_says_so(bus: EventBus) -> None:
    class Foreign(Event, type="elsewhere.happened"):
        pass

    await bus.events.append("order-A-1", [Foreign()], expected="any")
    with pytest.raises(UnknownTypeError) as caught:
        await told(bus, Place("A-1", 5))
    assert caught.value.code == "EB3103"


async def test_a_closed_stream_takes_no_more(bus: EventBus) -> None:
    await told(bus, Place("A-1", 5))
    await bus.events.archive("order-A-1")
    with pytest.raises(StreamClosedError) as caught:
        await told(bus, Ship("A-1"))
    assert caught.value.code == "EB5014"


async def test_without_a_transaction_there_is_no_stream() -> None:
    failed: list[Exception] = []

    @subscribe(OrderPlaced, group="shipping")
    async def ship(event: OrderPlaced, ctx: Context) -> None:
        try:
            await handle_order(Ship(event.order_id), ctx)
        except NoTransactionError as error:
            failed.append(error)

    async with EventBus("memory://", handlers=[ship]) as bus:
        await bus.publish(OrderPlaced(order_id="A-1", cents=5))
    assert [getattr(each, "code", "") for each in failed] == ["EB4105"]
