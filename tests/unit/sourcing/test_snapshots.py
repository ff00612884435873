"""How states are written, which of them cannot be, and what changes their hash."""

from dataclasses import dataclass, make_dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from eventbus.errors import SourcingError
from eventbus.sourcing import Aggregate, CommandHandler, applies
from eventbus.sourcing.attributes import AttributesForm
from eventbus.sourcing.snapshots import TypeForm, due_every, state_type
from tests.unit.sourcing.orders import Order, OrderDecider, OrderPlaced, State, order_of


class Basket(BaseModel):
    at: datetime
    sums: dict[str, Decimal] = {}


@dataclass(frozen=True)
class Empty:
    pass


@dataclass(frozen=True)
class Open:
    lines: tuple[int, ...]


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (State, State(cents=3, products=("tea",))),
        (Basket, Basket(at=datetime(2026, 1, 1), sums={"tea": Decimal("0.1")})),
        (Empty | Open, Open((1, 2))),
        (frozenset[int], frozenset([1])),
        (bool, True),
    ],
)
def test_a_state_comes_back_as_it_was(kind: Any, state: Any) -> None:
    form = TypeForm(kind, "test")
    assert form.read(form.write(state)) == state


def test_another_schema_has_another_hash() -> None:
    was = make_dataclass("Basket", [("cents", int)])
    now = make_dataclass("Basket", [("cents", int), ("paid", bool, False)])
    assert TypeForm(was, "test").hash == TypeForm(was, "test").hash
    assert TypeForm(was, "test").hash != TypeForm(now, "test").hash


@pytest.mark.parametrize(
    ("kind", "state"),
    [(int, "1"), (float, float("nan")), (Empty | Open, object()), (list[int], (1, 2))],
    ids=["another type", "not equal to itself", "none of a union", "a tuple as a list"],
)
def test_a_state_that_would_not_come_back_is_not_kept(kind: Any, state: Any) -> None:
    with pytest.raises(SourcingError) as caught:
        TypeForm(kind, "test").write(state)
    assert caught.value.code == "EB4203"


def test_a_type_without_a_schema_is_refused() -> None:
    class Plain:
        pass

    with pytest.raises(SourcingError) as caught:
        TypeForm(Plain, "test")
    assert caught.value.code == "EB4203"
    assert "snapshot=0" in caught.value.next


def test_the_type_of_a_state_is_what_evolve_says() -> None:
    class Silent:
        def initial(self):  # type: ignore[no-untyped-def]  # without annotations
            return 3

        def decide(self, command, state):  # type: ignore[no-untyped-def]
            return []

        def evolve(self, state, event):  # type: ignore[no-untyped-def]
            return state

    assert state_type(OrderDecider()) is State
    assert state_type(Silent()) is int


def test_a_snapshot_is_due_by_count_or_by_predicate() -> None:
    assert [since for since in range(5) if due_every(3)(None, since)] == [3, 4]
    assert not due_every(0)(None, 10**9)
    assert due_every(lambda state, since: state == "full" and since > 1)("full", 2)


def test_less_than_no_retries_or_snapshots_are_refused() -> None:
    for wrong in ({"retries": -1}, {"snapshot": -1}):
        with pytest.raises(SourcingError) as caught:
            CommandHandler(OrderDecider(), stream=order_of, **wrong)
        assert caught.value.code == "EB4201"


def test_the_attributes_of_an_aggregate_come_back() -> None:
    order = Order("A-1")
    order.place(5)
    order.add("tea", 3)
    form = AttributesForm(Order, Aggregate)
    again = form.read(form.write(order))
    assert (again.id, again.placed, again.cents, again.products) == ("A-1", True, 8, {"tea": 3})


class Late(Aggregate, stream="late"):
    at: datetime

    @applies(OrderPlaced)
    def _placed(self, event: OrderPlaced) -> None:
        self.at = datetime.fromtimestamp(event.cents)


def test_an_attribute_that_is_not_set_yet_stays_so() -> None:
    form = AttributesForm(Late, Aggregate)
    assert "at" not in vars(form.read(form.write(Late("1"))))
    late = Late("1")
    late.emit(OrderPlaced(order_id="1", cents=1))
    assert form.read(form.write(late)).at == late.at


def test_an_attribute_that_is_not_declared_is_not_kept() -> None:
    class Loose(Aggregate, stream="loose"):
        @applies(OrderPlaced)
        def _placed(self, event: OrderPlaced) -> None:
            self.cents = event.cents

    loose = Loose("1")
    loose.emit(OrderPlaced(order_id="1", cents=1))
    with pytest.raises(SourcingError, match="not declared in the class: cents"):
        AttributesForm(Loose, Aggregate).write(loose)


def test_another_attribute_changes_the_hash() -> None:
    class More(Order, stream="order"):
        country = "UK"

    assert AttributesForm(Order, Aggregate).hash != AttributesForm(More, Aggregate).hash
