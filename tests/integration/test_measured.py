"""What a bus reports of itself: how long things take, what has no answer, what waits."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from eventbus import (
    Context,
    Event,
    EventBus,
    Group,
    RetryPolicy,
    subscribe,
)
from eventbus.errors import (
    CommitUnknownError,
    ConcurrencyError,
    PublishError,
    PublishUnknownError,
    Rejected,
)
from eventbus.memory import MemoryTransport
from eventbus.message import Message
from eventbus.service import pause
from eventbus.sourcing import FoldingProjection, ReadModel, projects
from eventbus.sqlite import SqliteStorage
from eventbus.testing.faults import FaultPlan, FaultyStorage, FaultyTransport, Hang, LoseReply
from tests.integration.figures import Figures, Labels


class Sold(Event, type="measured.sold", key="sku"):
    sku: str


class Sales(ReadModel, table="measured_sales", key="sku"):
    sku: str
    count: int = 0


class Counting(FoldingProjection[Sales], name="measured-sales"):
    @projects(Sold, key=lambda event: event.sku)
    def sold(self, row: Sales, event: Sold) -> Sales:
        return row.model_copy(update={"count": row.count + 1})


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


AT_ONCE = RetryPolicy(in_place=0, parked=(timedelta(milliseconds=1),))
REPEATED = [
    ("relay:publish", "publish"),
    ("relay:commit+outbox.settle", "relay"),
    ("consumer:commit+inbox.receive", "batch"),
    ("projection:commit+checkpoints.save", "projection"),
    ("redelivery:commit+parking.settle", "redelivery"),
]


@pytest.mark.parametrize(("call", "operation"), REPEATED)
async def test_what_has_no_answer_and_is_done_again_is_counted(
    call: str, operation: str, figures: Figures
) -> None:
    failures = [ConnectionError("the first time")] if operation == "redelivery" else []

    @subscribe(Sold, group=Group("billing", retry=AT_ONCE))
    async def charge(event: Sold, ctx: Context) -> None:
        if failures:
            raise failures.pop()

    bus, plan = faulty(call, figures, charge, Counting)
    async with asyncio.timeout(60), bus:
        await bus.events.append("order-A", [Sold(sku="a")], expected="absent")
        await bus.until_idle()
        while not plan.hits:
            await pause(asyncio.Event(), 0.001)
        await bus.until_idle()
    assert figures.of("unknown_outcomes_total") == unknown(operation, "repeated")


@pytest.mark.parametrize("operation", ["outbox", "transaction", "append", "publish"])
async def test_what_has_no_answer_and_is_told_to_the_caller_is_counted(
    operation: str, figures: Figures
) -> None:
    call = {"outbox": "publish:commit", "transaction": "*:commit+outbox.add"}.get(operation)
    bus, _ = faulty(call or f"*:{operation}", figures, stored=operation != "publish")
    async with bus.client():
        with pytest.raises((CommitUnknownError, PublishUnknownError)):
            if operation == "append":
                await bus.events.append("order-A", [Sold(sku="a")], expected="absent")
            elif operation == "transaction":
                async with bus.transaction() as tx:
                    await tx.publish(Sold(sku="a"))
            else:
                await bus.publish(Sold(sku="a"))
    assert figures.of("unknown_outcomes_total") == unknown(operation, "raised")


async def test_calls_that_shared_a_commit_without_an_answer_are_counted_once(
    figures: Figures,
) -> None:
    bus, _ = faulty("publish:commit", figures)
    async with bus.client():
        await asyncio.gather(bus.publish(Sold(sku="a")), bus.publish(Sold(sku="b")))
    assert figures.of("unknown_outcomes_total") == unknown("outbox", "repeated")


def faulty(
    call: str, figures: Figures, *handlers: Any, stored: bool = True
) -> tuple[EventBus, FaultPlan]:
    """A bus whose first such call gets no answer."""
    fault = Hang(seconds=0) if call == "*:append" else LoseReply()
    plan = FaultPlan().add(call, 1, fault)
    transport = FaultyTransport(MemoryTransport(), plan)
    storage = FaultyStorage(SqliteStorage(), plan) if stored else None
    return EventBus(
        transport, storage=storage, handlers=handlers, service="shop", instrumentation=figures
    ), plan


def unknown(operation: str, outcome: str) -> dict[Labels, int]:
    return {(("operation", operation), ("outcome", outcome)): 1}
