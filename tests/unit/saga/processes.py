"""Processes that tests play with: one that does everything, and makers of small ones."""

from datetime import timedelta
from types import new_class
from typing import Any

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
    State,
    Timer,
    initial,
    on,
    starts_on,
    undo,
)
from tests.unit.saga import shop
from tests.unit.saga.shop import (
    MINUTE,
    CardCharged,
    ChargeCard,
    MailSent,
    OrderCancelled,
    OrderPlaced,
    OrderState,
    OutOfStock,
    PaymentSeen,
    ReleaseStock,
    ReserveStock,
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


RESERVE, CHARGE = ReserveStock(order_id="A-1"), ChargeCard(order_id="A-1")


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


def undone_by(name: str, **options: Any) -> Any:
    return lambda self: Do("reserve", RESERVE, undo=getattr(self, name), **options)


FINE = Do("reserve", RESERVE, no_undo="x")


@starts_on(OrderPlaced)
def begin(self: object, event: OrderPlaced) -> OrderState:
    return OrderState(order_id=event.order_id)


@on("bell", when=initial)
def bell(self: object, s: OrderState) -> Actions:
    yield Complete()


def marked_process(**body: Any) -> Any:
    return new_class(
        "Marked", (Process[OrderState],), {"name": "marked"}, lambda place: place.update(body)
    )
