"""What an aggregate may declare, and how its attributes change."""

import pytest

from eventbus import Event
from eventbus.errors import SourcingError
from eventbus.sourcing import Aggregate, applies
from tests.unit.sourcing.orders import LineAdded, Order, OrderPlaced, OrderShipped


def test_what_is_emitted_is_applied_at_once() -> None:
    order = Order("A-1")
    order.place(5)
    order.add("tea", 3)
    assert (order.placed, order.cents, order.products) == (True, 8, {"tea": 3})


def test_each_object_begins_with_values_of_its_own() -> None:
    class Basket(Aggregate, stream="basket"):
        products: list[str] = []  # noqa: RUF012 - that is the point

        @applies(LineAdded)
        def _added(self, event: LineAdded) -> None:
            self.products.append(event.product)

    first, second = Basket("1"), Basket("2")
    first.emit(LineAdded(order_id="1", product="tea", cents=1))
    assert (first.products, second.products, Basket.products) == (["tea"], [], [])


def test_an_attribute_is_changed_by_events_only() -> None:
    order = Order("A-1")
    with pytest.raises(SourcingError) as caught:
        order.placed = True
    assert caught.value.code == "EB4202"
    assert order.placed is False


def test_an_attribute_stays_closed_after_a_method_that_failed() -> None:
    class Fragile(Aggregate, stream="fragile"):
        broken = False

        @applies(OrderPlaced)
        def _placed(self, event: OrderPlaced) -> None:
            raise LookupError

    fragile = Fragile("1")
    with pytest.raises(LookupError):
        fragile.emit(OrderPlaced(order_id="1", cents=1))
    with pytest.raises(SourcingError):
        fragile.broken = True


def test_only_events_are_emitted() -> None:
    with pytest.raises(SourcingError) as caught:
        Order("A-1").emit("placed")  # type: ignore[arg-type]  # that is the point
    assert caught.value.code == "EB4204"


def test_a_base_class_is_applied_to_what_nothing_nearer_applies_to() -> None:
    class Counting(Aggregate, stream="counting"):
        placed = 0
        others = 0

        @applies(OrderPlaced)
        def _placed(self, event: OrderPlaced) -> None:
            self.placed += 1

        @applies(Event)
        def _other(self, event: Event) -> None:
            self.others += 1

    counting = Counting("1")
    counting.emit(OrderPlaced(order_id="1", cents=1))
    counting.emit(OrderShipped(order_id="1"))
    assert (counting.placed, counting.others) == (1, 1)


@pytest.mark.parametrize("stream", ["", "a-b"])
def test_the_stream_is_a_word_without_a_hyphen(stream: str) -> None:
    with pytest.raises(SourcingError) as caught:

        class Wrong(Aggregate, stream=stream):
            pass

    assert caught.value.code == "EB4201"


def test_two_methods_for_one_event_are_refused() -> None:
    with pytest.raises(SourcingError, match="_one and _two apply OrderPlaced"):

        class Wrong(Aggregate, stream="wrong"):
            @applies(OrderPlaced)
            def _one(self, event: OrderPlaced) -> None: ...

            @applies(OrderPlaced)
            def _two(self, event: OrderPlaced) -> None: ...


def test_an_initialiser_of_its_own_is_refused() -> None:
    with pytest.raises(SourcingError, match="not in an __init__"):

        class Wrong(Aggregate, stream="wrong"):
            def __init__(self) -> None:
                super().__init__("1")
