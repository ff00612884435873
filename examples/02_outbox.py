"""Your rows and your events in one commit: both are there, or neither. Run it: it prints this.

The event waits in the outbox, a table beside yours, until a relay has brought it to the broker.
What the handler writes commits together with the row of the inbox that says this message was
handled, so an event that comes twice has its effect once.

Prints:
    rolled back: 0 orders, 0 bills
    committed: 1 order, 1 bill
    the same message again: 1 order, 1 bill
"""

# ruff: noqa: D101, D103, N999 - files are numbered for readers, and the header explains them

import asyncio

from eventbus import Context, Event, EventBus, subscribe
from eventbus.memory import MemoryBroker, MemoryTransport


class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    order_id: str
    cents: int


@subscribe(OrderPlaced, group="billing")
async def bill(event: OrderPlaced, ctx: Context) -> None:
    # no guard of our own against a second delivery: the inbox is the guard
    await ctx.sql.execute(
        "INSERT INTO bills (order_id, cents) VALUES ($1, $2)", event.order_id, event.cents
    )


async def place(bus: EventBus, order_id: str, cents: int) -> None:
    async with bus.transaction() as tx:
        await tx.sql.execute("INSERT INTO orders VALUES ($1, $2)", order_id, cents)
        await tx.publish(OrderPlaced(order_id=order_id, cents=cents))
        if cents < 0:
            raise ValueError("no order costs less than nothing")


async def counted(bus: EventBus) -> str:
    await bus.until_idle()
    async with bus.transaction() as tx:
        [row] = await tx.sql.fetch(
            "SELECT (SELECT count(*) FROM orders) AS orders, (SELECT count(*) FROM bills) AS bills"
        )
    return ", ".join(f"{n} {what if n != 1 else what[:-1]}" for what, n in row.items())


async def main() -> None:
    broker = MemoryBroker()
    async with EventBus(MemoryTransport(broker), storage="sqlite://", handlers=[bill]) as bus:
        async with bus.transaction() as tx:
            await tx.sql.execute("CREATE TABLE orders (order_id text PRIMARY KEY, cents bigint)")
            await tx.sql.execute("CREATE TABLE bills (order_id text, cents bigint)")
        try:
            await place(bus, "A-0", -1)
        except ValueError:
            print("rolled back:", await counted(bus))
        await place(bus, "A-1", 4200)
        print("committed:", await counted(bus))
        [message] = broker.published("shop")
        broker.inject("shop", message)  # as a broker does that did not hear of the acknowledgement
        print("the same message again:", await counted(bus))


asyncio.run(main())
