"""An event, two groups that handle it, one process, nothing installed. Run it: it prints this.

Each group gets every event. A handler publishes on its context, and what follows is handled too.
A name instead of a class is enough for a first try, and for events of others.

Prints:
    billing: A-1 costs 42.00
    mail: thank you for A-1
    audit: user.created {'user_id': '123'}
"""

# ruff: noqa: D101, D103, N999 - files are numbered for readers, and the header explains them

import asyncio

from eventbus import Context, Event, EventBus, Untyped, subscribe


class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    order_id: str
    cents: int


class OrderBilled(Event, type="billing.order-billed", key="order_id"):
    order_id: str


@subscribe(OrderPlaced, group="billing")
async def bill(event: OrderPlaced, ctx: Context) -> None:
    print(f"billing: {event.order_id} costs {event.cents / 100:.2f}")
    await ctx.publish(OrderBilled(order_id=event.order_id))


@subscribe(OrderBilled, group="mail")
async def thank(event: OrderBilled) -> None:
    print(f"mail: thank you for {event.order_id}")


@subscribe("user.created", group="audit")
async def note(event: Untyped) -> None:
    print(f"audit: {event.type} {event.data}")


async def main() -> None:
    async with EventBus("memory://", handlers=[bill, thank, note]) as bus:
        await bus.publish(OrderPlaced(order_id="A-1", cents=4200))
        await bus.until_idle()
        await bus.publish("user.created", {"user_id": "123"}, key="123")


asyncio.run(main())
