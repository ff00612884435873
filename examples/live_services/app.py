"""A service: an order is billed, and the customer is thanked."""

from eventbus import Context, Event, EventBus, subscribe

TABLES = (
    "CREATE TABLE bills (order_id text PRIMARY KEY, cents bigint NOT NULL)",
    "CREATE TABLE thanks (order_id text PRIMARY KEY)",
)


class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    """Published by the shop."""

    order_id: str
    cents: int


class OrderBilled(Event, type="billing.order-billed", key="order_id"):
    """Published together with the bill."""

    order_id: str


@subscribe(OrderPlaced, group="billing")
async def bill(event: OrderPlaced, ctx: Context) -> None:
    """Bill and event in one transaction: a second bill of an order would break the primary key."""
    if event.cents < 0:
        raise ValueError("no order costs less than nothing")
    await ctx.sql.execute("INSERT INTO bills VALUES ($1, $2)", event.order_id, event.cents)
    await ctx.publish(OrderBilled(order_id=event.order_id))


@subscribe(OrderBilled, group="mail")
async def thank(event: OrderBilled, ctx: Context) -> None:
    """Exactly once too."""
    await ctx.sql.execute("INSERT INTO thanks VALUES ($1)", event.order_id)


bus = EventBus("memory://", storage="sqlite://", service="shop", handlers=[bill, thank])
