"""What operators may do when, and what it does."""

from datetime import timedelta

import pytest

from eventbus.saga import Saga, Undone, starts_on, step, wait_step
from eventbus.saga.input import GaveUp, TimerFired
from tests.unit.saga.play import Play, sent
from tests.unit.saga.shop import (
    MINUTE,
    CardDeclined,
    ChargeCard,
    CreateShipment,
    Independent,
    MailRefused,
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
)


def failed_undo() -> Play:
    play = Play(PlaceOrder)
    play.reply("reserve")
    play.reply("charge", "rejected")
    play.undo("reserve", "rejected")
    assert play.saga.status == "stuck"
    return play


def unknown_pivot() -> Play:
    play = Play(PlaceOrder)
    play.reply("reserve")
    play.reply("charge")
    play.fire("step:2")
    play.fire_until("resolve:2", "stuck")
    return play


def test_pause_records_what_comes_and_does_nothing_about_it() -> None:
    play = Play(PlaceOrder)
    assert play.verb("pause").paused
    assert play.verb("pause").ignored == "refused: it is paused"
    decision = play.reply("reserve")
    assert (decision.commands, decision.ignored) == ((), None)
    assert play.row("reserve").status == "succeeded"
    resumed = play.verb("resume")
    assert not resumed.paused
    assert resumed.drain
    assert sent(resumed) == [("forward", ChargeCard)]
    assert play.verb("resume").ignored == "refused: it is not paused"


def test_a_saga_that_ended_is_not_paused() -> None:
    play = Play(PlaceOrder)
    play.reply("reserve", "rejected")
    assert play.verb("pause").ignored == "refused: it is compensated"
    assert play.verb("cancel").ignored == "refused: it is compensated"
    assert play.verb("compensate").ignored == ("refused: it is compensated or on its way to be")


def test_an_unknown_verb_is_refused() -> None:
    assert Play(PlaceOrder).verb("explode").ignored == "refused: there is no verb 'explode'"


def test_cancel_without_a_reason_says_who() -> None:
    play = Play(PlaceOrder)
    play.verb("cancel", reason="")
    assert play.saga.intent == "cancelled by an operator"
    assert play.journal[-1].actor == "ops"


def test_compensate_begins_the_undo_at_once() -> None:
    play = Play(PlaceOrder)
    play.reply("reserve")
    assert sent(play.verb("compensate")) == [("undo", RefundCard)]
    assert play.verb("compensate").ignored == "refused: it is compensated or on its way to be"


def test_compensate_is_refused_while_the_pivot_is_in_flight() -> None:
    assert unknown_pivot().verb("compensate").ignored == "refused: the pivot is in flight"


def test_a_stuck_saga_can_be_compensated() -> None:
    play = Play(PlaceOrder)
    play.feed(GaveUp("m-9", "it does not validate"))
    assert play.saga.error is not None
    assert play.saga.error.reason == "input-failed"
    assert play.saga.error.what == "message m-9: it does not validate"
    decision = play.verb("compensate")
    assert (decision.status, decision.error) == ("compensating", None)


def test_an_input_that_failed_is_tried_again_by_retry() -> None:
    play = Play(PlaceOrder)
    play.feed(GaveUp("m-9"))
    assert play.reply("reserve").status == "stuck"  # recorded, nothing follows
    decision = play.verb("retry")
    assert (decision.status, decision.drain) == ("running", True)
    assert sent(decision) == [("forward", ChargeCard)]


def test_an_input_that_failed_after_the_end_changes_nothing() -> None:
    play = Play(PlaceOrder)
    play.reply("reserve", "rejected")
    assert play.feed(GaveUp("m-9")).ignored == "late"


def test_retry_sends_an_undo_again_with_attempts_from_the_start() -> None:
    play = failed_undo()
    decision = play.verb("retry")
    assert sent(decision) == [("undo", ReleaseStock)]
    assert (decision.status, play.row("reserve", "undo").attempt) == ("compensating", 1)
    assert play.timers["undo:0"] == timedelta(seconds=5)


def test_retry_asks_again_about_a_pivot() -> None:
    play = unknown_pivot()
    decision = play.verb("retry")
    assert sent(decision) == [("resolve", CreateShipment)]
    assert decision.status == "resolving"
    assert play.timers["resolve:2"] == timedelta(seconds=5)


def test_retry_does_not_wait_for_a_backoff() -> None:
    play = Play(PlaceOrder)
    refused = "refused: it is running, and nothing waits to be sent again"
    assert play.verb("retry").ignored == refused
    play.fire("step:0")
    assert sent(play.verb("retry")) == [("forward", ReserveStock)]
    assert play.row("reserve").attempt == 1


def test_retry_sends_a_step_after_the_pivot_again() -> None:
    play = Play(Parallel)
    for each in ("reserve", "charge", "ship"):
        play.reply(each)
    play.reply("mail", "rejected", MailRefused())
    decision = play.verb("retry")
    assert [send.step for send in decision.commands] == ["mail"]
    assert decision.status == "running"


def test_what_happens_in_a_pause_is_acted_on_at_its_end() -> None:
    play = Play(Mixed)
    play.local("book")
    play.call("fetch")
    play.verb("pause")
    play.fire("step:2")
    assert play.statuses()["paid"] == "rejected"
    assert play.verb("resume").status == "compensating"


def test_skip_needs_a_reason_and_a_step() -> None:
    play = failed_undo()
    assert play.verb("skip", reason="").ignored == "refused: skip needs a reason"
    assert play.verb("skip", reason="done by hand").status == "compensated"
    assert play.statuses()["reserve!"] == "skipped"
    assert Play(PlaceOrder).verb("skip").ignored == "refused: it is not stuck on a step"


def test_skip_of_a_step_gives_the_reply_that_comes_no_more() -> None:
    play = unknown_pivot()
    refused = play.verb("skip", reply={"shipment": 1})
    assert refused.ignored is not None
    assert refused.ignored.startswith("refused: the reply does not fit")
    assert play.verb("skip", reply={"shipment_id": "S-7"}).status == "completed"
    assert play.row("ship").reply == b'{"shipment_id":"S-7"}'


def test_a_success_after_a_skip_is_a_contradiction() -> None:
    play = unknown_pivot()
    play.verb("skip")
    decision = play.reply("ship")
    assert decision.error is not None
    assert decision.error.reason == "contradiction"


@pytest.mark.parametrize(("said", "status"), [("done", "completed"), ("undone", "compensating")])
def test_resolve_states_what_became_of_a_step(said: str, status: str) -> None:
    play = unknown_pivot()
    assert play.verb("resolve", step="ship", **{"as": said}).status == status


def test_resolve_takes_a_reply_as_text() -> None:
    play = Play(Parallel)
    play.fire("step:1")
    play.verb("resolve", step="charge", reply='{"charge_id": "C-7"}', **{"as": "done"})
    assert play.row("charge").reply == b'{"charge_id":"C-7"}'
    assert play.saga.status == "running"


def test_resolve_of_a_failed_undo_says_that_it_is_undone() -> None:
    play = failed_undo()
    assert play.verb("resolve", step="reserve", **{"as": "undone"}).status == "compensated"


def test_resolve_of_a_failed_undo_may_say_that_the_effect_stands() -> None:
    play = failed_undo()
    decision = play.verb("resolve", step="reserve", **{"as": "done"})
    assert decision.status == "compensating"
    assert sent(decision) == [("undo", ReleaseStock)]


def test_resolve_is_refused_where_nothing_is_in_doubt() -> None:
    play = Play(PlaceOrder)
    refused = "refused: that step is neither unknown nor a failed undo"
    assert play.verb("resolve", step="reserve", **{"as": "done"}).ignored == refused
    unknown = "refused: it began no step 'nothing', but reserve"
    assert play.verb("resolve", step="nothing", **{"as": "done"}).ignored == unknown
    stuck = failed_undo()
    wanted = "refused: say as=done or as=undone"
    assert stuck.verb("resolve", step="reserve").ignored == wanted


def test_an_independent_undo_is_resolved_before_anybody_is_stuck() -> None:
    play = Play(Independent)
    play.reply("reserve")
    play.reply("charge")
    play.reply("ship", "rejected")
    play.undo("charge", "rejected", CardDeclined(reason="x"))
    decision = play.verb("resolve", step="charge", **{"as": "done"})
    assert sent(decision) == [("undo", RefundCard)]
    play.undo("charge", "rejected")
    play.verb("resolve", step="charge", **{"as": "undone"})
    assert play.undo("reserve", "undone", Undone()).status == "compensated"


def test_timers_of_what_is_over_are_late() -> None:
    play = Play(PlaceOrder)
    play.reply("reserve")
    for name in ("step:0", "undo:7", "step:x", "what", "timer:mine"):
        assert play.feed(TimerFired(name)).ignored in {"late", "stray"}
    play.event(OrderCancelled(order_id="A-1"))
    for name in ("deadline", "timer:mine", "resolve:1"):
        assert play.feed(TimerFired(name)).ignored == "late"
    play.undo("charge")
    assert play.feed(TimerFired("undo:1")).ignored == "late"
    play.undo("reserve")
    assert play.feed(TimerFired("deadline")).ignored == "late"


class Waiting(Saga[OrderState], name="waiting"):
    """Waits with a limit after its pivot, and one without."""

    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id)

    @step(pivot=True, on_unknown="stuck", timeout=MINUTE)
    def ship(self, s: OrderState) -> CreateShipment:
        return CreateShipment(order_id=s.order_id)

    @wait_step(PaymentSeen, timeout=MINUTE)
    def paid(self, s: OrderState, event: PaymentSeen) -> None:
        s.payment_id = event.payment_id

    @wait_step(OrderCancelled)
    def cancelled(self, s: OrderState, event: OrderCancelled) -> None: ...


def test_retry_waits_anew_for_what_did_not_come_after_the_pivot() -> None:
    play = Play(Waiting)
    play.reply("ship")
    assert play.fire("step:1").status == "stuck"
    decision = play.verb("retry")
    assert decision.status == "running"
    assert decision.drain
    assert play.timers == {"step:1": MINUTE}
    play.event(PaymentSeen(payment_id="P-1"))
    assert play.timers == {}
    assert play.event(OrderCancelled(order_id="A-1")).status == "completed"


def test_retry_of_a_contradiction_sends_nothing() -> None:
    play = Play(PlaceOrder)
    play.reply("reserve")
    play.reply("reserve", "rejected")
    assert sent(play.verb("retry")) == []
    assert play.saga.status == "running"


def test_a_completed_saga_without_a_pivot_turns_back_by_a_verb() -> None:
    play = Play(Independent)
    for each in ("reserve", "charge", "ship"):
        play.reply(each)
    assert play.saga.status == "completed"
    assert sent(play.verb("compensate")) == [("undo", RefundCard)]
