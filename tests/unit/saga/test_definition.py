"""The compiled form: what it knows, what its digest covers, which classes cannot be read."""

from dataclasses import replace
from datetime import timedelta
from types import new_class
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
import pytest

from eventbus import Reply, Undone
from eventbus.errors import WiringError
from eventbus.saga import Resend, Saga, Stash, call_step, cancels_on, starts_on, step, wait_step
from eventbus.saga.declaring import marked
from eventbus.saga.definition import Route, StepSpec, definition_of, effect_of
from tests.unit.saga.shop import (
    CardCharged,
    CardDeclined,
    ChargeCard,
    CreateShipment,
    Mixed,
    OrderCancelled,
    OrderPlaced,
    OrderState,
    OutOfStock,
    Parallel,
    PaymentSeen,
    PlaceOrder,
    ReleaseStock,
    ReserveStock,
    ShipmentCreated,
    StockReserved,
)

if TYPE_CHECKING:
    from tests.unit.saga.shop import SendMail as Elsewhere

MINUTE = timedelta(minutes=1)


def test_a_class_is_compiled_once_and_knows_its_steps_in_order() -> None:
    definition = definition_of(PlaceOrder)
    assert definition is definition_of(PlaceOrder)
    assert [spec.name for spec in definition.steps] == ["reserve", "charge", "ship"]
    assert (definition.saga, definition.version, definition.state) == ("place-order", 1, OrderState)
    assert definition.has_pivot
    assert not definition.has_local_steps
    assert definition_of(Mixed).has_local_steps
    assert definition.by_name["reserve"] == StepSpec(
        name="reserve",
        command=ReserveStock,
        replies=StockReserved,
        rejects=(OutOfStock,),
        undo="release",
        undo_command=ReleaseStock,
        timeout=2 * MINUTE,
        resend=Resend(attempts=3),
    )
    assert definition.by_name["ship"].timeout == 10 * MINUTE


def test_events_find_their_saga_by_its_routes() -> None:
    assert definition_of(PlaceOrder).routes == (
        Route(event=OrderPlaced, starts=True),
        Route(event=OrderCancelled),
    )
    mixed = definition_of(Mixed)
    assert mixed.routes[1] == Route(event=PaymentSeen, by="payment_id", missing=Stash())
    assert mixed.correlated == ("payment_id",)


def test_all_messages_of_a_saga_are_known_by_type() -> None:
    known = definition_of(PlaceOrder).by_type
    for cls in (OrderPlaced, OrderCancelled, ReserveStock, StockReserved, OutOfStock, Undone):
        assert cls in known.values()
    assert known["shipping.shipment-created"] is ShipmentCreated


def test_the_digest_covers_the_graph_and_not_time() -> None:
    definition = definition_of(PlaceOrder)
    same = replace(definition, deadline=None, step_timeout=None)
    assert same.digest == definition.digest
    renamed = replace(definition.steps[0], name="hold")
    changed = replace(definition, steps=(renamed, *definition.steps[1:]))
    assert changed.digest != definition.digest
    reversed_ = replace(definition, steps=definition.steps[::-1])
    assert reversed_.digest != definition.digest
    assert definition.row.digest == definition.digest
    assert [each["name"] for each in orjson.loads(definition.row.graph)["steps"]] == [
        "reserve",
        "charge",
        "ship",
    ]


def test_effects_differ_by_saga_step_occurrence_and_phase() -> None:
    one, two = UUID(int=1), UUID(int=2)
    effects = {
        effect_of(saga, step, occurrence, phase)
        for saga in (one, two)
        for step in ("a", "b")
        for occurrence in (0, 1)
        for phase in ("forward", "undo", "resolve")
    }
    assert len(effects) == 24


def test_waits_double_up_to_their_cap() -> None:
    resend = Resend(attempts=5, first=timedelta(seconds=1), cap=timedelta(seconds=5))
    assert [resend.wait(n).seconds for n in (1, 2, 3, 4, 1000)] == [1, 2, 4, 5, 5]


def test_a_step_on_an_instance_is_the_method() -> None:
    saga = PlaceOrder()
    state = OrderState(order_id="A-1")
    assert saga.reserve(state) == ReserveStock(order_id="A-1")
    saga.reserved(state, StockReserved(reservation_id="R-1"))
    assert state.reservation_id == "R-1"
    assert PlaceOrder.reserve.method.__name__ == "reserve"
    assert Mixed.book.kind == "local"
    assert Mixed.fetch.kind == "call"


def test_a_subclass_takes_the_place_of_what_it_replaces() -> None:
    class Faster(PlaceOrder, name="faster"):
        @step(pivot=True, on_unknown="stuck", timeout=MINUTE)
        def ship(self, s: OrderState) -> CreateShipment:
            return CreateShipment(order_id=s.order_id)

    definition = definition_of(Faster)
    assert [spec.name for spec in definition.steps] == ["reserve", "charge", "ship"]
    assert definition.by_name["ship"].on_unknown == "stuck"
    assert definition.by_name["charge"].timeout is None


@starts_on(OrderPlaced)
def begin(self: object, event: OrderPlaced) -> OrderState:
    return OrderState(order_id=event.order_id)


def class_with(**body: Any) -> type[Saga[Any]]:
    body = {"begin": begin, **body}
    bases = (Saga[OrderState],)
    return new_class("Wrong", bases, {"name": "wrong"}, lambda place: place.update(body))


def begin_again(self: object, event: OrderPlaced) -> OrderState:
    return OrderState(order_id=event.order_id)


def silent(self: object, s: OrderState):  # type: ignore[no-untyped-def]  # noqa: ANN201, RUF100
    return None


def elsewhere(self: object, s: OrderState) -> "Elsewhere":
    return s  # type: ignore[return-value]  # never run


def a_text(self: object, s: OrderState) -> str:
    return ""


def nameless(self: object, s: OrderState) -> "ChargeCard":
    return ChargeCard(order_id="x")


async def call_of_text(self: object, s: OrderState, call: object) -> str:
    return ""


async def call_of_a_charge(self: object, s: OrderState, call: object) -> CardCharged:
    raise AssertionError


untyped_step: Any = step
untyped_call_step: Any = call_step


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"begin": None}, "nothing starts it"),
        ({"again": starts_on(OrderPlaced)(begin_again)}, "two methods take OrderPl"),
        ({"one": marked("what")(a_text)}, "one is marked for a process"),
        ({"one": step(silent)}, "silent does not say what it returns"),
        ({"one": step(elsewhere)}, "cannot be read: name 'Elsewhere' is not defined"),
        ({"one": untyped_step(a_text)}, "a_text returns <class 'str'>"),
        ({"one": untyped_call_step(call_of_text)}, "one returns <class 'str'>"),
        (
            {"one": untyped_call_step(call_of_a_charge, rejects=(CardDeclined,))},
            "one has rejects=CardDeclined, no exception",
        ),
    ],
)
def test_a_class_that_cannot_be_read_is_refused(body: dict[str, Any], why: str) -> None:
    with pytest.raises(WiringError, match="EB1230") as caught:
        definition_of(class_with(**body))
    assert why in caught.value.why


def test_two_cancels_of_one_event_are_refused() -> None:
    def one(self: object, s: OrderState, event: OrderCancelled) -> str:
        return ""

    def two(self: object, s: OrderState, event: OrderCancelled) -> str:
        return ""

    cls = class_with(one=cancels_on(OrderCancelled)(one), two=cancels_on(OrderCancelled)(two))
    with pytest.raises(WiringError, match="EB1230"):
        definition_of(cls)


def test_a_class_without_a_name_or_a_state_is_refused() -> None:
    with pytest.raises(WiringError, match="it has no name"):
        definition_of(Saga)

    class Stateless(Saga, name="stateless"):  # type: ignore[type-arg]  # that is the point
        @starts_on(OrderPlaced)
        def begin(self, event: OrderPlaced) -> OrderState:
            return OrderState(order_id=event.order_id)

    with pytest.raises(WiringError, match="Saga names no state"):
        definition_of(Stateless)


def test_a_wait_has_a_time_limit_of_the_saga_unless_it_names_its_own() -> None:
    def paid(self: object, s: OrderState, event: PaymentSeen) -> None: ...

    named = class_with(paid=wait_step(PaymentSeen, timeout=MINUTE, missing="drop")(paid))
    assert definition_of(named).steps[0].timeout == MINUTE
    assert definition_of(named).routes[1].missing == "drop"
    assert definition_of(Mixed).by_name["paid"].timeout == 2 * MINUTE
    assert definition_of(Mixed).by_name["rested"].timeout is None
    assert definition_of(Mixed).by_name["book"].timeout is None


def test_parallel_steps_are_known_by_their_name() -> None:
    assert [spec.parallel for spec in definition_of(Parallel).steps] == ["both", "both", None, None]
    assert isinstance(CardCharged(charge_id="x"), Reply)
