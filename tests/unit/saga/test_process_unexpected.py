"""What a state of a process does not take: recorded, held, refused, or for a person."""

from types import FunctionType, new_class
from typing import Any

import pytest

from eventbus.errors import SagaMethodError
from eventbus.saga import Actions, Do, Process, State, initial, on
from eventbus.saga.input import Started
from tests.unit.saga.play import Play
from tests.unit.saga.processes import Rich, begin, policy
from tests.unit.saga.shop import (
    MINUTE,
    CardCharged,
    ChargeCard,
    MailSent,
    OrderCancelled,
    OrderPlaced,
    OrderState,
    PaymentSeen,
    ReserveStock,
    SendMail,
    StockReserved,
)


def test_an_input_that_the_state_does_not_take_is_recorded() -> None:
    play = Play(Rich)
    assert play.event(PaymentSeen(payment_id="P-A-1")).ignored == "unexpected"
    play.reply("reserve", "rejected")
    play.fire("timer:again")
    play.timers["timer:again"] = MINUTE
    assert play.fire("timer:again").ignored == "unexpected"
    assert play.feed(Started(OrderPlaced(order_id="A-1"))).ignored == "duplicate"


def test_what_is_held_is_taken_once_its_state_is_there() -> None:
    play = Play(policy("hold"))
    early = play.reply("reserve")
    assert (early.ignored, play.state.reservation_id) == (None, None)
    assert play.row("reserve").status == "succeeded"
    assert play.event(OrderCancelled(order_id="A-1")).ignored == "held"
    assert play.fire("timer:bell").ignored == "unexpected"
    done = play.reply("charge")
    assert (done.status, play.state.reservation_id, done.drain) == ("completed", "R-1", True)


def test_a_reply_that_is_recorded_too_early_leads_nowhere() -> None:
    play = Play(policy("record"))
    play.reply("reserve")
    assert play.reply("charge").status == "running"
    assert play.row("reserve").status == "succeeded"


@pytest.mark.parametrize("what", ["event", "reply", "timer"])
def test_what_is_unexpected_may_need_a_person(what: str) -> None:
    play = Play(policy("stuck"))
    decision = unexpected(play, what)
    assert decision.status == "stuck"
    assert decision.error is not None
    assert decision.error.reason == "unexpected"
    assert play.verb("retry").status == "running"


def unexpected(play: Play, what: str) -> Any:
    if what == "event":
        return play.event(OrderCancelled(order_id="A-1"))
    return play.reply("reserve") if what == "reply" else play.fire("timer:bell")


@pytest.mark.parametrize("what", ["event", "reply", "timer"])
def test_what_is_unexpected_may_fail(what: str) -> None:
    with pytest.raises(SagaMethodError, match="EB7006 saga policy A-1 has no transition for"):
        unexpected(Play(policy("fail")), what)


def test_an_unexpected_input_is_told_with_the_states_that_take_it() -> None:
    with pytest.raises(SagaMethodError) as caught:
        unexpected(Play(policy("fail")), "event")
    assert caught.value.what.endswith("for shop.order-cancelled in state 'one'")
    assert caught.value.where == "journal entry 2"
    assert caught.value.why == "Policy has an @on(OrderCancelled), but not when=one"
    with pytest.raises(SagaMethodError) as caught:
        unexpected(Play(policy("fail")), "timer")
    assert caught.value.why == "Policy has no @on('bell')"


def test_what_is_held_waits_until_its_own_state_is_there() -> None:
    play = Play(policy("hold"))
    play.reply("reserve")
    play.verb("pause")
    assert play.row("reserve").reply is not None
    play.feed(Started(OrderPlaced(order_id="A-1")))
    assert play.state.reservation_id is None


def test_what_is_held_stays_held_while_other_states_come() -> None:
    a, b, c = State(), State(), State()

    def placed(self: object, s: OrderState, event: OrderPlaced) -> Actions:
        yield Do("reserve", ReserveStock(order_id=s.order_id), no_undo="x")
        yield Do("charge", ChargeCard(order_id=s.order_id), no_undo="x")
        yield Do("mail", SendMail(order_id=s.order_id), no_undo="x")

    def nothing(self: object, s: OrderState, reply: Any) -> Actions:
        s.seen.append(type(reply).__name__)
        yield from ()

    def copy(mark: Any) -> Any:
        method = FunctionType(nothing.__code__, globals(), "nothing")
        return mark(method)

    body = {
        "a": a,
        "b": b,
        "c": c,
        "begin": begin,
        "placed": on(OrderPlaced, when=initial, to=a)(placed),
        "charged": copy(on(CardCharged, when=a, to=b)),
        "mailed": copy(on(MailSent, when=b, to=c)),
        "reserved": copy(on(StockReserved, when=c)),
    }
    options = {"name": "steps", "step_timeout": MINUTE, "on_unexpected": "hold"}
    cls = new_class("Steps", (Process[OrderState],), options, lambda place: place.update(body))
    play = Play(cls)
    play.reply("reserve")
    play.reply("charge")
    assert play.state.seen == ["CardCharged"]
    play.reply("mail")
    assert play.state.seen == ["CardCharged", "MailSent", "StockReserved"]
