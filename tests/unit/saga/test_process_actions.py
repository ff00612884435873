"""What a method of a process may yield, and what breaks a rule."""

from datetime import timedelta
from typing import Any

import pytest

from eventbus.errors import SagaError, SagaMethodError
from eventbus.saga import (
    Actions,
    Cancel,
    Complete,
    Do,
    Process,
    Resend,
    State,
    initial,
    on,
    starts_on,
)
from eventbus.saga.input import Started
from eventbus.testing.explorer import explore
from tests.unit.saga.play import Play
from tests.unit.saga.processes import CHARGE, FINE, RESERVE, doing, undone_by
from tests.unit.saga.shop import (
    MINUTE,
    MailSent,
    OrderCancelled,
    OrderPlaced,
    OrderProcess,
    OrderState,
    SendMail,
    ShipmentCreated,
    StockReserved,
)


class Hasty(Process[OrderState], name="hasty", step_timeout=MINUTE):
    """Completes on an event, although a step may be in flight."""

    waiting = State()

    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id)

    @on(OrderPlaced, when=initial, to=waiting)
    def placed(self, s: OrderState, event: OrderPlaced) -> Actions:
        yield Do("mail", SendMail(order_id=s.order_id), no_undo="mail stays")

    @on(MailSent, when=waiting)
    def mailed(self, s: OrderState, reply: MailSent) -> Actions:
        yield Complete()

    @on(OrderCancelled, when=waiting)
    def cancelled(self, s: OrderState, event: OrderCancelled) -> Actions:
        yield Complete()


def test_the_explorer_finds_the_way_on_which_a_method_fails() -> None:
    report = explore(Hasty, start=OrderPlaced(order_id="A-1"))
    assert report.violation is not None
    assert report.violation.moves == ("OrderPlaced starts it", "OrderCancelled arrives")
    assert report.violation.invariant.startswith("no method fails (EB7009 saga hasty")


@pytest.mark.parametrize(
    ("actions", "code", "why"),
    [
        ([Do("reserve", RESERVE)], "EB7009", "SAGA001: it has neither"),
        ([undone_by("release", pivot=True, on_unknown="stuck")], "EB7009", "SAGA003"),
        ([undone_by("placed")], "EB7009", "its undo is no @undo method"),
        ([Do("mail", SendMail(order_id="x"), no_undo="x")], "EB7009", "no method of the process"),
        ([Do("reserve", RESERVE, pivot=True)], "EB7009", "SAGA016"),
        ([Do("reserve", RESERVE, pivot=True, on_unknown="compensate")], "EB7009", "SAGA016"),
        (
            [
                Do("reserve", RESERVE, pivot=True, on_unknown="stuck"),
                Do("charge", CHARGE, pivot=True, on_unknown="stuck"),
            ],
            "EB7009",
            "SAGA002: it is a second pivot after reserve",
        ),
        ([FINE, Complete()], "EB7009", "what became of it would never be known"),
        (["what"], "EB7003", "cannot be made from that"),
    ],
)
def test_an_action_that_breaks_a_rule_decides_nothing(
    actions: list[Any], code: str, why: str
) -> None:
    with pytest.raises(SagaError) as caught:
        Play(doing(*actions))
    assert caught.value.code == code
    assert why in caught.value.why


def test_a_step_needs_a_time_limit() -> None:
    with pytest.raises(SagaMethodError, match="may not do 'reserve'") as caught:
        Play(doing(FINE, step_timeout=None))
    assert "SAGA005" in caught.value.why
    limited = Do("reserve", RESERVE, no_undo="x", timeout=2 * MINUTE)
    assert Play(doing(limited, step_timeout=None)).timers == {"step:0": 2 * MINUTE}


def test_what_do_says_is_kept_in_the_log() -> None:
    resend = Resend(attempts=2, first=timedelta(seconds=1), cap=timedelta(seconds=3))
    do = Do("reserve", RESERVE, no_undo="x", resend=resend, on_unknown="stuck")
    play = Play(doing(do))
    assert play.timers == {"step:0": timedelta(seconds=1)}
    again = play.fire("step:0").commands[0]
    assert again.command == RESERVE
    assert play.fire("step:0").status == "stuck"
    spec = play.definition.flow.spec(play.row("reserve"))
    assert (spec.resend, spec.no_undo, spec.replies) == (resend, "x", StockReserved)


def test_a_cancel_that_is_yielded_turns_back() -> None:
    assert Play(doing(Cancel("no"))).saga.status == "compensated"
    play = Play(doing(undone_by("release"), Cancel("no")))
    assert (play.saga.status, play.saga.intent) == ("compensating", "no")


def test_a_process_without_anything_to_do_is_complete_when_it_says_so() -> None:
    assert Play(doing(Complete())).saga.status == "completed"
    assert Play(doing()).saga.status == "running"


def test_a_start_without_a_state_is_refused() -> None:
    play = Play(doing(), begin=False)
    with pytest.raises(SagaMethodError, match="begin answered NoneType"):
        play.feed(Started(OrderPlaced(order_id="none")))


def test_after_the_pivot_a_cancel_that_is_yielded_does_nothing() -> None:
    class Passed(OrderProcess, name="passed", step_timeout=MINUTE):
        @on(ShipmentCreated, when=OrderProcess.shipping)
        def shipped(self, s: OrderState, reply: ShipmentCreated) -> Actions:
            yield Cancel("too late")
            yield Complete()

    play = Play(Passed)
    for each in ("reserve", "charge", "ship"):
        play.reply(each)
    assert (play.saga.status, play.saga.intent) == ("completed", None)
