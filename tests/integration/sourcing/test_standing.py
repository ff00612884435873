"""A projection that lags says why, and its gauges say how far."""

import asyncio
from collections.abc import AsyncIterator, Mapping
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


async def test_the_cause_names_who_holds_the_bound(shop: EventBus, revenue: Sum) -> None:
    assert shop.storage is not None
    if not shop.storage.capabilities.concurrent:
        pytest.skip("capability: concurrent")
    opened, go_on = asyncio.Event(), asyncio.Event()
    pids: list[int] = []

    async def slow() -> None:
        async with shop.transaction() as tx:
            (row,) = await tx.sql.fetch("SELECT pg_backend_pid() AS pid")
            pids.append(row["pid"])
            order = Placed(order_id="slow", country="FR", cents=1)
            await tx.append(stream_of("FR"), [order], expected="any", publish=False)
            opened.set()
            await go_on.wait()

    appending = asyncio.create_task(slow(), name="test:slow")
    await opened.wait()
    try:
        await sell(shop, ("UK", 2))
        cause = str((await shop.projections.status(revenue.name)).cause)
        assert f"pid {pids[0]} " in cause
        assert "open for" in cause
    finally:
        go_on.set()
        await appending
    await shop.until_idle()
    assert (await shop.projections.status(revenue.name)).cause is None


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
    await until(lambda: _lags(shop, seconds))
    await shop.projections.rebuild(revenue.name, options=Options(switch=False))
    assert (await _figures(shop))[ratio] == 1
    await shop.projections.resume(revenue.name, actor="test")
    await shop.projections.wait(revenue.name, position, at_most=timedelta(seconds=20))
    assert (await _figures(shop))[events] == 0


async def _is_paused(bus: EventBus, revenue: Sum) -> bool:
    return (await bus.health()).services[f"projection:{revenue.name}"] == "paused"


async def _lags(bus: EventBus, gauge: str) -> bool:
    return (await _figures(bus))[gauge] > 0


async def _figures(bus: EventBus) -> Mapping[str, float]:
    storage: Any = bus.storage
    figures: Mapping[str, float] = await storage.inspection.figures()
    return figures
