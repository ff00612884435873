"""Right uses: mypy and pyright accept every line; never run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import assert_type

from eventbus import (
    Command,
    Context,
    Event,
    EventBus,
    Group,
    Reply,
    RetryPolicy,
    Undone,
    UnitOfWork,
    Untyped,
    handles,
    subscribe,
    undoes,
)
from eventbus.sourcing import Aggregate, CommandHandler, applies
from eventbus.storage.events import Appended
from eventbus.testing import given


class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    order_id: str
    country: str
    cents: int


class OrderShipped(Event, type="shop.order-shipped", key="order_id"):
    order_id: str


class CardCharged(Reply, type="payments.card-charged"):
    charge_id: str


class RefundCard(Command[Undone], type="payments.refund-card", key="order_id"):
    order_id: str


class ChargeCard(Command[CardCharged], type="payments.charge-card", key="order_id"):
    order_id: str
    cents: int


billing = Group(
    "billing",
    retry=RetryPolicy(
        parked=(timedelta(seconds=5), timedelta(minutes=1)), dead_letter_on=(ValueError,)
    ),
)


@subscribe(OrderPlaced, group=billing)
async def bill(event: OrderPlaced, ctx: Context) -> None:
    await ctx.sql.execute(
        "INSERT INTO bills (order_id, cents) VALUES ($1, $2)", event.order_id, event.cents
    )
    assert_type(await ctx.publish(OrderShipped(order_id=event.order_id)), str)


@subscribe(OrderPlaced, group="mail")
async def mail(event: OrderPlaced) -> None: ...


@subscribe(OrderPlaced, OrderShipped, group="audit")
async def audit(event: OrderPlaced | OrderShipped, ctx: Context) -> None: ...


@subscribe(OrderPlaced, group="stats", batch=True)
async def stats(events: Sequence[OrderPlaced], ctx: Context) -> None: ...


@subscribe(OrderPlaced, group="large", filter=lambda event: event.cents > 10_000)
async def large(event: OrderPlaced) -> None: ...


@subscribe("user.*", group="audit")
async def users(message: Untyped, ctx: Context) -> None: ...


@handles(ChargeCard, group="payments")
async def charge(command: ChargeCard, ctx: Context) -> CardCharged:
    return CardCharged(charge_id="1")


@undoes(charge, RefundCard)
async def refund(command: RefundCard, done: CardCharged, ctx: Context) -> None:
    assert_type(done.charge_id, str)


@undoes(charge, RefundCard)
async def refund_what_is_unknown(
    command: RefundCard, done: CardCharged | None, ctx: Context
) -> None: ...


class Mailer:
    @subscribe(OrderShipped, group="mail")
    async def shipped(self, event: OrderShipped, ctx: Context) -> None: ...
    @subscribe(OrderShipped, group="mail")
    def shipped_too(self, event: OrderShipped) -> None: ...


@subscribe(OrderShipped, group="sync")
def plain(event: OrderShipped) -> None: ...


handlers = [bill, mail, audit, stats, large, users, charge, refund, Mailer()]
bus = EventBus("memory://", storage="sqlite://", handlers=handlers)


async def main(session: object) -> None:
    async with bus.client(), bus.transaction(session) as tx:
        assert_type(tx, UnitOfWork)
        await tx.publish(OrderShipped(order_id="A-1"))
        await tx.publish(OrderShipped(order_id="A-1"), delay=timedelta(minutes=5))
        await tx.send(ChargeCard(order_id="A-1", cents=1))
        await tx.publish("user.created", {"user_id": "1"}, key="1")
    async with bus as entered:
        assert_type(entered, EventBus)
        await entered.publish("user.created", {"user_id": "1"}, key="1")
        await entered.until_idle(at_most=timedelta(seconds=5))


class Order(Aggregate, stream="order"):
    placed = False

    def place(self, country: str, cents: int) -> None:
        self.emit(OrderPlaced(order_id="A-1", country=country, cents=cents))

    @applies(OrderPlaced)
    def on_placed(self, event: OrderPlaced) -> None:
        self.placed = True


@dataclass(frozen=True)
class PlaceOrder:
    order_id: str


class OrderDecider:
    def initial(self) -> bool:
        return False

    def decide(self, command: PlaceOrder, state: bool) -> Sequence[Event]:
        return [OrderPlaced(order_id=command.order_id, country="UK", cents=1)]

    def evolve(self, state: bool, event: Event) -> bool:
        return True


place_order = CommandHandler(OrderDecider(), stream=lambda c: f"order-{c.order_id}")


async def sourcing(tx: UnitOfWork, app: EventBus) -> None:
    order = await Order.load("A-1", tx)
    assert_type(order, Order)
    order.place("UK", 4200)
    assert_type(await order.save(tx), Appended | None)
    assert_type(await place_order(PlaceOrder("A-2"), tx), Sequence[Event])
    async for one in app.events.subscribe():
        assert_type(one.event, Event)
    given(OrderDecider()).when(PlaceOrder("A-1")).then(OrderShipped(order_id="A-1"))
    given(Order).when(lambda order: order.place("UK", 1)).then_nothing()
