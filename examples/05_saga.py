"""An order over three services: each step has an undo, a refusal takes back what was done.

A saga sends commands and waits for their replies. Participants are `@handles` and `@undoes`: each
effect happens once, and is undone once if the saga turns back. Run it: it prints this.

Prints:
    stock: A-1 reserved
    card: A-1 charged
    truck: A-1 on its way
    A-1 is completed
    stock: A-2 reserved
    card: A-2 declined
    stock: A-2 released
    A-2 is compensated
    what A-2 went through: started, replied, replied, replied
"""

# ruff: noqa: D101, D102, D103, N999 - files are numbered for readers, and the header explains them

import asyncio
from datetime import timedelta

from pydantic import BaseModel

from eventbus import Command, Context, Event, EventBus, Reject, Rejection, Reply, handles, undoes
from eventbus.saga import Saga, SagaQuery, Undone, starts_on, step


class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    order_id: str
    cents: int


class StockReserved(Reply, type="stock.stock-reserved"):
    shelf: str


class ReserveStock(Command[StockReserved], type="stock.reserve-stock", key="order_id"):
    order_id: str


class ReleaseStock(Command[Undone], type="stock.release-stock", key="order_id"):
    order_id: str


class CardCharged(Reply, type="payments.card-charged"):
    charge: str


class CardDeclined(Rejection, type="payments.card-declined"):
    reason: str


class ChargeCard(
    Command[CardCharged], type="payments.charge-card", key="order_id", rejects=(CardDeclined,)
):
    order_id: str
    cents: int


class RefundCard(Command[Undone], type="payments.refund-card", key="order_id"):
    order_id: str


class Shipped(Reply, type="shipping.shipped"):
    pass


class Ship(Command[Shipped], type="shipping.ship", key="order_id"):
    order_id: str
    shelf: str


class OrderState(BaseModel):
    order_id: str
    cents: int
    shelf: str = ""


class PlaceOrder(Saga[OrderState], name="place-order", step_timeout=timedelta(minutes=2)):
    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id, cents=event.cents)

    @step
    def reserve(self, s: OrderState) -> ReserveStock:
        return ReserveStock(order_id=s.order_id)

    @reserve.reply
    def reserved(self, s: OrderState, reply: StockReserved) -> None:
        s.shelf = reply.shelf

    @reserve.undo
    def release(self, s: OrderState, reply: StockReserved | None) -> ReleaseStock:
        return ReleaseStock(order_id=s.order_id)

    @step
    def charge(self, s: OrderState) -> ChargeCard:
        return ChargeCard(order_id=s.order_id, cents=s.cents)

    @charge.undo
    def refund(self, s: OrderState, reply: CardCharged | None) -> RefundCard:
        return RefundCard(order_id=s.order_id)

    @step(pivot=True, on_unknown="resolve")
    def ship(self, s: OrderState) -> Ship:
        return Ship(order_id=s.order_id, shelf=s.shelf)


@handles(ReserveStock, group="stock")
async def reserve_stock(command: ReserveStock, ctx: Context) -> StockReserved:
    print(f"stock: {command.order_id} reserved")
    return StockReserved(shelf="7b")


@undoes(reserve_stock, ReleaseStock)
async def release_stock(command: ReleaseStock, done: StockReserved, ctx: Context) -> None:
    print(f"stock: {command.order_id} released")


@handles(ChargeCard, group="payments")
async def charge_card(command: ChargeCard, ctx: Context) -> CardCharged:
    if command.cents > 100_000:
        print(f"card: {command.order_id} declined")
        raise Reject(CardDeclined(reason="limit"))
    print(f"card: {command.order_id} charged")
    return CardCharged(charge=f"C-{command.order_id}")


@undoes(charge_card, RefundCard)
async def refund_card(command: RefundCard, done: CardCharged, ctx: Context) -> None:
    print(f"card: {command.order_id} refunded")


@handles(Ship, group="shipping")
async def ship(command: Ship, ctx: Context) -> Shipped:
    print(f"truck: {command.order_id} on its way")
    return Shipped()


bus = EventBus(
    "memory://",
    storage="sqlite://",
    handlers=[PlaceOrder, reserve_stock, release_stock, charge_card, refund_card, ship],
)


async def main() -> None:
    async with bus:
        for order_id, cents in (("A-1", 4200), ("A-2", 4_200_000)):
            await bus.publish(OrderPlaced(order_id=order_id, cents=cents))
            await bus.until_idle()
            (saga,) = await bus.sagas.list(SagaQuery(key=order_id))
            print(f"{order_id} is {saga.status}")
        story = (await bus.sagas.show(saga.saga_id)).journal
        print("what A-2 went through:", ", ".join(each.entry.input_kind for each in story))


if __name__ == "__main__":
    asyncio.run(main())
