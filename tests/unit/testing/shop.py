"""A small application under test."""

from eventbus import Context, Event, EventBus, Group, RetryPolicy, subscribe


class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    order_id: str
    cents: int = 100


class PaymentRequested(Event, type="billing.payment-requested", key="order_id"):
    order_id: str


class OrderRefused(Event, type="shop.order-refused", key="order_id"):
    order_id: str


BILLING = Group("billing", retry=RetryPolicy(in_place=0))


@subscribe(OrderPlaced, group=BILLING)
async def request_payment(event: OrderPlaced, ctx: Context) -> None:
    if event.cents < 0:
        raise ValueError("nobody pays less than nothing")
    await ctx.publish(PaymentRequested(order_id=event.order_id))


bus = EventBus("memory://", handlers=[request_payment], service="shop")
