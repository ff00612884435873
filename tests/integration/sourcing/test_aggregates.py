"""Aggregates on a log: load, save, conflicts, what they read."""

import pytest

from eventbus import Event, EventBus, upcast
from eventbus.errors import ConcurrencyError, SourcingError
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.sourcing import Aggregate, applies
from tests.unit.sourcing import orders
from tests.unit.sourcing.orders import LineAdded, Order, OrderNoted, OrderPlaced


async def test_what_was_saved_is_loaded(bus: EventBus) -> None:
    async with bus.transaction() as tx:
        order = await Order.load("A-1", tx)
        assert (order.id, order.version) == ("A-1", 0)
        order.place(5)
        order.add("tea", 3)
        saved = await order.save(tx)
        assert saved is not None
        assert (saved.version, order.version) == (2, 2)
        assert await order.save(tx) is None
    async with bus.transaction() as tx:
        again = await Order.load("A-1", tx)
    assert (again.version, again.placed, again.cents, again.products) == (2, True, 8, {"tea": 3})


async def test_who_comes_second_is_told_and_nothing_is_written(bus: EventBus) -> None:
    async with bus.transaction() as tx:
        first, second = await Order.load("A-1", tx), await Order.load("A-1", tx)
        first.place(5)
        second.place(7)
        await first.save(tx)
        with pytest.raises(ConcurrencyError) as caught:
            await second.save(tx)
        assert caught.value.code == "EB5003"
    recorded = await bus.events.read("order-A-1")
    assert [each.event for each in recorded] == [OrderPlaced(order_id="A-1", cents=5)]


async def test_an_aggregate_without_an_id_is_not_saved(bus: EventBus) -> None:
    order = Order()
    order.place(5)
    async with bus.transaction() as tx:
        with pytest.raises(SourcingError) as caught:
            await order.save(tx)
    assert caught.value.code == "EB4204"


async def test_it_publishes_unless_told_otherwise(url: str) -> None:
    broker = MemoryBroker()
    bus = EventBus(MemoryTransport(broker), storage=url, handlers=[Order])
    await bus.upgrade()
    async with bus:
        async with bus.transaction() as tx:
            order = await Order.load("A-1", tx)
            order.place(5)
            await order.save(tx, publish=False)
            order.add("tea", 3)
            await order.save(tx)
    assert [message.type for message in broker.published("shop")] == ["shop.line-added"]


async def test_what_it_does_not_apply_it_does_not_decode(url: str) -> None:
    bus = EventBus("memory://", storage=url, handlers=[Order])  # knows what Order applies
    await bus.upgrade()
    async with bus:
        noted = [OrderNoted(order_id="A-1"), LineAdded(order_id="A-1", product="tea", cents=1)]
        await bus.events.append("order-A-1", noted, expected="absent")
        async with bus.transaction() as tx:
            order = await Order.load("A-1", tx)
    assert (order.version, order.cents) == (2, 1)


async def test_a_module_is_searched_for_aggregates() -> None:
    bus = EventBus("memory://", handlers=[orders])
    assert "shop.order-placed" in (await bus.describe()).types


async def test_old_events_are_read_through_their_upcasters(url: str) -> None:
    class WasPlaced(Event, type="shop.placed", key="order"):
        order: str
        amount: str

    class IsPlaced(Event, type="shop.placed", key="order", version=2):
        order: str
        cents: int

        @upcast(1)
        @staticmethod
        def _in_cents(data: dict[str, object]) -> dict[str, object]:
            return {"order": data["order"], "cents": round(float(str(data["amount"])) * 100)}

    class Purchase(Aggregate, stream="purchase"):
        cents = 0

        @applies(IsPlaced)
        def _placed(self, event: IsPlaced) -> None:
            self.cents += event.cents

    bus = EventBus("memory://", storage=url, handlers=[Purchase])
    await bus.upgrade()
    async with bus:
        await bus.events.append(
            "purchase-1", [WasPlaced(order="1", amount="4.20")], expected="absent", publish=False
        )
        async with bus.transaction() as tx:
            purchase = await Purchase.load("1", tx)
            assert purchase.cents == 420
            purchase.emit(IsPlaced(order="1", cents=1))
            await purchase.save(tx)
        assert [each.event for each in await bus.events.read("purchase-1")] == [
            IsPlaced(order="1", cents=420),
            IsPlaced(order="1", cents=1),
        ]
