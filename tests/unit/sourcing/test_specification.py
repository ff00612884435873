"""given, when, then: what it accepts, and above all what it does not."""

from collections.abc import Sequence

import pytest

from eventbus import Event
from eventbus.testing import given
from tests.unit.sourcing.orders import (
    Add,
    LineAdded,
    Order,
    OrderDecider,
    OrderPlaced,
    OrderShipped,
    Place,
    RefusedError,
    Ship,
)

PLACED = OrderPlaced(order_id="given", cents=5)
SHIPPED = OrderShipped(order_id="given")


def test_a_decision_is_compared_with_its_events() -> None:
    given(OrderDecider()).when(Place("given", 5)).then(PLACED)
    given(OrderDecider(), PLACED).when(Ship("given")).then(SHIPPED)
    given(OrderDecider(), PLACED).when(Place("given", 7)).then_nothing()
    given(OrderDecider(), PLACED, SHIPPED).when(Add("given", "tea", 1)).then_raises(
        RefusedError, match="on its way"
    )


def test_an_aggregate_is_told_by_a_function() -> None:
    given(Order).when(lambda order: order.place(5)).then(PLACED)
    given(Order, PLACED).when(lambda order: order.place(7)).then_nothing()
    given(Order, PLACED, SHIPPED).when(lambda order: order.add("tea", 1)).then_raises(RefusedError)


def test_other_events_are_shown_as_a_difference() -> None:
    then = given(OrderDecider()).when(Place("given", 5))
    with pytest.raises(AssertionError, match=r"- OrderShipped\(.*\n\+ OrderPlaced\("):
        then.then(SHIPPED)
    with pytest.raises(AssertionError, match=r"\+ OrderPlaced\("):
        then.then_nothing()


def test_the_order_and_the_number_of_events_count() -> None:
    def twice(order: Order) -> None:
        order.place(5)
        order.ship()

    given(Order).when(twice).then(PLACED, SHIPPED)
    with pytest.raises(AssertionError):
        given(Order).when(twice).then(SHIPPED, PLACED)
    with pytest.raises(AssertionError):
        given(Order).when(twice).then(PLACED)


def test_a_refusal_is_not_taken_for_nothing() -> None:
    then = given(OrderDecider()).when(Ship("given"))
    with pytest.raises(RefusedError):
        then.then_nothing()
    with pytest.raises(RefusedError):
        then.then_raises(KeyError)


def test_a_refusal_that_did_not_come_says_what_was_decided() -> None:
    with pytest.raises(AssertionError, match="no RefusedError; decided was: OrderPlaced"):
        given(OrderDecider()).when(Place("given", 5)).then_raises(RefusedError)
    with pytest.raises(AssertionError, match="'shipped already' is not found"):
        given(OrderDecider()).when(Ship("given")).then_raises(RefusedError, match="shipped already")


def test_a_decider_that_changes_the_state_is_found_out() -> None:
    class Hoarder:
        def initial(self) -> list[int]:
            return []

        def decide(self, command: Add, state: list[int]) -> Sequence[Event]:
            state.append(command.cents)
            return [LineAdded(order_id=command.order_id, product="", cents=sum(state))]

        def evolve(self, state: list[int], event: Event) -> list[int]:
            return state

    with pytest.raises(AssertionError, match="decide has changed the state"):
        given(Hoarder()).when(Add("A-1", "tea", 1))
