"""The process front end: from state to state, loops, compensation, what an operator says."""

from datetime import timedelta

import pytest

from eventbus.saga.draft import Draft
from eventbus.saga.input import Started
from eventbus.saga.step_log import StepLog
from eventbus.testing.explorer import explore
from tests.unit.saga.play import NOW, Play, sent
from tests.unit.saga.processes import Rich, begin, bell, marked_process, policy
from tests.unit.saga.shop import (
    MINUTE,
    OrderPlaced,
    OrderProcess,
    PaymentSeen,
    ReserveStock,
    StockReserved,
)


def test_a_process_goes_from_state_to_state() -> None:
    play = Play(Rich, begin=False)
    begun = play.feed(Started(OrderPlaced(order_id="A-1")))
    assert play.saga.state_name == "trying"
    assert [(key.name, key.value) for key in begun.correlations] == [("payment_id", "P-A-1")]
    assert begun.events == (PaymentSeen(payment_id="told"),)
    assert begun.drain
    assert play.timers == {"deadline": timedelta(hours=1), "step:0": MINUTE}
    play.reply("reserve", "rejected")
    assert (play.saga.status, play.saga.state_name) == ("running", "resting")
    assert play.timers["timer:again"] == 5 * MINUTE
    assert sent(play.fire("timer:again")) == [("forward", ReserveStock)]
    first, second = play.steps
    assert (first.occurrence, second.occurrence) == (0, 1)
    assert first.effect_id != second.effect_id
    play.reply_to(second, StockReserved(reservation_id="R"))
    play.reply("mail")
    assert play.state.seen == ["none left", "mailed"]
    assert play.event(PaymentSeen(payment_id="P-A-1")).status == "completed"


def test_a_rejection_that_was_handled_leaves_its_step_out_of_the_plan() -> None:
    play = Play(Rich)
    play.reply("reserve", "rejected")
    assert play.verb("compensate").status == "compensated"


def test_a_process_that_loops_is_sound_in_every_order() -> None:
    report = explore(Rich, start=OrderPlaced(order_id="A-1"), rejections=2)
    report.assert_holds()
    assert report.complete


def test_an_operator_must_give_the_reply_that_leads_on() -> None:
    play = Play(OrderProcess)
    play.reply("reserve")
    play.reply("charge")
    play.fire("step:2")
    refused = play.verb("resolve", step="ship", **{"as": "done"})
    assert refused.ignored == "refused: a process goes on by the reply: give it"
    assert play.verb("resolve", step="ship", **{"as": "undone"}).status == "compensating"


def test_replies_during_compensation_lead_nowhere() -> None:
    play = Play(policy("fail"))
    play.verb("pause")
    play.verb("compensate")
    play.reply("charge")
    assert play.row("charge").status == "succeeded"
    assert play.state.charge_id is None


def draft_of(play: Play) -> Draft:
    return Draft(play.definition, play.saga, StepLog(list(play.steps)), NOW)


def test_a_process_has_no_bodies_and_no_waits() -> None:
    play = Play(OrderProcess)
    with pytest.raises(LookupError):
        play.definition.flow.body("reserve", "forward")
    with pytest.raises(LookupError):
        play.definition.flow.waited(draft_of(play), play.steps[0], None)


def test_a_process_may_begin_without_doing_anything() -> None:
    play = Play(marked_process(begin=begin, bell=bell))
    assert (play.saga.status, play.saga.state_name, play.steps) == ("running", "initial", ())
