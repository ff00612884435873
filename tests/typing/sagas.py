"""Right uses of sagas: mypy and pyright accept every line; never run."""

from __future__ import annotations

from datetime import timedelta
from typing import assert_type

from pydantic import BaseModel

from eventbus import Command, Event, Rejection, Reply, UnitOfWork
from eventbus.saga import (
    Actions,
    CallContext,
    CallStep,
    Cancel,
    Complete,
    Correlate,
    Deadline,
    Do,
    LocalStep,
    Process,
    Publish,
    Resend,
    Saga,
    Stash,
    State,
    Step,
    Timer,
    Undone,
    call_step,
    cancels_on,
    initial,
    local_step,
    migrates,
    on,
    starts_on,
    step,
    undo,
    wait_step,
)

TWO_MINUTES, HALF_AN_HOUR = timedelta(minutes=2), timedelta(minutes=30)


class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    order_id: str
    sku: str


class OrderCancelled(Event, type="shop.order-cancelled", key="order_id"):
    order_id: str


class StockReserved(Reply, type="stock.stock-reserved"):
    reservation_id: str


class OutOfStock(Rejection, type="stock.out-of-stock"):
    sku: str


class ReserveStock(
    Command[StockReserved], type="stock.reserve-stock", key="order_id", rejects=(OutOfStock,)
):
    order_id: str
    sku: str


class ReleaseStock(Command[Undone], type="stock.release-stock", key="order_id"):
    order_id: str


class ShipmentCreated(Reply, type="shipping.shipment-created"):
    shipment_id: str


class CreateShipment(Command[ShipmentCreated], type="shipping.create-shipment", key="order_id"):
    order_id: str


class OrderState(BaseModel):
    order_id: str
    sku: str
    reservation_id: str | None = None


class PlaceOrder(
    Saga[OrderState],
    name="place-order",
    version=2,
    step_timeout=TWO_MINUTES,
    deadline=HALF_AN_HOUR,
):
    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id, sku=event.sku)

    @step(resend=Resend(attempts=3))
    def reserve(self, s: OrderState) -> ReserveStock:
        return ReserveStock(order_id=s.order_id, sku=s.sku)

    @reserve.reply
    def reserved(self, s: OrderState, reply: StockReserved) -> None:
        s.reservation_id = reply.reservation_id

    @reserve.undo
    def release(self, s: OrderState, reply: StockReserved | None) -> ReleaseStock:
        return ReleaseStock(order_id=s.order_id)

    @local_step
    async def book(self, s: OrderState, tx: UnitOfWork) -> None:
        await tx.sql.execute("INSERT INTO bookings (order_id) VALUES ($1)", s.order_id)

    @book.undo
    async def unbook(self, s: OrderState, tx: UnitOfWork) -> None: ...

    @call_step(rejects=(LookupError,), timeout=TWO_MINUTES)
    async def ask(self, s: OrderState, call: CallContext) -> StockReserved:
        return StockReserved(reservation_id=f"{call.effect_id}/{call.attempt}")

    @ask.reply
    def asked(self, s: OrderState, reply: StockReserved) -> OrderState:
        return s

    @ask.undo
    async def unask(
        self, s: OrderState, reply: StockReserved | None, call: CallContext
    ) -> None: ...

    @wait_step(OrderPlaced, timeout=TWO_MINUTES, by="order_id", missing=Stash(TWO_MINUTES))
    def placed_again(self, s: OrderState, event: OrderPlaced) -> None: ...

    @wait_step(delay=TWO_MINUTES)
    def rested(self, s: OrderState) -> None: ...

    @step(pivot=True, timeout=HALF_AN_HOUR, on_unknown="resolve")
    def ship(self, s: OrderState) -> CreateShipment:
        return CreateShipment(order_id=s.order_id)

    @cancels_on(OrderCancelled)
    def cancelled(self, s: OrderState, event: OrderCancelled) -> str:
        return "customer cancelled"

    @staticmethod
    @migrates(from_version=1, steps={"hold": "reserve"})
    def one_to_two(state: dict[str, object]) -> dict[str, object]:
        return state


class OrderProcess(Process[OrderState], name="order-process", step_timeout=TWO_MINUTES):
    reserving, shipping = State(), State()

    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id, sku=event.sku)

    @on(OrderPlaced, when=initial, to=reserving)
    def placed(self, s: OrderState, event: OrderPlaced) -> Actions:
        yield Deadline(HALF_AN_HOUR)
        yield Timer("soon", TWO_MINUTES)
        yield Correlate("order_id", s.order_id)
        yield Publish(OrderCancelled(order_id=s.order_id))
        command = ReserveStock(order_id=s.order_id, sku=s.sku)
        yield Do("reserve", command, undo=self.release, resend=Resend(attempts=3))

    @on(StockReserved, when=reserving, to=shipping)
    def reserved(self, s: OrderState, reply: StockReserved) -> Actions:
        yield Do("ship", CreateShipment(order_id=s.order_id), pivot=True, on_unknown="resolve")

    @on("soon", when=(reserving, shipping))
    def soon(self, s: OrderState) -> Actions:
        yield Cancel("it takes too long")

    @on(ShipmentCreated, when=shipping)
    def shipped(self, s: OrderState, reply: ShipmentCreated) -> Actions:
        yield Complete()

    @on(OrderCancelled, when=(reserving, shipping), by="order_id", missing="drop")
    def cancelled(self, s: OrderState, event: OrderCancelled) -> Actions:
        yield Cancel("customer cancelled")

    @undo
    def release(self, s: OrderState, reply: StockReserved | None) -> ReleaseStock:
        return ReleaseStock(order_id=s.order_id)


state = OrderState(order_id="A-1", sku="x")
assert_type(PlaceOrder.reserve, Step[OrderState, StockReserved])
assert_type(PlaceOrder.book, LocalStep[OrderState])
assert_type(PlaceOrder.ask, CallStep[OrderState, StockReserved])
assert_type(PlaceOrder().reserve(state), Command[StockReserved])
