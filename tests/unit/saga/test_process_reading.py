"""How a process class is read: routes, shape, digest, what is refused, what the linter says."""

from typing import Any

import pytest

from eventbus.errors import WiringError
from eventbus.saga import (
    Actions,
    Complete,
    Do,
    Process,
    State,
    cancels_on,
    initial,
    on,
    starts_on,
    step,
    undo,
)
from eventbus.saga.definition import Route, definition_of
from eventbus.saga.lint import lint
from eventbus.saga.naming import messages_named_by
from tests.unit.saga import shop
from tests.unit.saga.processes import RESERVE, Rich, begin, bell, doing, marked_process, policy
from tests.unit.saga.shop import (
    MINUTE,
    CardCharged,
    CardDeclined,
    CreateShipment,
    MailSent,
    OrderCancelled,
    OrderPlaced,
    OrderProcess,
    OrderState,
    OutOfStock,
    PaymentSeen,
    RefundCard,
    ReleaseStock,
    ReserveStock,
    SendMail,
    ShipmentCreated,
    StockReserved,
)


def test_the_compiled_form_knows_routes_messages_and_shape() -> None:
    definition = definition_of(Rich)
    assert definition.routes == (
        Route(event=OrderPlaced, starts=True),
        Route(event=PaymentSeen, by="payment_id"),
    )
    for cls in (ReserveStock, StockReserved, OutOfStock, SendMail, MailSent, ReleaseStock):
        assert cls in definition.messages
    assert b'"states":["trying","resting","paying","owed"]' in definition.graph
    assert b'["again",["resting"],"trying"]' in definition.graph


def test_the_digest_changes_with_the_transitions() -> None:
    assert definition_of(policy("hold")).digest == definition_of(policy("fail")).digest
    assert definition_of(doing()).digest != definition_of(policy("hold")).digest


@starts_on(OrderPlaced)
def begin_again(self: object, event: OrderPlaced) -> OrderState:
    return OrderState(order_id=event.order_id)


@cancels_on(OrderCancelled)
def cancels(self: object, s: OrderState, event: OrderCancelled) -> str:
    return ""


@on(OrderCancelled, when=initial)
def one_way(self: object, s: OrderState, event: OrderCancelled) -> Actions:
    yield Complete()


@on(OrderCancelled, when=initial)
def other_way(self: object, s: OrderState, event: OrderCancelled) -> Actions:
    yield Complete()


@on("bell", when=initial)
def bell_again(self: object, s: OrderState) -> Actions:
    yield Complete()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({}, "nothing starts it"),
        ({"a": begin, "b": begin_again}, "two methods take OrderPlaced"),
        ({"a": begin, "b": one_way, "c": other_way}, "take OrderCancelled in state 'initial'"),
        ({"a": begin, "b": bell, "c": bell_again}, "two methods take bell in state 'initial'"),
        ({"a": begin, "b": cancels}, "b is marked for declared steps"),
    ],
)
def test_a_process_that_cannot_be_read_is_refused(body: dict[str, Any], why: str) -> None:
    with pytest.raises(WiringError, match="EB1230") as caught:
        definition_of(marked_process(**body))
    assert why in caught.value.why


def test_a_process_without_a_name_is_refused() -> None:
    with pytest.raises(WiringError, match="it has no name"):
        definition_of(Process)


class Lost(Process[OrderState], name="lost", step_timeout=MINUTE):
    here, nowhere, end = State(), State(), State()

    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id)

    @on(OrderPlaced, when=initial, to=here)
    def placed(self, s: OrderState, event: OrderPlaced) -> Actions:
        undo: Any = self.release
        yield Do("reserve", ReserveStock(order_id=s.order_id), undo=undo)

    @on(CardCharged, when=here, to=end)
    def charged(self, s: OrderState, reply: CardCharged) -> Actions:
        yield Complete()

    @on(ShipmentCreated, when=nowhere)
    def shipped(self, s: OrderState, reply: ShipmentCreated) -> Actions:
        yield Complete()

    @undo  # type: ignore[type-var]  # that is the point
    def release(self, s: OrderState, reply: StockReserved) -> ReleaseStock:
        return ReleaseStock(order_id=s.order_id)


def test_states_and_replies_are_linted() -> None:
    findings = lint(definition_of(Lost))
    assert [(each.code, each.what) for each in findings] == [
        ("SAGA004", "the undo of release does not take None"),
        ("SAGA018", "nothing leads to state nowhere"),
        ("SAGA018", "nothing leads out of state end"),
        ("SAGA006", "state here does not take StockReserved"),
    ]
    assert lint(definition_of(OrderProcess)) == []
    assert lint(definition_of(Rich)) == []


def test_messages_are_found_by_name_in_the_code() -> None:
    def inner() -> object:
        return [shop.SendMail for _ in "x"], (lambda: RefundCard)

    named = CreateShipment

    def outer() -> object:
        return inner, named

    assert set(messages_named_by([inner])) >= {SendMail, MailSent, shop.MailRefused, RefundCard}
    assert messages_named_by([outer]) == (CreateShipment, ShipmentCreated)
    assert messages_named_by([len]) == ()


def test_a_step_of_the_other_front_end_is_not_read() -> None:
    @step
    def one(self: object, s: OrderState) -> ReserveStock:
        return RESERVE

    definition = definition_of(marked_process(begin=begin, bell=bell, one=one))
    assert definition.steps == ()
    assert CardDeclined not in definition.messages
