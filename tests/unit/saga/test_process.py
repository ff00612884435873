"""The process front end: states, actions, inputs that a state does not take, what is refused."""

from datetime import timedelta
from types import FunctionType, new_class
from typing import Any

import pytest

from eventbus.errors import SagaError, SagaMethodError, WiringError
from eventbus.event import Reply
from eventbus.saga import (
    Actions,
    Cancel,
    Complete,
    Correlate,
    Deadline,
    Do,
    Process,
    Publish,
    Resend,
    State,
    Timer,
    cancels_on,
    initial,
    on,
    starts_on,
    step,
    undo,
)
from eventbus.saga.definition import Route, definition_of
from eventbus.saga.draft import Draft
from eventbus.saga.input import Started
from eventbus.saga.lint import lint
from eventbus.saga.naming import messages_named_by
from eventbus.saga.step_log import StepLog
from eventbus.testing.explorer import explore
from tests.unit.saga import shop
from tests.unit.saga.play import NOW, Play, sent
from tests.unit.saga.shop import (
    MINUTE,
    CardCharged,
    CardDeclined,
    ChargeCard,
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


class Rich(Process[OrderState], name="rich", version=2, step_timeout=MINUTE):
    """Loops, timers, correlations, events, parallel commands, a handled rejection."""

    trying, resting, paying, owed = State(), State(), State(), State()

    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id)

    @on(OrderPlaced, when=initial, to=trying)
    def placed(self, s: OrderState, event: OrderPlaced) -> Actions:
        yield Correlate("payment_id", f"P-{s.order_id}")
        yield Deadline(timedelta(hours=1))
        yield Publish(PaymentSeen(payment_id="told"))
        yield Do("reserve", ReserveStock(order_id=s.order_id), undo=self.release)

    @on(OutOfStock, when=trying, to=resting)
    def none_left(self, s: OrderState, reply: OutOfStock) -> Actions:
        s.seen.append("none left")
        yield Timer("again", 5 * MINUTE)

    @on("again", when=resting, to=trying)
    def again(self, s: OrderState) -> Actions:
        yield Do("reserve", ReserveStock(order_id=s.order_id), undo=self.release)

    @on(StockReserved, when=trying, to=paying)
    def reserved(self, s: OrderState, reply: StockReserved) -> Actions:
        yield Do("mail", shop.SendMail(order_id=s.order_id), no_undo="mail stays")

    @on(MailSent, when=paying, to=owed)
    def mailed(self, s: OrderState, reply: MailSent) -> Actions:
        s.seen.append("mailed")
        yield from ()

    @on(PaymentSeen, when=owed, by="payment_id")
    def paid(self, s: OrderState, event: PaymentSeen) -> Actions:
        yield Complete()

    @undo
    def release(self, s: OrderState, reply: StockReserved | None) -> ReleaseStock:
        return ReleaseStock(order_id=s.order_id)


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


def test_an_input_that_the_state_does_not_take_is_recorded() -> None:
    play = Play(Rich)
    assert play.event(PaymentSeen(payment_id="P-A-1")).ignored == "unexpected"
    play.reply("reserve", "rejected")
    play.fire("timer:again")
    play.timers["timer:again"] = MINUTE
    assert play.fire("timer:again").ignored == "unexpected"
    assert play.feed(Started(OrderPlaced(order_id="A-1"))).ignored == "duplicate"


def test_a_process_that_loops_is_sound_in_every_order() -> None:
    report = explore(Rich, start=OrderPlaced(order_id="A-1"), rejections=2)
    report.assert_holds()
    assert report.complete


def policy(on_unexpected: str) -> Any:
    def begin(self: object, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id)

    def placed(self: object, s: OrderState, event: OrderPlaced) -> Actions:
        yield Do("reserve", ReserveStock(order_id=s.order_id), no_undo="x")
        yield Do("charge", ChargeCard(order_id=s.order_id), no_undo="x")
        yield Timer("bell", MINUTE)

    def charged(self: object, s: OrderState, reply: CardCharged) -> Actions:
        s.charge_id = reply.charge_id
        yield from ()

    def reserved(self: object, s: OrderState, reply: StockReserved) -> Actions:
        s.reservation_id = reply.reservation_id
        yield Complete()

    def cancelled(self: object, s: OrderState, event: OrderCancelled) -> Actions:
        yield Cancel("late")

    one, two = State(), State()
    body = {
        "one": one,
        "two": two,
        "begin": starts_on(OrderPlaced)(begin),
        "placed": on(OrderPlaced, when=initial, to=one)(placed),
        "charged": on(CardCharged, when=one, to=two)(charged),
        "reserved": on(StockReserved, when=two)(reserved),
        "cancelled": on(OrderCancelled, when=two)(cancelled),
    }
    options = {"name": "policy", "step_timeout": MINUTE, "on_unexpected": on_unexpected}
    return new_class("Policy", (Process[OrderState],), options, lambda place: place.update(body))


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


def doing(*actions: Any, **options: Any) -> Any:
    """A process whose first transition yields the actions."""

    def begin(self: object, event: OrderPlaced) -> OrderState:
        nothing: Any = None
        return nothing if event.order_id == "none" else OrderState(order_id=event.order_id)

    def placed(self: Any, s: OrderState, event: OrderPlaced) -> Actions:
        assert [ReserveStock, ChargeCard]  # the classes that it may send
        for each in actions:
            yield each(self) if callable(each) else each

    def release(self: object, s: OrderState, reply: Reply | None) -> ReleaseStock:
        return ReleaseStock(order_id=s.order_id)

    body = {
        "begin": starts_on(OrderPlaced)(begin),
        "placed": on(OrderPlaced, when=initial)(placed),
        "release": undo(release),
    }
    options = {"name": "doing", "step_timeout": MINUTE, **options}
    return new_class("Doing", (Process[OrderState],), options, lambda place: place.update(body))


RESERVE, CHARGE = ReserveStock(order_id="A-1"), ChargeCard(order_id="A-1")
FINE = Do("reserve", RESERVE, no_undo="x")


def undone_by(name: str, **options: Any) -> Any:
    return lambda self: Do("reserve", RESERVE, undo=getattr(self, name), **options)


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


def test_what_is_held_waits_until_its_own_state_is_there() -> None:
    play = Play(policy("hold"))
    play.reply("reserve")
    play.verb("pause")
    assert play.row("reserve").reply is not None
    play.feed(Started(OrderPlaced(order_id="A-1")))
    assert play.state.reservation_id is None


def draft_of(play: Play) -> Draft:
    return Draft(play.definition, play.saga, StepLog(list(play.steps)), NOW)


def test_a_process_has_no_bodies_and_no_waits() -> None:
    play = Play(OrderProcess)
    with pytest.raises(LookupError):
        play.definition.flow.body("reserve", "forward")
    with pytest.raises(LookupError):
        play.definition.flow.waited(draft_of(play), play.steps[0], None)


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


def marked_process(**body: Any) -> Any:
    return new_class(
        "Marked", (Process[OrderState],), {"name": "marked"}, lambda place: place.update(body)
    )


@starts_on(OrderPlaced)
def begin(self: object, event: OrderPlaced) -> OrderState:
    return OrderState(order_id=event.order_id)


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
def bell(self: object, s: OrderState) -> Actions:
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


def test_a_process_may_begin_without_doing_anything() -> None:
    play = Play(marked_process(begin=begin, bell=bell))
    assert (play.saga.status, play.saga.state_name, play.steps) == ("running", "initial", ())


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
