"""The author's methods: what they may do, and what becomes of a saga whose methods fail."""

from dataclasses import replace
from datetime import timedelta

import pytest
from pydantic import BaseModel

from eventbus.errors import SagaError, SagaMethodError
from eventbus.saga import Saga, cancels_on, migrates, starts_on, step, wait_step
from eventbus.saga.definition import definition_of
from eventbus.saga.input import Started
from tests.unit.saga.play import Play, sent
from tests.unit.saga.shop import (
    CardCharged,
    ChargeCard,
    OrderCancelled,
    OrderPlaced,
    OrderState,
    Parallel,
    PaymentSeen,
    PlaceOrder,
    RefundCard,
    ReserveStock,
    StockReserved,
)

MINUTE = timedelta(minutes=1)


class Broken(Saga[OrderState], name="broken", step_timeout=MINUTE):
    """Its methods do what the order id says."""

    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        if event.order_id == "no state":
            return None  # type: ignore[return-value]  # what an unchecked author may write
        if event.order_id == "no begin":
            raise ValueError
        return OrderState(order_id=event.order_id)

    @step(no_undo="x", when=lambda s: s.order_id != "no condition" or 1 / 0 > 0)
    def reserve(self, s: OrderState) -> ReserveStock:
        if s.order_id == "no command":
            return RefundCard(order_id="x")  # type: ignore[return-value]  # the same
        if s.order_id == "large":
            s.seen.append("x" * (1 << 20))
        return ReserveStock(order_id=s.order_id)

    @reserve.reply
    def reserved(self, s: OrderState, reply: StockReserved) -> OrderState | None:
        if s.order_id == "no answer":
            return 42  # type: ignore[return-value]  # the same
        if s.order_id == "bug":
            raise KeyError("reservation")
        return OrderState(order_id="another", reservation_id=reply.reservation_id)

    @cancels_on(OrderCancelled)
    def cancelled(self, s: OrderState, event: OrderCancelled) -> str:
        return None if s.order_id == "no reason" else "reason"  # type: ignore[return-value]


def begun(order_id: str) -> Play:
    play = Play(Broken, begin=False)
    play.feed(Started(OrderPlaced(order_id=order_id)))
    return play


@pytest.mark.parametrize(
    ("order_id", "code", "text"),
    [
        ("no state", "EB7003", "begin answered NoneType, not OrderState"),
        ("no begin", "EB7002", "begin failed: ValueError"),
        ("no condition", "EB7002", "failed: ZeroDivisionError"),
        ("no command", "EB7003", "reserve answered RefundCard, not ReserveStock"),
        ("large", "EB7005", "too large: its state has 1,0"),
    ],
)
def test_a_start_that_fails_decides_nothing(order_id: str, code: str, text: str) -> None:
    with pytest.raises(SagaError, match=text) as caught:
        begun(order_id)
    assert caught.value.code == code
    assert str(caught.value).count("\n") == 3


def test_a_method_may_change_the_state_or_answer_another_one() -> None:
    play = begun("A-1")
    play.reply("reserve")
    assert play.state == OrderState(order_id="another", reservation_id="R-1")


@pytest.mark.parametrize(
    ("order_id", "code", "why"),
    [("no answer", "EB7003", "int"), ("bug", "EB7002", "'reservation'")],
)
def test_a_reply_whose_method_fails_decides_nothing(order_id: str, code: str, why: str) -> None:
    play = begun(order_id)
    before = play.saga
    with pytest.raises(SagaMethodError, match=why) as caught:
        play.reply("reserve")
    assert (caught.value.code, play.saga) == (code, before)


def test_a_cancel_says_why() -> None:
    with pytest.raises(SagaMethodError, match="answered NoneType, not str"):
        begun("no reason").event(OrderCancelled(order_id="A-1"))


def test_a_state_that_does_not_validate_any_more_is_said_by_its_fields() -> None:
    play = Play(PlaceOrder)
    play.saga = replace(play.saga, data=b'{"charge_id": 4}')
    with pytest.raises(SagaMethodError, match="charge_id, order_id") as caught:
        play.reply("reserve")
    assert caught.value.code == "EB7004"
    play.saga = replace(play.saga, data=b"no JSON")
    with pytest.raises(SagaMethodError, match="the body"):
        play.reply("reserve")


def test_a_step_log_has_an_end() -> None:
    play = Play(Parallel)
    first = play.steps[0]
    done = replace(first, status="succeeded", name="reserve")
    play.steps = [*play.steps, *(replace(done, seq=seq) for seq in range(2, 1001))]
    play.steps = [replace(row, status="succeeded") for row in play.steps]
    play.steps[0] = replace(first, effect_id=play.resolve_id("x"))
    with pytest.raises(SagaError, match="more than 1,000 steps") as caught:
        play.reply("charge")
        play.reply("reserve")
    assert caught.value.code == "EB7005"


class Narrow(BaseModel):
    order: str
    paid: bool = False


class Version3(Saga[Narrow], name="broken", version=3, step_timeout=MINUTE):
    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> Narrow:
        return Narrow(order=event.order_id)

    @step(no_undo="x", renamed_from="hold")
    def keep(self, s: Narrow) -> ReserveStock:
        return ReserveStock(order_id=s.order)

    @step(no_undo="x")
    def charge(self, s: Narrow) -> ChargeCard:
        return ChargeCard(order_id=s.order)

    @wait_step(PaymentSeen)
    def paid(self, s: Narrow, event: PaymentSeen) -> None:
        s.paid = True

    @migrates(from_version=2)
    @staticmethod
    def two_to_three(state: dict[str, object]) -> dict[str, object]:
        if state["order"] == "bad":
            raise ValueError("bad order")
        return {"order": state["order"]}

    @staticmethod
    @migrates(from_version=1, steps={"reserve": "hold"})
    def one_to_two(state: dict[str, object]) -> dict[str, object]:
        return {"order": state["order_id"]}


def old(order_id: str = "A-1") -> Play:
    play = begun(order_id)
    play.definition = definition_of(Version3)
    return play


def test_an_open_saga_moves_to_the_new_version_with_its_next_transition() -> None:
    play = old()
    decision = play.reply("reserve")
    assert play.state == Narrow(order="A-1")
    assert decision.data_version == 3
    assert play.statuses() == {"keep": "succeeded", "charge": "dispatched"}
    assert sent(decision) == [("forward", ChargeCard)]
    assert play.definition.reads_from == {1, 2, 3}


def test_a_saga_moves_only_the_steps_of_its_way_that_are_left() -> None:
    play = old()
    play.saga = replace(play.saga, data_version=2, data=b'{"order": "A-2"}', state_name="hold")
    play.steps = [replace(row, name="hold") for row in play.steps]
    play.reply("hold", reply=StockReserved(reservation_id="R-1"))
    assert play.state == Narrow(order="A-2")
    assert play.saga.state_name == "keep"
    assert play.statuses() == {"keep": "succeeded", "charge": "dispatched"}


def test_an_input_that_is_ignored_moves_nothing() -> None:
    play = old()
    before = play.saga
    assert play.verb("explode").ignored is not None
    assert play.saga == replace(before, version=2)
    assert play.statuses() == {"reserve": "dispatched"}


def test_a_migration_that_fails_decides_nothing() -> None:
    play = old("bad")
    with pytest.raises(SagaMethodError, match="two_to_three failed: ValueError"):
        play.reply("reserve")


def test_a_version_from_which_nothing_leads_is_refused() -> None:
    play = begun("A-1")
    play.definition = replace(definition_of(PlaceOrder), version=2)
    with pytest.raises(SagaError, match="at version 1, which version 2 cannot read") as caught:
        play.reply("reserve")
    assert caught.value.code == "EB7007"


def test_a_step_that_is_gone_is_refused() -> None:
    play = Play(Parallel)
    play.definition = definition_of(Broken)
    with pytest.raises(SagaError, match="no step 'charge' any more") as caught:
        play.reply("charge", reply=CardCharged(charge_id="C"))
    assert caught.value.code == "EB7008"
