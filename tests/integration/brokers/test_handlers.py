"""Handlers that raise for ever, or hang: rows 29, 33 and 36 of the matrix."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from eventbus import Context, Event, EventBus, Group, RetryPolicy, subscribe
from tests.integration.brokers.conftest import Broker
from tests.integration.brokers.waiting import letters_of, until

SOON = RetryPolicy(in_place=0, parked=(timedelta(milliseconds=20), timedelta(milliseconds=20)))


class Placed(Event):
    order: str
    number: int


def placed(topic: str) -> type[Placed]:
    """The event on a topic of this test."""

    class OnTopic(Placed, type="shop.placed", key="order", topic=topic):
        pass

    return OnTopic


Handler = Callable[[Placed, Context], Awaitable[None]]


def a_bus(broker: Broker, event: type[Placed], group: Group, handle: Handler) -> EventBus:
    subscribed = subscribe(event, group=group)(handle)
    return EventBus(broker.url, storage="sqlite://", handlers=[subscribed], service="shop")


async def test_a_poison_message_stops_its_key_alone_and_redriven_lets_it_go_on_in_order(
    broker: Broker,
) -> None:
    """Row 33; row 29 too: what comes behind it in its key never overtakes it."""
    event, done, is_mended = placed(broker.topic), dict[str, list[int]](), False

    async def handle(event: Placed, ctx: Context) -> None:
        if event.order == "bad" and event.number == 1 and not is_mended:
            raise ValueError("card refused")
        done.setdefault(event.order, []).append(event.number)

    async with a_bus(broker, event, Group(broker.group, retry=SOON), handle) as bus:
        for number in range(5):
            for order in ("bad", "good"):
                await bus.publish(event(order=order, number=number))
        await until(lambda: done.get("good") == list(range(5)))
        [letter] = await letters_of(bus, 1)
        assert letter["attempts"] == 3
        assert "card refused" in str(letter)
        assert done["bad"] == [0]
        is_mended = True
        await bus.dead_letters.change("redrive", actor="tests", ids=[letter["id"]])
        await until(lambda: len(done["bad"]) == 5)
    assert done["bad"] == list(range(5))


async def test_a_handler_that_hangs_is_ended_counted_and_tried_again(broker: Broker) -> None:
    """Row 36."""
    event, attempts, was_cancelled = placed(broker.topic), list[int](), False

    async def handle(event: Placed, ctx: Context) -> None:
        nonlocal was_cancelled
        attempts.append(ctx.attempt)
        if ctx.attempt == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                was_cancelled = True
                raise

    group = Group(broker.group, retry=SOON, timeout=timedelta(milliseconds=200))
    async with a_bus(broker, event, group, handle) as bus:
        await bus.publish(event(order="A", number=0))
        await until(lambda: len(attempts) == 2)
        await bus.until_idle(at_most=timedelta(seconds=30))
        assert await bus.dead_letters.list(limit=10) == []
    assert attempts == [1, 2]
    assert was_cancelled
