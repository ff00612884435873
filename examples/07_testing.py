"""Tests with the fixtures of the pytest plugin: no broker, no server, no waiting. Run it as it is.

`bus` is the bus under test on memory:// and sqlite://: the real inbox, outbox and parking. What a
handler raises fails the test. `published` is what reached the broker, `clock` the time of the
database. A handler is a plain function: `context_for` makes the context to call it with.

Prints:
    ....                                                                     [100%]
    4 passed in ...
"""

# ruff: noqa: D101, D103, N999, S101, S603 - files are numbered for readers, and the header explains them

import subprocess
import sys
from datetime import timedelta

import pytest

from eventbus import Context, Event, EventBus, subscribe
from eventbus.testing import Clock, Published, context_for


class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    order_id: str
    cents: int


class PaymentRequested(Event, type="billing.payment-requested", key="order_id"):
    order_id: str


class PaymentOverdue(Event, type="billing.payment-overdue", key="order_id"):
    order_id: str


@subscribe(OrderPlaced, group="billing")
async def request_payment(event: OrderPlaced, ctx: Context) -> None:
    if event.cents < 0:
        raise ValueError("no order costs less than nothing")
    await ctx.publish(PaymentRequested(order_id=event.order_id))
    await ctx.publish(PaymentOverdue(order_id=event.order_id), delay=timedelta(days=14))


@pytest.fixture
def eventbus_app() -> EventBus:
    return EventBus("memory://", service="shop", handlers=[request_payment])


async def test_a_placed_order_is_billed(bus: EventBus, published: Published) -> None:
    await bus.publish(OrderPlaced(order_id="A-1", cents=4200))
    await bus.until_idle()
    assert published.one(PaymentRequested).order_id == "A-1"


async def test_after_two_weeks_it_is_overdue(
    bus: EventBus, published: Published, clock: Clock
) -> None:
    await bus.publish(OrderPlaced(order_id="A-1", cents=4200))
    await bus.until_idle()
    published.none(PaymentOverdue)
    await clock.advance(days=14)
    published.in_order(OrderPlaced, PaymentRequested, PaymentOverdue)


@pytest.mark.eventbus(failures="collect")
async def test_what_cannot_be_billed_is_parked(bus: EventBus, published: Published) -> None:
    await bus.publish(OrderPlaced(order_id="A-1", cents=-1))
    await bus.until_idle()
    published.none(PaymentRequested)
    [parked] = await bus.parked.list()
    assert parked["error"] == "no order costs less than nothing"


async def test_the_handler_alone() -> None:
    ctx = context_for(event := OrderPlaced(order_id="A-1", cents=4200))
    await request_payment(event, ctx)
    assert ctx.published == [PaymentRequested(order_id="A-1"), PaymentOverdue(order_id="A-1")]


if __name__ == "__main__":
    sys.exit(subprocess.call([sys.executable, "-m", "pytest", "-q", __file__]))
