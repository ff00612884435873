"""The fixtures of the plugin, and the tools behind them, on a small application."""

from datetime import timedelta

import pytest

from eventbus import EventBus
from eventbus.errors import NoTransactionError
from eventbus.testing import Clock, Published, context_for
from tests.unit.testing import shop
from tests.unit.testing.shop import OrderPlaced, OrderRefused, PaymentRequested


@pytest.fixture
def eventbus_app() -> EventBus:
    return shop.bus


async def test_what_a_handler_published_is_found_by_its_class(
    bus: EventBus, published: Published
) -> None:
    await bus.publish(OrderPlaced(order_id="A-1"))
    await bus.until_idle()
    assert published.one(PaymentRequested) == PaymentRequested(order_id="A-1")
    assert published.all(OrderPlaced) == [OrderPlaced(order_id="A-1")]
    assert published.one("billing.payment-requested").data == {"order_id": "A-1"}
    published.none(OrderRefused)
    published.in_order(OrderPlaced, PaymentRequested)
    published.in_order(OrderPlaced(order_id="A-1"), PaymentRequested)


async def test_a_wrong_expectation_lists_what_was_published(
    bus: EventBus, published: Published
) -> None:
    await bus.publish(OrderPlaced(order_id="A-1"))
    await bus.until_idle()
    with pytest.raises(AssertionError, match=r"0 of OrderRefused.*\n.*\n.*shop.order-placed A-1"):
        published.one(OrderRefused)
    with pytest.raises(AssertionError, match="1 of OrderPlaced, not none"):
        published.none(OrderPlaced)
    with pytest.raises(AssertionError, match=r"\+ OrderPlaced\n  PaymentRequested\n- OrderPlaced"):
        published.in_order(PaymentRequested, OrderPlaced)


@pytest.mark.eventbus(failures="collect")
async def test_retries_come_when_the_clock_has_passed_their_time(
    bus: EventBus, clock: Clock
) -> None:
    await bus.publish(OrderPlaced(order_id="A-1", cents=-1))
    await bus.until_idle()
    assert [row["attempts"] for row in await bus.parked.list()] == [1]
    await clock.advance(seconds=1)
    assert [row["attempts"] for row in await bus.parked.list()] == [1]
    await clock.advance(seconds=6)
    assert [row["attempts"] for row in await bus.parked.list()] == [2]
    await clock.advance(days=3)
    assert not await bus.parked.list()
    assert [row["attempts"] for row in await bus.dead_letters.list()] == [5]


async def test_a_delayed_event_waits_for_the_clock(
    bus: EventBus, clock: Clock, published: Published
) -> None:
    await bus.publish(OrderPlaced(order_id="A-1"), delay=timedelta(hours=1))
    await clock.advance(minutes=59)
    published.none(OrderPlaced)
    await clock.advance(minutes=2)
    published.one(PaymentRequested)


async def test_the_clock_does_not_go_back(clock: Clock) -> None:
    with pytest.raises(ValueError, match="back"):
        await clock.advance(seconds=-1)


async def test_a_handler_is_a_plain_function_of_event_and_context() -> None:
    event = OrderPlaced(order_id="A-1")
    ctx = context_for(event, attempt=3, headers={"tenant": "t1"})
    await shop.request_payment(event, ctx)
    assert ctx.published == [PaymentRequested(order_id="A-1")]
    assert ctx.sent == []
    assert ctx.attempt == 3
    assert ctx.message.key == "t1/A-1"
    assert ctx.idempotency_key == f"test:{ctx.message.identity}"
    with pytest.raises(NoTransactionError):
        _ = ctx.sql


async def test_a_context_within_a_unit_of_work_uses_its_transaction(
    bus: EventBus, published: Published
) -> None:
    event = OrderPlaced(order_id="A-1")
    async with bus.transaction() as tx:
        ctx = context_for(event, within=tx)
        assert await ctx.sql.fetch("SELECT $1 AS one", 1) == [{"one": 1}]
        await shop.request_payment(event, ctx)
    await bus.until_idle()
    assert ctx.published == published.all(PaymentRequested)
