"""Unknown is a third outcome: asking, being stuck, contradictions, and the pivot in flight."""

from datetime import timedelta

import pytest

from eventbus.saga import CallContext, Saga, call_step, starts_on, step
from eventbus.saga.input import CallDone, LocalDone, Replied
from tests.unit.saga.play import NOW, Play, sent
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
    OutOfStock,
    Parallel,
    PlaceOrder,
    RefundCard,
    SendMail,
    StockReserved,
)

HOUR = timedelta(hours=1)


def shipping(saga: type[Saga[OrderState]] = PlaceOrder) -> Play:
    play = Play(saga)
    play.reply("reserve")
    play.reply("charge")
    return play


def test_a_pivot_without_an_answer_is_asked_about() -> None:
    play = shipping()
    decision = play.fire("step:2")
    assert decision.status == "resolving"
    (send,) = decision.commands
    assert (send.phase, send.step) == ("resolve", "ship")
    assert send.command == CreateShipment(order_id="A-1")
    assert send.target == play.row("ship").effect_id
    assert send.effect_id == play.resolve_id("ship") != send.target
    assert send.since == NOW.isoformat()


@pytest.mark.parametrize("outcome", ["cancelled", "rejected"])
def test_a_pivot_that_had_no_effect_lets_the_saga_turn_back(outcome: str) -> None:
    play = shipping()
    play.fire("step:2")
    decision = play.reply("ship", outcome)  # type: ignore[arg-type]  # two of the outcomes
    assert decision.status == "compensating"
    assert sent(decision) == [("undo", RefundCard)]


def test_a_pivot_that_took_effect_lets_the_saga_go_on() -> None:
    play = shipping()
    play.fire("step:2")
    assert play.reply("ship").status == "completed"


def test_a_cancel_while_the_pivot_is_in_flight_asks_first() -> None:
    play = shipping(Parallel)
    decision = play.event(OrderCancelled(order_id="A-1"))
    assert (decision.status, decision.intent) == ("resolving", "cancelled")
    assert sent(decision) == [("resolve", CreateShipment)]
    assert play.event(OrderCancelled(order_id="A-1")).ignored == "late"
    assert play.verb("cancel").ignored == "refused: it turns back already: cancelled"
    done = play.reply("ship")
    assert done.status == "running"
    assert sent(done) == [("forward", SendMail)]
    assert play.reply("mail", reply=MailSent()).status == "completed"


def test_a_cancelled_pivot_is_asked_on_until_somebody_must_look() -> None:
    play = shipping()
    play.verb("cancel", reason="a call from the customer")
    assert play.saga.intent == "a call from the customer"
    assert play.fire_until("resolve:2", "stuck") == 10
    assert play.saga.error is not None
    assert play.saga.error.reason == "unknown"
    assert play.timers["resolve:2"] == HOUR
    assert sent(play.fire("resolve:2")) == [("resolve", CreateShipment)]
    assert play.saga.status == "stuck"
    assert play.timers["resolve:2"] == HOUR
    assert play.reply("ship", "cancelled").status == "compensating"


def test_a_participant_that_forgot_the_effect_needs_a_person() -> None:
    play = shipping()
    play.fire("step:2")
    decision = play.feed(Replied(play.resolve_id("ship"), "rejected"))
    assert decision.status == "stuck"
    assert play.timers["resolve:2"] == HOUR
    again = play.feed(Replied(play.resolve_id("ship"), "rejected"))
    assert (again.status, again.ignored) == ("stuck", "duplicate")
    play.verb("resolve", step="ship", **{"as": "done"})
    assert play.saga.status == "completed"
    assert play.feed(Replied(play.resolve_id("ship"), "rejected")).ignored == "stray"


def test_a_refused_question_that_nobody_asks_any_more_is_stray() -> None:
    play = Play(PlaceOrder)
    play.verb("compensate")
    assert play.feed(Replied(play.resolve_id("reserve"), "rejected")).ignored == "stray"
    assert play.feed(Replied(play.resolve_id("reserve"), "succeeded")).ignored == "stray"


def test_a_parallel_step_is_asked_about_while_its_neighbour_goes_on() -> None:
    play = Play(Parallel)
    assert sent(play.fire("step:1")) == [("resolve", ChargeCard)]
    assert play.reply("reserve").status == "resolving"
    decision = play.reply("charge")
    assert decision.status == "running"
    assert sent(decision) == [("forward", CreateShipment)]


def test_a_neighbour_that_is_unknown_too_turns_back_if_its_step_says_so() -> None:
    play = Play(Parallel)
    play.fire("step:1")
    decision = play.fire("step:0")
    assert decision.status == "compensating"
    assert play.saga.plan is not None
    assert [line.step for line in play.saga.plan.undos] == ["charge", "reserve"]
    assert "resolve:1" not in play.timers


def test_a_question_in_time_stays_open() -> None:
    play = Play(Parallel)
    play.fire("step:1")
    assert sent(play.fire("resolve:1")) == [("resolve", ChargeCard)]
    assert play.timers["resolve:1"] == timedelta(seconds=10)


def test_a_question_whose_saga_turned_back_is_late() -> None:
    play = Play(Parallel)
    play.fire("step:1")
    play.timers["step:9"] = MINUTE
    play.timers["resolve:1"] = MINUTE
    assert play.fire("step:9").ignored == "stray"
    play.reply("charge")
    play.timers["resolve:1"] = MINUTE
    assert play.fire("resolve:1").ignored == "late"


class Careful(Saga[OrderState], name="careful", step_timeout=MINUTE):
    """Both unknown outcomes in one group: one is asked about, one needs a person."""

    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id)

    @step(parallel="p", on_unknown="resolve", no_undo="of no consequence")
    def charge(self, s: OrderState) -> ChargeCard:
        return ChargeCard(order_id=s.order_id)

    @step(parallel="p", on_unknown="stuck", no_undo="of no consequence")
    def mail(self, s: OrderState) -> SendMail:
        return SendMail(order_id=s.order_id)


def test_an_unknown_outcome_may_need_a_person_at_once() -> None:
    play = Play(Careful)
    decision = play.fire("step:1")
    assert decision.status == "stuck"
    assert decision.error is not None
    assert (decision.error.reason, decision.error.came_from) == ("unknown", "running")
    assert play.timers.keys() == {"step:0"}
    assert play.reply("charge").status == "stuck"
    assert play.reply("mail").status == "completed"


def test_a_neighbour_may_need_a_person_while_another_is_asked_about() -> None:
    play = Play(Careful)
    play.fire("step:0")
    decision = play.fire("step:1")
    assert decision.error is not None
    assert (decision.status, decision.error.came_from) == ("stuck", "resolving")
    assert play.reply("mail").status == "resolving"
    assert play.reply("charge").status == "completed"


def test_two_neighbours_may_both_be_asked_about() -> None:
    play = Play(Careful)
    play.verb("pause")
    play.fire("step:0")
    play.fire("step:1")
    assert play.saga.status == "running"
    decision = play.verb("resume")
    assert sent(decision) == [("resolve", ChargeCard)]
    assert decision.status == "stuck"


def test_the_first_definite_outcome_stands_and_the_opposite_needs_a_person() -> None:
    play = shipping()
    assert play.reply("charge").ignored == "duplicate"
    assert play.reply("charge", "unknown").ignored == "duplicate"
    decision = play.reply("charge", "rejected")
    assert decision.status == "stuck"
    assert decision.error is not None
    assert decision.error.reason == "contradiction"
    assert play.reply("charge").ignored == "duplicate"
    assert play.reply("charge", "rejected").ignored == "duplicate"
    assert play.verb("retry").status == "running"


def test_a_success_for_what_was_rejected_is_a_contradiction_even_at_the_end() -> None:
    play = Play(PlaceOrder)
    play.reply("reserve", "rejected")
    assert play.reply("reserve", "cancelled").ignored == "duplicate"
    decision = play.reply("reserve")
    assert decision.status == "stuck"
    assert play.verb("skip").status == "compensated"


def test_an_answer_of_the_wrong_kind_is_stray() -> None:
    play = Play(PlaceOrder)
    effect = play.row("reserve").effect_id
    for answer in (
        Replied(effect, "succeeded"),
        Replied(effect, "succeeded", CardCharged(charge_id="C")),
        Replied(effect, "rejected", CardDeclined(reason="x")),
        Replied(effect, "undone"),
        LocalDone(effect, "succeeded"),
        CallDone(effect, 1, "succeeded", StockReserved(reservation_id="R")),
        Replied(NOWHERE, "succeeded"),
    ):
        assert play.feed(answer).ignored == "stray"
    assert play.feed(Replied(effect, "rejected", OutOfStock(sku="x"))).status == "compensated"


NOWHERE = Play(Mixed, begin=False).resolve_id("nothing")


def test_an_outcome_that_the_participant_cannot_tell_counts_as_no_answer() -> None:
    play = Play(Parallel)
    assert sent(play.reply("charge", "unknown")) == [("resolve", ChargeCard)]
    assert play.reply("charge", "unknown").ignored == "duplicate"


class Calling(Saga[OrderState], name="calling", step_timeout=MINUTE):
    """A call that is the pivot, and one after it."""

    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id)

    @call_step(pivot=True, on_unknown="resolve")
    async def reserve(self, s: OrderState, call: CallContext) -> StockReserved:
        return StockReserved(reservation_id="R")

    @call_step
    async def charge(self, s: OrderState, call: CallContext) -> CardCharged:
        return CardCharged(charge_id="C")


def test_a_call_without_an_outcome_is_executed_again_under_its_effect() -> None:
    play = Play(Calling)
    decision = play.call("reserve", "unknown")
    assert decision.status == "resolving"
    assert [call.effect_id for call in decision.calls] == [play.row("reserve").effect_id]
    play.call("reserve", "unknown")
    assert play.timers["resolve:0"] == timedelta(seconds=5)
    assert [call.step for call in play.fire("resolve:0").calls] == ["reserve"]
    assert play.call("reserve").status == "running"


def test_a_call_that_stays_without_an_outcome_needs_a_person() -> None:
    play = Play(Calling)
    while play.saga.status != "stuck":
        play.call("reserve", "unknown")
        if play.saga.status == "resolving" and "resolve:0" in play.timers:
            play.fire("resolve:0")
    assert play.saga.error is not None
    assert play.saga.error.reason == "unknown"
    assert play.timers["resolve:0"] == HOUR
    play.fire("resolve:0")
    assert "resolve:0" not in play.timers  # a worker has it
    play.call("reserve", "unknown")
    assert play.timers["resolve:0"] == HOUR
    assert play.call("reserve", "rejected").status == "compensated"


def test_a_cancel_waits_for_the_worker_that_has_the_pivot() -> None:
    play = Play(Calling)
    decision = play.verb("cancel")
    assert (decision.status, decision.calls) == ("resolving", ())
    assert play.call("reserve", "rejected").status == "compensated"


def test_after_the_pivot_a_call_is_executed_ten_times_then_hourly() -> None:
    play = Play(Calling)
    play.call("reserve")
    for _ in range(9):
        play.call("charge", "unknown")
        assert [call.step for call in play.fire("step:1").calls] == ["charge"]
    assert play.call("charge", "unknown").status == "stuck"
    assert play.timers["step:1"] == HOUR
    assert [call.step for call in play.fire("step:1").calls] == ["charge"]
    assert play.call("charge", "unknown").status == "stuck"
    assert play.timers["step:1"] == HOUR
    play.fire("step:1")
    assert play.call("charge").status == "completed"


def test_a_call_that_ends_after_an_operator_said_how_it_ended() -> None:
    play = Play(Calling)
    play.verb("cancel")
    play.verb("resolve", step="reserve", **{"as": "undone"})
    assert play.saga.status == "compensated"
    assert play.call("reserve", "unknown").ignored is None
    assert play.call("reserve", "rejected").ignored == "duplicate"


def test_a_call_that_contradicts_the_operator_needs_a_person() -> None:
    play = Play(Calling)
    play.verb("cancel")
    play.verb("resolve", step="reserve", **{"as": "undone"})
    decision = play.call("reserve")
    assert decision.error is not None
    assert (decision.status, decision.error.reason) == ("stuck", "contradiction")
