"""Broken pipelines that `eventbus crashtest` finds by what it always asks."""

from contextlib import ExitStack

import pytest

from eventbus import Context, Event, EventBus, subscribe
from eventbus.testing.crashtest import crashtest
from tests.faults.mutants_pipeline import MUTANTS


class Placed(Event, type="shop.placed", key="order"):
    order: str


@subscribe(Placed, group="billing")
async def bill(event: Placed, ctx: Context) -> None:
    await ctx.sql.execute("INSERT INTO bills VALUES ($1)", event.order)


async def tables(bus: EventBus) -> None:
    async with bus.transaction() as tx:
        await tx.sql.execute("CREATE TABLE bills (order_id text)")


async def place(bus: EventBus) -> None:
    await bus.publish(Placed(order="A-1"))


BUS = EventBus("memory://", storage="sqlite://", handlers=[bill])


@pytest.mark.parametrize(
    ("mutant", "points", "invariant"),
    [
        ("ack before commit", ["consumer.ack"], "NOTHING_LOST"),
        ("inbox row in its own transaction", ["consumer.commit"], "ATOMIC"),
        ("outbox row deleted before the confirm", ["relay.*"], "NOTHING_LOST"),
    ],
)
async def test_a_broken_pipeline_is_found_and_a_whole_one_is_not(
    mutant: str, points: list[str], invariant: str
) -> None:
    whole = await crashtest(BUS, place, prepare=tables, points=points)
    whole.assert_holds()
    with ExitStack() as patched:
        for patch in MUTANTS[mutant].patches():
            patched.enter_context(patch)
        report = await crashtest(BUS, place, prepare=tables, points=points)
    assert report.failure is not None
    assert [each.invariant for each in report.failure.violations] == [invariant]
