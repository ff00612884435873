"""From start to end: steps in order, parallel ones, waits, calls, resends, the pivot."""

from dataclasses import replace
from datetime import timedelta

from eventbus.saga.definition import definition_of
from eventbus.saga.input import Started
from eventbus.saga.step_flow import Methods, StepFlow
from tests.unit.saga.play import ANSWERS, NOW, Play, sent
from tests.unit.saga.shop import (
    MINUTE,
    ChargeCard,
    CreateShipment,
    MailRefused,
    Mixed,
    OrderCancelled,
    OrderPlaced,
    Parallel,
    PaymentSeen,
    PlaceOrder,
    ReserveStock,
    SendMail,
)


def shipped(saga: type = PlaceOrder) -> Play:
    play = Play(saga)
    play.reply("reserve")
    play.reply("charge")
    play.reply("ship")
    return play


def test_steps_run_one_after_another_and_the_saga_completes() -> None:
    play = Play(PlaceOrder)
    assert play.saga.status == "running"
    assert play.timers == {"deadline": 30 * MINUTE, "step:0": timedelta(seconds=5)}
    assert sent(play.reply("reserve")) == [("forward", ChargeCard)]
    assert play.state.reservation_id == "R-1"
    assert sent(play.reply("charge")) == [("forward", CreateShipment)]
    assert play.reply("ship").status == "completed"
    assert play.timers == {}


def test_a_command_carries_its_effect_and_when_it_was_first_sent() -> None:
    play = Play(PlaceOrder, begin=False)
    first = play.feed(Started(OrderPlaced(order_id="A-1"))).commands[0]
    again = play.fire("step:0").commands[0]
    assert first.command == again.command == ReserveStock(order_id="A-1")
    assert first.effect_id == again.effect_id == play.row("reserve").effect_id
    assert first.since == again.since == NOW.isoformat()
    assert first.expires == (NOW + timedelta(seconds=5)).isoformat()
    assert (first.phase, first.step, first.target) == ("forward", "reserve", None)


def test_a_command_is_resent_while_attempts_last_and_waits_double() -> None:
    play = Play(PlaceOrder)
    waits = [play.timers["step:0"]]
    for _ in range(2):
        assert sent(play.fire("step:0")) == [("forward", ReserveStock)]
        waits.append(play.timers["step:0"])
    assert waits == [timedelta(seconds=5), timedelta(seconds=10), 2 * MINUTE]
    assert play.row("reserve").attempt == 3
    assert play.fire("step:0").status == "compensating"


def test_parallel_steps_start_together_and_are_joined() -> None:
    play = Play(Parallel)
    assert [row.name for row in play.steps] == ["reserve", "charge"]
    assert sent(play.reply("charge")) == []
    assert sent(play.reply("reserve")) == [("forward", CreateShipment)]


def test_a_step_whose_condition_does_not_hold_is_skipped() -> None:
    play = Play(Mixed, begin=False)
    play.feed(Started(OrderPlaced(order_id="silent")))
    play.local("book")
    play.call("fetch")
    play.event(PaymentSeen(payment_id="P-silent"))
    assert play.fire("step:3").status == "completed"
    assert play.statuses()["mail"] == "skipped"
    assert play.state.seen == ["P-silent", "rested"]


def test_a_saga_of_all_kinds_of_steps_runs_to_its_end() -> None:
    play = Play(Mixed, begin=False)
    begun = play.feed(Started(OrderPlaced(order_id="A-1")))
    assert [run.step for run in begun.local_runs] == ["book"]
    assert [(key.name, key.value) for key in begun.correlations] == [("payment_id", "P-A-1")]
    called = play.local("book")
    assert [call.step for call in called.calls] == ["fetch"]
    waiting = play.call("fetch")
    assert play.state.reservation_id == "R-2"
    assert waiting.drain  # an event that came early is offered again
    assert waiting.correlations == ()
    play.event(PaymentSeen(payment_id="P-A-1"))
    assert sent(play.fire("step:3")) == [("forward", SendMail)]
    assert play.reply("mail").status == "completed"


def test_an_event_before_its_wait_is_held() -> None:
    play = Play(Mixed)
    assert play.event(PaymentSeen(payment_id="P-A-1")).ignored == "held"
    assert play.event(OrderCancelled(order_id="A-1")).ignored == "duplicate"


def test_a_wait_without_its_event_in_time_counts_as_a_rejection() -> None:
    play = Play(Mixed)
    play.local("book")
    play.call("fetch")
    decision = play.fire("step:2")
    assert decision.status == "compensating"
    assert play.statuses()["paid"] == "rejected"


def test_a_step_without_a_time_limit_waits_for_ever() -> None:
    definition = definition_of(Mixed)
    spec = replace(definition.by_name["mail"], timeout=None)
    methods = Methods({OrderPlaced: Mixed.begin}, {}, {"mail": Mixed.mail.method})
    flow = StepFlow(Mixed(), (spec,), methods)
    play = Play(replace(definition, steps=(spec,), flow=flow))
    assert play.timers == {}
    assert play.reply("mail").status == "completed"


def test_after_the_pivot_a_step_is_tried_ten_times_then_hourly_with_a_person() -> None:
    play = shipped(Parallel)
    assert play.fire_until("step:3", "stuck") == 10
    assert play.row("mail").attempt == 10
    assert play.saga.error is not None
    assert play.saga.error.reason == "attempts"
    assert play.timers["step:3"] == timedelta(hours=1)
    assert sent(play.fire("step:3")) == [("forward", SendMail)]
    assert play.saga.status == "stuck"
    assert play.timers["step:3"] == timedelta(hours=1)
    assert play.reply("mail").status == "completed"


def test_a_rejection_after_the_pivot_needs_a_person() -> None:
    play = shipped(Parallel)
    decision = play.reply("mail", "rejected", MailRefused())
    assert decision.status == "stuck"
    assert decision.error is not None
    assert (decision.error.reason, decision.error.seq) == ("attempts", 3)
    assert play.verb("skip").status == "completed"


def test_an_outcome_that_nobody_knows_after_the_pivot_needs_a_person() -> None:
    play = shipped(Parallel)
    assert play.reply("mail", "unknown").status == "stuck"
    assert play.timers["step:3"] == timedelta(hours=1)


def test_after_the_pivot_neither_deadline_nor_cancel_counts() -> None:
    play = shipped(Parallel)
    assert play.fire("deadline").ignored == "overdue"
    assert play.event(OrderCancelled(order_id="A-1")).ignored == "late"
    assert play.verb("cancel").ignored == "refused: the pivot has passed"
    assert play.verb("compensate").ignored == "refused: the pivot has passed"
    assert play.saga.status == "running"


def test_a_second_starting_event_changes_nothing() -> None:
    play = Play(PlaceOrder)
    before = play.saga
    decision = play.feed(Started(OrderPlaced(order_id="A-1")))
    assert decision.ignored == "duplicate"
    assert play.saga.version == before.version + 1
    assert play.saga.data == before.data


def test_every_input_raises_the_version_and_has_an_entry() -> None:
    play = shipped()
    play.reply("ship")
    assert [entry.version for entry in play.journal] == [1, 2, 3, 4, 5]
    assert play.journal[0].from_status is None
    assert play.journal[-1].to_status == "completed"


def test_replies_are_kept_in_the_step_log() -> None:
    play = shipped()
    assert play.row("charge").reply_type == "payments.card-charged"
    assert play.row("charge").reply == ANSWERS["charge"].model_dump_json().encode()
