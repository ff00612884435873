"""A projection that lags says why, and its gauges say how far."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from eventbus import EventBus
from eventbus.sourcing.rebuild import Options
from tests.integration.sourcing.read_models import Sum, sell, stream_of, until
from tests.unit.sourcing.declarations import Placed


@pytest.fixture
def revenue() -> Sum:
    return Sum()


@pytest.fixture
async def shop(url: str, revenue: Sum) -> AsyncIterator[EventBus]:
    bus = EventBus("memory://", storage=url, handlers=[revenue.projection()])
    await bus.upgrade()
    async with bus:
        await sell(bus, ("UK", 1))
        await bus.until_idle()
        yield bus


async def test_the_cause_names_the_event_that_fails(shop: EventBus, revenue: Sum) -> None:
    revenue.refused = {13}
    await sell(shop, ("UK", 13), ("UK", 2))
    await shop.until_idle()
    cause = str((await shop.projections.status(revenue.name)).cause)
    assert "1 sequences wait: row:UK" in cause
    assert f"{stream_of('UK')}@2 failed: ValueError: an order of 13" in cause


async def test_what_never_ran_lags_by_the_whole_log(url: str, revenue: Sum) -> None:
    bus = EventBus("memory://", storage=url, handlers=[revenue.projection()])
    await bus.upgrade()
    async with bus.client():
        empty = await bus.projections.status(revenue.name)
        assert (empty.version, empty.lag_events) == (None, 0)
        position = await sell(bus, ("UK", 1), ("FR", 2))
        found = await bus.projections.status(revenue.name)
        assert (found.version, found.lag_events) == (None, position)
        assert found.cause == "it never ran on this database"


@asynccontextmanager
async def kept_open(bus: EventBus, *, append: bool) -> AsyncIterator[int]:
    """A transaction of another task; the pid of its connection."""
    assert bus.storage is not None
    if not bus.storage.capabilities.concurrent:
        pytest.skip("capability: concurrent")
    opened, go_on = asyncio.get_running_loop().create_future(), asyncio.Event()

    async def idle() -> None:
        async with bus.transaction() as tx:
            (row,) = await tx.sql.fetch(
                "SELECT pg_backend_pid() AS pid, pg_current_xact_id()::text AS id"
            )
            if append:
                order = Placed(order_id="slow", country="FR", cents=1)
                await tx.append(stream_of("FR"), [order], expected="any", publish=False)
            opened.set_result(row["pid"])
            await go_on.wait()

    idling = asyncio.create_task(idle(), name="test:idle")
    try:
        yield await opened
    finally:
        go_on.set()
        await idling


async def test_an_append_that_stays_open_is_told_and_nothing_is_skipped(
    shop: EventBus, revenue: Sum
) -> None:
    """Row 53: whoever follows the log waits for it, and goes on by itself."""
    async with kept_open(shop, append=True) as pid:
        await sell(shop, ("UK", 2))
        held = (await _figures(shop))["log_held_seconds"]
        assert held > 0
        await until(lambda: _exceeds(shop, "log_held_seconds", held))
        cause = str((await shop.projections.status(revenue.name)).cause)
        assert f"pid {pid} " in cause
        assert "open for" in cause
        assert await revenue.rows(shop) == {"UK": (1, 1)}
    await shop.until_idle()
    assert await revenue.rows(shop) == {"UK": (2, 3), "FR": (1, 1)}
    assert (await shop.projections.status(revenue.name)).cause is None
    assert (await _figures(shop))["log_held_seconds"] == 0


async def test_a_transaction_that_stays_open_and_appends_nothing_holds_nobody(
    shop: EventBus, revenue: Sum
) -> None:
    """Row 53: other logs wait for every older transaction."""
    async with kept_open(shop, append=False):
        position = await sell(shop, ("UK", 2))
        await shop.projections.wait(revenue.name, position, at_most=timedelta(seconds=30))
        assert (await _figures(shop))["log_held_seconds"] == 0


async def test_gauges_tell_the_lag_and_how_far_a_rebuild_is(shop: EventBus, revenue: Sum) -> None:
    events = f"projection_lag_events{{{revenue.name}}}"
    seconds = f"projection_lag_seconds{{{revenue.name}}}"
    ratio = f"projection_rebuild_progress_ratio{{{revenue.name}}}"
    figures = await _figures(shop)
    assert (figures[events], figures[seconds]) == (0, 0)
    assert ratio not in figures
    await shop.projections.pause(revenue.name, actor="test")
    await until(lambda: _is_paused(shop, revenue))
    position = await sell(shop, ("UK", 2), ("UK", 3))
    figures = await _figures(shop)
    assert figures[events] >= 2
    assert figures[seconds] >= 0
    await until(lambda: _exceeds(shop, seconds, 0))
    await shop.projections.rebuild(revenue.name, options=Options(switch=False))
    assert (await _figures(shop))[ratio] == 1
    await shop.projections.resume(revenue.name, actor="test")
    await shop.projections.wait(revenue.name, position, at_most=timedelta(seconds=20))
    assert (await _figures(shop))[events] == 0


async def _is_paused(bus: EventBus, revenue: Sum) -> bool:
    return (await bus.health()).services[f"projection:{revenue.name}"] == "paused"


async def _exceeds(bus: EventBus, gauge: str, figure: float) -> bool:
    return (await _figures(bus))[gauge] > figure


async def _figures(bus: EventBus) -> Mapping[str, float]:
    storage: Any = bus.storage
    figures: Mapping[str, float] = await storage.inspection.figures()
    return figures
