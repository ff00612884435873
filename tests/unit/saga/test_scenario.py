"""The harness in virtual time: the page of the design, and what it says when it is otherwise."""

from datetime import timedelta

import pytest

from eventbus.saga import Saga, starts_on, step
from eventbus.testing import scenario
from tests.unit.saga.shop import (
    MINUTE,
    CardCharged,
    CardDeclined,
    ChargeCard,
    CreateShipment,
    MailSent,
    Mixed,
    OrderCancelled,
    OrderPlaced,
    OrderState,
    Parallel,
    PaymentSeen,
    PlaceOrder,
    RefundCard,
    ReleaseStock,
    ReserveStock,
    SendMail,
    ShipmentCreated,
    StockReserved,
)

START = OrderPlaced(order_id="A-1")
RESERVED, CHARGED = StockReserved(reservation_id="R-1"), CardCharged(charge_id="C-9")


def test_charge_times_out() -> None:
    flow = scenario(PlaceOrder).given(START).then_sent(ReserveStock)
    flow.when_reply("reserve", RESERVED).then_sent(ChargeCard)
    flow.when_time_passes(2 * MINUTE).then_sent(RefundCard).then_status("compensating")
    flow.when_reply("charge", CHARGED).then_ignored("late")
    flow.when_undone("charge").then_sent(ReleaseStock)
    flow.when_undone("reserve").then_status("compensated")


def test_time_fires_what_is_due_in_its_order() -> None:
    flow = scenario(PlaceOrder).given(START)
    assert flow.timers == {"deadline": 30 * MINUTE, "step:0": timedelta(seconds=5)}
    flow.when_time_passes(timedelta(seconds=15)).then_sent(ReserveStock, ReserveStock)
    assert flow.timers == {"deadline": 30 * MINUTE - timedelta(seconds=15), "step:0": 2 * MINUTE}
    flow.when_time_passes(MINUTE).then_sent()
    flow.when_time_passes(MINUTE).then_status("compensating").then_sent(ReleaseStock)
    flow.when_time_passes(timedelta(hours=1)).then_stuck("undo-failed")


def test_values_are_compared_and_classes_are_enough() -> None:
    flow = scenario(PlaceOrder).given(START).when_reply("reserve", RESERVED)
    flow.then_sent(ChargeCard(order_id="A-1")).then_state(reservation_id="R-1", order_id="A-1")
    flow.then_would_send(
        "would send: 1 RefundCard (charge: unknown)  2 ReleaseStock (reserve: R-1)"
        "  ·  ship not started  ·  pivot not passed"
    )
    flow.then_published()


def test_a_pause_keeps_what_comes_and_time_stands_still() -> None:
    flow = scenario(PlaceOrder).given(START).when_verb("pause")
    flow.when_reply("reserve", RESERVED).then_sent()
    flow.when_time_passes(timedelta(hours=5)).then_sent().then_status("running")
    assert flow.timers["deadline"] == 30 * MINUTE
    flow.when_verb("resume").then_sent(ChargeCard)


def test_unknown_outcomes_and_the_pivot() -> None:
    flow = scenario(Parallel).given(START).then_sent(ReserveStock, ChargeCard)
    flow.when_unknown("charge").then_status("resolving").then_sent(ChargeCard)
    flow.when_reply("charge", CHARGED).when_reply("reserve", RESERVED).then_sent(CreateShipment)
    flow.when_event(OrderCancelled(order_id="A-1")).then_status("resolving")
    flow.when_cancelled("ship").then_status("compensating").then_sent(RefundCard)
    flow.when_undo_rejected("charge", CardDeclined(reason="gone")).then_stuck("undo-failed")
    flow.when_verb("skip", reason="by hand").then_sent(ReleaseStock)


def test_all_kinds_of_steps_can_be_played() -> None:
    flow = scenario(Mixed).given(START)
    flow.when_event(PaymentSeen(payment_id="P-A-1")).then_ignored("held")
    flow.when_reply("fetch", RESERVED).then_state(seen=["P-A-1"])
    flow.when_time_passes(MINUTE).then_sent(SendMail)
    flow.when_reply("mail", MailSent()).then_status("completed")
    flow = scenario(Mixed, rejects=["book"]).given(START).then_status("compensated")
    flow = scenario(Mixed).given(START).when_reply("fetch", RESERVED)
    flow.when_time_passes(2 * MINUTE).then_status("compensating")
    flow.when_undone("fetch").then_status("compensated")


@pytest.mark.parametrize(
    ("look", "text"),
    [
        (lambda f: f.then_sent(RefundCard), "wanted sent RefundCard"),
        (lambda f: f.then_sent(RefundCard, RefundCard), "found  sent ReserveStock"),
        (lambda f: f.then_sent(ReserveStock(order_id="B")), "ReserveStock"),
        (lambda f: f.then_status("completed"), "wanted status completed"),
        (lambda f: f.then_stuck("unknown"), "found  not stuck"),
        (lambda f: f.then_ignored("late"), "found  ignored as None"),
        (lambda f: f.then_state(order_id="B"), "found  state with {'order_id': 'A-1'}"),
        (lambda f: f.then_would_send("x"), "would send: 1 ReleaseStock"),
        (lambda f: f.then_published(START), "found  published nothing"),
        (lambda f: f.when_reply("ship", ShipmentCreated(shipment_id="S")), "no forward step"),
        (lambda f: f.when_undone("reserve"), "no undo step 'reserve'"),
    ],
)
def test_what_is_otherwise_is_told_with_the_story(look: object, text: str) -> None:
    flow = scenario(PlaceOrder).given(START)
    with pytest.raises(AssertionError) as caught:
        look(flow)  # type: ignore[operator]  # a function of the scenario
    told = str(caught.value)
    assert text in told
    assert "1 given OrderPlaced(order_id='A-1', cents=0)" in told
    assert "status running, steps reserve forward dispatched" in told


class Short(Saga[OrderState], name="short"):
    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id)

    @step(no_undo="x", on_unknown="stuck", timeout=MINUTE)
    def reserve(self, s: OrderState) -> ReserveStock:
        return ReserveStock(order_id=s.order_id)


def test_a_saga_that_is_stuck_is_told_with_its_reason() -> None:
    flow = scenario(Short).given(START).when_time_passes(MINUTE)
    with pytest.raises(AssertionError, match="found  stuck: unknown, no answer from step"):
        flow.then_stuck("attempts")
