"""Turning back: the plan, one undo after another, undos that fail, cancel and deadline."""

from datetime import timedelta

import pytest

from eventbus.errors import IllegalTransitionError
from eventbus.saga import compensation
from eventbus.saga.draft import Draft
from eventbus.saga.instance import Plan
from eventbus.saga.step_log import StepLog
from tests.unit.saga.play import NOW, Play, sent
from tests.unit.saga.shop import (
    CardDeclined,
    Independent,
    Mixed,
    OrderCancelled,
    Parallel,
    PaymentSeen,
    PlaceOrder,
    RefundCard,
    ReleaseStock,
)

HOUR = timedelta(hours=1)


def test_a_rejection_undoes_what_was_done_in_reverse() -> None:
    play = Play(PlaceOrder)
    play.reply("reserve")
    play.reply("charge")
    decision = play.reply("ship", "rejected")
    assert decision.status == "compensating"
    assert sent(decision) == [("undo", RefundCard)]
    assert sent(play.undo("charge")) == [("undo", ReleaseStock)]
    assert play.undo("reserve").status == "compensated"
    assert play.timers == {}


def test_nothing_done_needs_no_undo() -> None:
    play = Play(PlaceOrder)
    assert play.reply("reserve", "rejected").status == "compensated"
    assert play.saga.plan == Plan(())


def test_an_undo_names_the_effect_it_undoes_and_knows_the_reply() -> None:
    play = Play(PlaceOrder)
    play.reply("reserve")
    decision = play.reply("charge", "rejected")
    (send,) = decision.commands
    assert send.command == ReleaseStock(order_id="A-1", reservation_id="R-1")
    assert send.target == play.row("reserve").effect_id
    assert send.effect_id == play.row("reserve", "undo").effect_id != send.target
    assert send.since == NOW.isoformat()


def test_a_step_without_an_answer_is_in_the_plan_and_its_undo_knows_no_reply() -> None:
    play = Play(PlaceOrder)
    play.event(OrderCancelled(order_id="A-1"))
    assert play.saga.intent == "customer cancelled"
    assert play.statuses() == {"reserve": "unknown", "reserve!": "dispatched"}
    assert play.saga.plan is not None
    assert [line.step for line in play.saga.plan.undos] == ["reserve"]


def test_a_reply_that_comes_before_its_undo_is_sent_reaches_the_undo() -> None:
    play = Play(Parallel)
    play.event(OrderCancelled(order_id="A-1"))  # charge is undone first
    play.reply("reserve")
    assert play.row("reserve").status == "succeeded"
    (send,) = play.undo("charge").commands
    assert send.step == "reserve"


def test_a_reply_after_its_undo_was_sent_is_late() -> None:
    play = Play(PlaceOrder)
    play.fire("deadline")
    assert play.reply("reserve").ignored == "late"
    assert play.statuses()["reserve"] == "unknown"


def test_the_deadline_turns_back_and_the_first_intent_stays() -> None:
    play = Play(PlaceOrder)
    play.reply("reserve")
    play.reply("charge")
    play.fire("deadline")
    assert (play.saga.status, play.saga.intent) == ("resolving", "deadline")
    assert play.event(OrderCancelled(order_id="A-1")).ignored == "late"
    assert play.saga.intent == "deadline"


def test_of_parallel_steps_the_first_rejection_turns_back_and_the_open_ones_are_undone() -> None:
    play = Play(Parallel)
    decision = play.reply("charge", "rejected")
    assert play.statuses() == {
        "reserve": "unknown",
        "charge": "rejected",
        "reserve!": "dispatched",
    }
    assert sent(decision) == [("undo", ReleaseStock)]


def test_an_undo_is_tried_ten_times_then_hourly_and_success_frees_the_saga() -> None:
    play = Play(PlaceOrder)
    play.reply("reserve")
    play.reply("charge", "rejected")
    waits = []
    while play.saga.status != "stuck":
        waits.append(play.timers["undo:0"])
        play.fire("undo:0")
    assert [wait.seconds for wait in waits] == [5, 10, 20, 40, 80, 160, 300, 300, 300, 300]
    assert play.saga.error is not None
    assert (play.saga.error.reason, play.saga.error.came_from) == ("undo-failed", "compensating")
    assert "sent 10 times and nobody answered" in play.saga.error.what
    assert "dead letter" in play.saga.error.what  # its own command may hold the key
    assert sent(play.fire("undo:0")) == [("undo", ReleaseStock)]
    assert play.timers["undo:0"] == HOUR
    assert play.undo("reserve").status == "compensated"


def test_a_rejected_undo_is_stuck_at_once() -> None:
    play = Play(PlaceOrder)
    play.reply("reserve")
    play.reply("charge", "rejected")
    decision = play.undo("reserve", "rejected", CardDeclined(reason="gone"))
    assert decision.status == "stuck"
    assert decision.error is not None
    assert "CardDeclined" in decision.error.what
    assert play.timers["undo:0"] == HOUR
    assert play.undo("reserve", "cancelled").ignored == "duplicate"
    assert sent(play.fire("undo:0")) == [("undo", ReleaseStock)]
    assert play.undo("reserve", "rejected").ignored == "duplicate"
    assert play.timers["undo:0"] == HOUR


def test_an_undo_about_which_nobody_knows_is_sent_again_by_its_timer() -> None:
    play = Play(PlaceOrder)
    play.reply("reserve")
    play.reply("charge", "rejected")
    assert play.undo("reserve", "unknown").ignored == "unknown"
    assert sent(play.fire("undo:0")) == [("undo", ReleaseStock)]


def test_answers_of_an_undo_that_is_done_change_nothing() -> None:
    play = Play(Parallel)
    play.reply("reserve")
    play.reply("charge", "rejected")
    play.undo("reserve")
    assert play.undo("reserve").ignored == "duplicate"
    assert play.saga.status == "compensated"


def test_a_saga_that_has_ended_takes_no_event() -> None:
    play = Play(PlaceOrder)
    play.reply("reserve", "rejected")
    assert play.event(OrderCancelled(order_id="A-1")).ignored == "late"


def test_an_independent_undo_that_fails_lets_the_others_go_on() -> None:
    play = Play(Independent)
    play.reply("reserve")
    play.reply("charge")
    play.reply("ship", "rejected")
    decision = play.undo("charge", "rejected")
    assert decision.status == "compensating"
    assert sent(decision) == [("undo", ReleaseStock)]
    assert play.undo("reserve").status == "stuck"
    assert play.undo("charge").status == "compensated"


def test_an_independent_undo_that_succeeds_late_needs_nobody() -> None:
    play = Play(Independent)
    play.reply("reserve")
    play.reply("charge")
    play.reply("ship", "rejected")
    play.undo("charge", "rejected")
    assert play.undo("charge").status == "compensating"
    assert play.undo("reserve").status == "compensated"


def test_a_local_undo_runs_in_the_transition() -> None:
    play = Play(Mixed)
    play.local("book")
    decision = play.call("fetch", "rejected")
    assert [(run.step, run.phase) for run in decision.local_runs] == [("book", "undo")]
    assert play.local("book", phase="undo").status == "compensated"


def test_a_local_undo_that_says_no_is_stuck() -> None:
    play = Play(Mixed)
    play.local("book")
    play.call("fetch", "rejected")
    assert play.local("book", "rejected", phase="undo").status == "stuck"


def undoing_a_call() -> Play:
    play = Play(Mixed)
    play.local("book")
    play.call("fetch")
    decision = play.fire("step:2")
    assert [(call.step, call.phase) for call in decision.calls] == [("fetch", "undo")]
    return play


def test_the_undo_of_a_call_is_tried_ten_times_then_hourly() -> None:
    play = undoing_a_call()
    for _ in range(9):
        play.call("fetch", "unknown", "undo")
        assert [call.phase for call in play.fire("undo:1").calls] == ["undo"]
    assert play.call("fetch", "unknown", "undo").status == "stuck"
    assert play.timers["undo:1"] == HOUR
    assert [call.phase for call in play.fire("undo:1").calls] == ["undo"]
    assert play.call("fetch", "unknown", "undo").status == "stuck"
    assert play.timers["undo:1"] == HOUR
    assert play.call("fetch", "succeeded", "undo").status == "compensating"
    assert play.local("book", phase="undo").status == "compensated"


def cancelled_call() -> Play:
    """Turned back while a worker has the call."""
    play = Play(Mixed)
    play.local("book")
    assert play.verb("compensate").status == "compensating"
    assert play.statuses() == {"book": "succeeded", "fetch": "unknown"}
    return play


def test_a_call_that_a_worker_has_is_undone_when_it_has_ended() -> None:
    play = cancelled_call()
    decision = play.call("fetch")
    assert [(call.step, call.phase) for call in decision.calls] == [("fetch", "undo")]
    assert b"R-2" in decision.calls[0].input


def test_a_call_that_ends_without_an_outcome_is_undone_without_a_reply() -> None:
    play = cancelled_call()
    decision = play.call("fetch", "unknown")
    assert [call.phase for call in decision.calls] == ["undo"]
    assert b'"reply":null' in decision.calls[0].input


def test_a_call_that_the_outside_refused_needs_no_undo() -> None:
    play = cancelled_call()
    decision = play.call("fetch", "rejected")
    assert play.statuses()["fetch!"] == "skipped"
    assert [run.step for run in decision.local_runs] == ["book"]


def test_a_wait_has_no_effect_to_be_undone() -> None:
    play = Play(Mixed)
    play.local("book")
    play.call("fetch")
    play.verb("compensate")
    assert play.statuses()["paid"] == "cancelled"
    assert play.event(PaymentSeen(payment_id="P-A-1")).ignored == "late"


def test_nothing_of_ours_turns_back_at_the_pivot() -> None:
    play = Play(PlaceOrder)
    play.reply("reserve")
    play.reply("charge")
    draft = Draft(play.definition, play.saga, StepLog(list(play.steps)), NOW)
    with pytest.raises(IllegalTransitionError, match="EB7001") as caught:
        compensation.begin(draft)
    assert "status running" in caught.value.where
    with pytest.raises(IllegalTransitionError, match="in which it is not"):
        draft.unstick()


def test_a_plan_that_was_changed_is_found_out() -> None:
    play = Play(PlaceOrder)
    play.fire("deadline")
    assert play.saga.plan is not None
    stored = play.saga.plan.encoded()
    assert Plan.decoded(stored) == play.saga.plan
    with pytest.raises(ValueError, match="not the one that was made"):
        Plan.decoded(stored.replace(b"release", b"refund0"))
