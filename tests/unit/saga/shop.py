"""Messages and sagas that the tests of the core play with."""

from datetime import timedelta
from enum import Enum
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from eventbus import Command, Event, Rejection, Reply, UnitOfWork
from eventbus.saga import (
    Actions,
    CallContext,
    Cancel,
    Complete,
    Do,
    Process,
    Resend,
    Saga,
    State,
    Undone,
    call_step,
    cancels_on,
    initial,
    local_step,
    on,
    starts_on,
    step,
    undo,
    wait_step,
)

MINUTE = timedelta(minutes=1)


class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    order_id: str
    cents: int = 0


class OrderCancelled(Event, type="shop.order-cancelled", key="order_id"):
    order_id: str


class PaymentSeen(Event, type="payments.payment-seen", key="payment_id"):
    payment_id: str


class StockReserved(Reply, type="stock.stock-reserved"):
    reservation_id: str


class OutOfStock(Rejection, type="stock.out-of-stock"):
    sku: str


class ReserveStock(
    Command[StockReserved], type="stock.reserve-stock", key="order_id", rejects=(OutOfStock,)
):
    order_id: str


class ReleaseStock(Command[Undone], type="stock.release-stock", key="order_id"):
    order_id: str
    reservation_id: str | None = None


class CardCharged(Reply, type="payments.card-charged"):
    charge_id: str


class CardDeclined(Rejection, type="payments.card-declined"):
    reason: str


class ChargeCard(
    Command[CardCharged], type="payments.charge-card", key="order_id", rejects=(CardDeclined,)
):
    order_id: str


class RefundCard(Command[Undone], type="payments.refund-card", key="order_id"):
    order_id: str


class ShipmentCreated(Reply, type="shipping.shipment-created"):
    shipment_id: str


class CreateShipment(Command[ShipmentCreated], type="shipping.create-shipment", key="order_id"):
    order_id: str


class MailSent(Reply, type="mail.mail-sent"):
    pass


class MailRefused(Rejection, type="mail.mail-refused"):
    pass


class SendMail(Command[MailSent], type="mail.send-mail", key="order_id", rejects=(MailRefused,)):
    order_id: str


class OrderState(BaseModel):
    order_id: str
    reservation_id: str | None = None
    charge_id: str | None = None
    payment_id: str | None = None
    seen: list[str] = []


class PlaceOrder(
    Saga[OrderState], name="place-order", step_timeout=2 * MINUTE, deadline=30 * MINUTE
):
    """Three steps, the last one is the pivot."""

    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id)

    @step(resend=Resend(attempts=3))
    def reserve(self, s: OrderState) -> ReserveStock:
        return ReserveStock(order_id=s.order_id)

    @reserve.reply
    def reserved(self, s: OrderState, reply: StockReserved) -> None:
        s.reservation_id = reply.reservation_id

    @reserve.undo
    def release(self, s: OrderState, reply: StockReserved | None) -> ReleaseStock:
        known = None if reply is None else reply.reservation_id
        return ReleaseStock(order_id=s.order_id, reservation_id=known)

    @step
    def charge(self, s: OrderState) -> ChargeCard:
        return ChargeCard(order_id=s.order_id)

    @charge.undo
    def refund(self, s: OrderState, reply: CardCharged | None) -> RefundCard:
        return RefundCard(order_id=s.order_id)

    @step(pivot=True, timeout=10 * MINUTE, on_unknown="resolve")
    def ship(self, s: OrderState) -> CreateShipment:
        return CreateShipment(order_id=s.order_id)

    @cancels_on(OrderCancelled)
    def cancelled(self, s: OrderState, event: OrderCancelled) -> str:
        return "customer cancelled"


class Parallel(Saga[OrderState], name="parallel", step_timeout=2 * MINUTE, deadline=30 * MINUTE):
    """Two at once, the pivot, one after."""

    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id)

    @step(parallel="both")
    def reserve(self, s: OrderState) -> ReserveStock:
        return ReserveStock(order_id=s.order_id)

    @reserve.undo
    def release(self, s: OrderState, reply: StockReserved | None) -> ReleaseStock:
        return ReleaseStock(order_id=s.order_id)

    @step(parallel="both", on_unknown="resolve")
    def charge(self, s: OrderState) -> ChargeCard:
        return ChargeCard(order_id=s.order_id)

    @charge.undo
    def refund(self, s: OrderState, reply: CardCharged | None) -> RefundCard:
        return RefundCard(order_id=s.order_id)

    @step(pivot=True, on_unknown="resolve")
    def ship(self, s: OrderState) -> CreateShipment:
        return CreateShipment(order_id=s.order_id)

    @step
    def mail(self, s: OrderState) -> SendMail:
        return SendMail(order_id=s.order_id)

    @cancels_on(OrderCancelled)
    def cancelled(self, s: OrderState, event: OrderCancelled) -> str:
        return ""


class NoStockError(Exception):
    pass


class Mixed(Saga[OrderState], name="mixed", step_timeout=2 * MINUTE):
    """A local step, a call, a wait for an event and one for a delay; no pivot."""

    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id, payment_id=f"P-{event.order_id}")

    @local_step
    async def book(self, s: OrderState, tx: UnitOfWork) -> None:
        await tx.sql.execute("INSERT INTO orders VALUES ($1)", s.order_id)
        s.seen.append("booked")

    @book.undo
    async def unbook(self, s: OrderState, tx: UnitOfWork) -> None:
        await tx.sql.execute("DELETE FROM orders WHERE order_id = $1", s.order_id)
        s.seen.append("unbooked")

    @call_step(rejects=(NoStockError,))
    async def fetch(self, s: OrderState, call: CallContext) -> StockReserved:
        return StockReserved(reservation_id=f"{call.effect_id}/{call.attempt}")

    @fetch.reply
    def fetched(self, s: OrderState, reply: StockReserved) -> OrderState:
        return s.model_copy(update={"reservation_id": reply.reservation_id})

    @fetch.undo
    async def unfetch(
        self, s: OrderState, reply: StockReserved | None, call: CallContext
    ) -> None: ...

    @wait_step(PaymentSeen, by="payment_id")
    def paid(self, s: OrderState, event: PaymentSeen) -> None:
        s.seen.append(event.payment_id)

    @wait_step(delay=MINUTE)
    def rested(self, s: OrderState) -> None:
        s.seen.append("rested")

    @step(no_undo="a mail cannot be taken back", when=lambda s: s.order_id != "silent")
    def mail(self, s: OrderState) -> SendMail:
        return SendMail(order_id=s.order_id)


class Independent(Saga[OrderState], name="independent", step_timeout=MINUTE):
    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id)

    @step
    def reserve(self, s: OrderState) -> ReserveStock:
        return ReserveStock(order_id=s.order_id)

    @reserve.undo
    def release(self, s: OrderState, reply: StockReserved | None) -> ReleaseStock:
        return ReleaseStock(order_id=s.order_id)

    @step(independent_undo=True)
    def charge(self, s: OrderState) -> ChargeCard:
        return ChargeCard(order_id=s.order_id)

    @charge.undo
    def refund(self, s: OrderState, reply: CardCharged | None) -> RefundCard:
        return RefundCard(order_id=s.order_id)

    @step(no_undo="nothing is shipped before it is done")
    def ship(self, s: OrderState) -> CreateShipment:
        return CreateShipment(order_id=s.order_id)


class Colour(Enum):
    RED = "red"


class Nested(BaseModel):
    colour: Colour


class Guessed(Reply, type="guess.guessed"):
    number: Annotated[int, Field(gt=42)]
    also: int | str
    kind: Literal["a", "b"]
    maybe: int | None
    many: list[int]
    pair: tuple[int, str]
    names: dict[str, int]
    nested: Nested
    more: int = 1


class Guess(Command[Guessed], type="guess.guess", key="order_id"):
    order_id: str


class OrderProcess(
    Process[OrderState], name="order-process", step_timeout=2 * MINUTE, deadline=30 * MINUTE
):
    """The same flow as PlaceOrder, as a state machine."""

    reserving, charging, shipping = State(), State(), State()

    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id)

    @on(OrderPlaced, when=initial, to=reserving)
    def placed(self, s: OrderState, event: OrderPlaced) -> Actions:
        command = ReserveStock(order_id=s.order_id)
        yield Do("reserve", command, undo=self.release, resend=Resend(attempts=3))

    @on(StockReserved, when=reserving, to=charging)
    def reserved(self, s: OrderState, reply: StockReserved) -> Actions:
        s.reservation_id = reply.reservation_id
        yield Do("charge", ChargeCard(order_id=s.order_id), undo=self.refund)

    @on(CardCharged, when=charging, to=shipping)
    def charged(self, s: OrderState, reply: CardCharged) -> Actions:
        command = CreateShipment(order_id=s.order_id)
        yield Do("ship", command, pivot=True, timeout=10 * MINUTE, on_unknown="resolve")

    @on(ShipmentCreated, when=shipping)
    def shipped(self, s: OrderState, reply: ShipmentCreated) -> Actions:
        yield Complete()

    @on(OrderCancelled, when=(reserving, charging, shipping))
    def cancelled(self, s: OrderState, event: OrderCancelled) -> Actions:
        yield Cancel("customer cancelled")

    @undo
    def release(self, s: OrderState, reply: StockReserved | None) -> ReleaseStock:
        known = None if reply is None else reply.reservation_id
        return ReleaseStock(order_id=s.order_id, reservation_id=known)

    @undo
    def refund(self, s: OrderState, reply: CardCharged | None) -> RefundCard:
        return RefundCard(order_id=s.order_id)
