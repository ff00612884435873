"""An order that is its events: decided, recorded, published, folded again. Run it: it prints this.

A decider is three pure functions. `CommandHandler` loads the stream, decides, appends and publishes
in the transaction you hold. An aggregate is the same thing as a class.

Prints:
    placed: ['OrderPlaced']
    placed twice: []
    shipped before it was paid: A-1 is not paid
    handled: A-1 is paid with 4200 cents
    shipped: ['OrderShipped']
    the stream: order-placed@1 order-paid@2 order-shipped@3
    the same ids at the broker: True
    the aggregate: version 3, 4200 cents, shipped True
    followed from the start: 3 events, in order: True
"""

# ruff: noqa: D101, D102, D103, N999 - files are numbered for readers, and the header explains them

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from eventbus import Context, Event, EventBus, subscribe
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.sourcing import Aggregate, CommandHandler, applies


class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    order_id: str
    cents: int


class OrderPaid(Event, type="shop.order-paid", key="order_id"):
    order_id: str


class OrderShipped(Event, type="shop.order-shipped", key="order_id"):
    order_id: str


@dataclass(frozen=True)
class Place:
    order_id: str
    cents: int


@dataclass(frozen=True)
class Pay:
    order_id: str


@dataclass(frozen=True)
class Ship:
    order_id: str


@dataclass(frozen=True)
class State:
    placed: bool = False
    paid: bool = False


class Refused(Exception):  # noqa: N818 - a refusal, no failure
    pass


class OrderDecider:
    def initial(self) -> State:
        return State()

    def decide(self, command: Place | Pay | Ship, state: State) -> Sequence[Event]:
        match command:
            case Place(order_id, cents):
                return [] if state.placed else [OrderPlaced(order_id=order_id, cents=cents)]
            case Pay(order_id):
                return [OrderPaid(order_id=order_id)]
            case Ship(order_id):
                if not state.paid:
                    raise Refused(f"{order_id} is not paid")
                return [OrderShipped(order_id=order_id)]

    def evolve(self, state: State, event: Event) -> State:
        match event:
            case OrderPlaced():
                return replace(state, placed=True)
            case OrderPaid():
                return replace(state, paid=True)
            case _:
                return state


tell_order = CommandHandler(OrderDecider(), stream=lambda command: f"order-{command.order_id}")


class Order(Aggregate, stream="order"):
    cents = 0
    shipped = False

    @applies(OrderPlaced)
    def _placed(self, event: OrderPlaced) -> None:
        self.cents = event.cents

    @applies(OrderShipped)
    def _shipped(self, event: OrderShipped) -> None:
        self.shipped = True


@subscribe(OrderPlaced, group="payments")
async def charge(event: OrderPlaced, ctx: Context) -> None:
    await tell_order(Pay(event.order_id), ctx)  # in the transaction of the inbox row: once
    print(f"handled: {event.order_id} is paid with {event.cents} cents")


def names(events: Sequence[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


async def main() -> None:
    broker = MemoryBroker()
    # the bus reads what its handlers and aggregates name, and every event class handed over
    known = [charge, Order, OrderPaid]
    async with EventBus(MemoryTransport(broker), storage="sqlite://", handlers=known) as bus:
        async with bus.transaction() as tx:
            print("placed:", names(await tell_order(Place("A-1", 4200), tx)))
            print("placed twice:", names(await tell_order(Place("A-1", 9999), tx)))
            try:
                await tell_order(Ship("A-1"), tx)
            except Refused as refused:
                print("shipped before it was paid:", refused)
        await bus.until_idle()
        async with bus.transaction() as tx:
            print("shipped:", names(await tell_order(Ship("A-1"), tx)))
        await bus.until_idle()

        stream = [one.recorded for one in await bus.events.read("order-A-1")]
        shown = [f"{one.message.type.partition('.')[2]}@{one.version}" for one in stream]
        print("the stream:", *shown)
        published = [message.id for message in broker.published("shop")]
        print("the same ids at the broker:", published == [one.message.id for one in stream])

        async with bus.transaction() as tx:
            order = await Order.load("A-1", tx)
        print(
            f"the aggregate: version {order.version}, {order.cents} cents, shipped {order.shipped}"
        )

        seen: list[int] = []
        async with aclosing(bus.events.subscribe()) as events:  # catches up, then waits for more
            async for one in events:
                seen.append(one.recorded.position)
                if len(seen) == len(stream):
                    break
        print("followed from the start:", len(seen), "events, in order:", seen == sorted(seen))


asyncio.run(main())
