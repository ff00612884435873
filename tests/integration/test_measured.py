"""What a bus reports of itself: how long things take, what has no answer, what waits."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from eventbus import Context, Event, EventBus, subscribe
from eventbus.errors import ConcurrencyError, PublishError, Rejected
from eventbus.memory import MemoryTransport
from eventbus.message import Message
from eventbus.service import pause
from tests.integration.figures import Figures


class Sold(Event, type="measured.sold", key="sku"):
    sku: str


@subscribe(Sold, group="billing")
async def bill(event: Sold, ctx: Context) -> None:
    pass


BILLING = (("group", "billing"),)
TO_BROKER = (("transport", "memory"),)


@pytest.fixture
def figures() -> Figures:
    return Figures()


@pytest.mark.parametrize("storage", [None, "sqlite://"])
async def test_handing_messages_to_the_broker_is_timed(
    storage: str | None, figures: Figures
) -> None:
    bus = EventBus("memory://", storage=storage, handlers=[bill], instrumentation=figures)
    async with bus:
        await bus.publish(Sold(sku="a"))
        await bus.until_idle()
    (taken,) = figures.times("publish_duration_seconds")[TO_BROKER]
    assert taken > 0


async def test_a_call_that_the_broker_refuses_took_its_time_as_well(figures: Figures) -> None:
    async with EventBus(Refusing(), service="shop", instrumentation=figures) as bus:
        with pytest.raises(PublishError):
            await bus.publish(Sold(sku="a"))
    assert [len(taken) for taken in figures.times("publish_duration_seconds").values()] == [1]


class Refusing(MemoryTransport):
    """A broker that refuses whatever comes."""

    async def publish(self, messages: Sequence[Message], *, again: bool = False) -> None:
        results = [Rejected("no")] * len(messages)
        raise PublishError("EB2101", "no", results=results, where="a test", why="no", next="no")


@pytest.mark.parametrize("storage", [None, "sqlite://"])
async def test_the_way_of_a_message_to_its_verdict_is_timed(
    storage: str | None, figures: Figures
) -> None:
    bus = EventBus("memory://", storage=storage, handlers=[bill], instrumentation=figures)
    async with bus:
        await bus.publish(Sold(sku="a"))
        await bus.until_idle()
    (latency,) = figures.times("delivery_latency_seconds")[BILLING]
    assert 0 <= latency < timedelta(minutes=2).total_seconds()


async def test_appends_are_timed_alone_and_in_a_unit_of_work(figures: Figures) -> None:
    async with EventBus("memory://", storage="sqlite://", instrumentation=figures) as bus:
        await bus.events.append("order-A", [Sold(sku="a"), Sold(sku="b")], expected="absent")
        async with bus.transaction() as tx:
            await tx.append("order-B", [Sold(sku="a")], expected="absent")
            with pytest.raises(ConcurrencyError):
                await tx.append("order-B", [Sold(sku="a")], expected="absent")
    taken = figures.times("append_duration_seconds")[()]
    assert len(taken) == 2
    assert min(taken) > 0


async def test_a_bus_that_consumes_reports_its_groups_at_once(figures: Figures) -> None:
    lag = "consumer_lag_messages", (("topic", "measured"), *BILLING)
    async with asyncio.timeout(60), EventBus("memory://", handlers=[bill], instrumentation=figures):
        while lag not in figures.gauges:
            await pause(asyncio.Event(), 0.001)
    assert figures.gauges[lag] == 0
    assert figures.gauges["circuit_state", BILLING] == 0
